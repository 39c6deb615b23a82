package oauth

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
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
	credentials []string // all spellings of the credential in it, for the scrubber
}

// newRequest builds the POST of RFC 6749 §4.4.2. The endpoint was checked.
func newRequest(ctx context.Context, endpoint *url.URL, req broker.TokenRequest) (*request, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	for name, value := range req.Parameters {
		if broker.ReservedParameter(name) { // checked when saved; a record written by hand was not
			return nil, broker.Invalid("parameters", "%q is a parameter that the broker sends itself or that carries a credential", name)
		}
		form.Set(name, value)
	}
	if len(req.Scopes) > 0 {
		form.Set("scope", strings.Join(req.Scopes, " "))
	}
	if req.Audience != "" {
		form.Set("audience", req.Audience)
	}
	if len(req.Resources) > 0 {
		form["resource"] = slices.Clone(req.Resources) // repeats: RFC 8707 §2
	}
	return post(ctx, endpoint, form, req)
}

// post builds a POST of form with the client authentication that req says.
func post(ctx context.Context, endpoint *url.URL, form url.Values, req broker.TokenRequest) (*request, error) {
	header := http.Header{
		"Accept":       {"application/json"}, // some answer in form encoding without it
		"Content-Type": {"application/x-www-form-urlencoded"},
		"User-Agent":   {userAgent},
	}
	credentials, err := authenticate(form, header, req)
	if err != nil {
		return nil, err
	}
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, refusedEndpoint("the token endpoint is not a URL")
	}
	out.Header = header
	return &request{Request: out, basic: strings.HasPrefix(header.Get("Authorization"), "Basic "), credentials: credentials}, nil
}

// unusable returns a SECRET_UNUSABLE error; the text must not quote the secret.
func unusable(format string, args ...any) *broker.Error {
	return &broker.Error{Reason: broker.ReasonSecretUnusable, Op: op, Detail: fmt.Sprintf(format, args...)}
}
