package oauth

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// userAgent says who asks; the number is that of the protocol behaviour, which a
// server's operator may want to tell apart, not the release's.
const userAgent = "tokenbroker/1"

// request is a request ready to be sent.
type request struct {
	*http.Request
	op          string   // what it is part of, for errors; "" is that of a token request
	basic       bool     // it carries HTTP Basic credentials
	credentials []string // all spellings of the credentials in it, for the scrubber
	dialect     dialect  // how it is spelled and its answer read
}

// newRequest builds a token request: the grant, what is asked for, and the client's
// authentication, spelled as the server wants it. The endpoint was checked.
func newRequest(ctx context.Context, endpoint *url.URL, req broker.TokenRequest, d dialect) (*request, error) {
	form, secrets, err := present(req, d)
	if err != nil {
		return nil, err
	}
	for name, value := range req.Parameters {
		if broker.ReservedParameter(name) || d.reserves(name) || form.Has(name) { // checked when saved; a record written by hand was not
			return nil, broker.Invalid("parameters", "%q is a parameter that the broker sends itself or that carries a credential", name)
		}
		form.Set(name, value)
	}
	d.target(form, req)
	return send(ctx, endpoint, form, req, d, secrets)
}

// post builds a POST of form with the client authentication that req says, as the
// standards have it.
func post(ctx context.Context, endpoint *url.URL, form url.Values, req broker.TokenRequest) (*request, error) {
	return send(ctx, endpoint, form, req, dialect{}, nil)
}

// send builds a request of form in a dialect, with the client authentication that req
// says. The secrets are those of form that the answer must not show.
func send(ctx context.Context, endpoint *url.URL, form url.Values, req broker.TokenRequest, d dialect, secrets []string) (*request, error) {
	header := d.header()
	d.override(form, req.Parameters)
	if d.unauthenticated(req.Authentication) {
		if err := setProof(header, req); err != nil {
			return nil, err
		}
	} else {
		credentials, err := authenticate(form, header, req, d.assertionLifetime())
		if err != nil {
			return nil, err
		}
		secrets = append(credentials, secrets...)
	}
	form, err := d.spell(form)
	if err != nil {
		return nil, err
	}
	out, err := d.encode(ctx, endpoint, form, header)
	if err != nil {
		return nil, err
	}
	return &request{Request: out, basic: strings.HasPrefix(header.Get("Authorization"), "Basic "), credentials: secrets, dialect: d}, nil
}

// unusable returns a SECRET_UNUSABLE error; the text must not quote the secret.
func unusable(format string, args ...any) *broker.Error {
	return &broker.Error{Reason: broker.ReasonSecretUnusable, Op: op, Detail: fmt.Sprintf(format, args...)}
}
