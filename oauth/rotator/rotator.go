// Package rotator changes client secrets at providers that have an HTTP API for it:
// each is a [broker.Rotator].
//
// It guards three invariants. A call makes at most one request that makes or ends a
// secret, so that there is one answer at most that can be lost. What was made is
// returned whatever else in an answer is odd: a secret that the provider already
// counts on is not thrown away for a malformed date. And nothing of an answer reaches
// an error but scrubbed words of its error members.
//
// Connections, bound destinations and what is refused are package oauth's; when to
// call what, retries and journals are broker's. Each file names the provider's
// documents and what of them could not be tried.
package rotator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// New returns the rotators by the name that RotationSettings.Rotator has. They share
// client, which stays the caller's to close, and are safe for concurrent use.
func New(client *oauth.Client) map[string]broker.Rotator {
	return map[string]broker.Rotator{
		"rfc7592":  rfc7592{client},
		"keycloak": keycloak{client},
		"entra":    entra{client},
		"okta":     okta{client},
		"auth0":    auth0{client},
	}
}

// What the calls are named in errors.
const (
	opCreate  = "make a secret at the provider"
	opRecover = "look for a secret at the provider"
	opRevoke  = "revoke a secret at the provider"
)

// session is one call of a rotator: its requests share authorization and secrets.
type session struct {
	client *oauth.Client
	op     string
	call   broker.RotatorCall
	scheme string // of the Authorization header; "" for Bearer
	token  secret.Value
}

// manage begins a call that carries a management token.
func manage(client *oauth.Client, op string, call broker.RotatorCall) *session {
	return &session{client: client, op: op, call: call, token: call.Management}
}

// checkSecretClient refuses clients that have no secret to change.
func (s *session) checkSecretClient() error {
	if s.call.Authentication.Method == broker.PrivateKeyJWT {
		return s.unsent(broker.ReasonRotatorRefused, "the client authenticates by private_key_jwt, and this rotator changes client secrets")
	}
	return nil
}

// under returns a URL below the endpoint. The segments are escaped; query, which may
// be "", is not.
func (s *session) under(query string, segments ...string) (string, error) {
	endpoint := s.call.Settings.Endpoint
	if strings.ContainsAny(endpoint, "?#") {
		return "", s.unsent(broker.ReasonRotatorRefused, "rotation.endpoint has a query or a fragment")
	}
	var b strings.Builder
	b.WriteString(strings.TrimRight(endpoint, "/"))
	for _, segment := range segments {
		if segment == "" || segment == "." || segment == ".." { // servers resolve them
			return "", s.unsent(broker.ReasonRotatorRefused, "%q cannot stand in a path of the management API", segment)
		}
		b.WriteString("/" + url.PathEscape(segment))
	}
	if query != "" {
		b.WriteString("?" + query)
	}
	return b.String(), nil
}

// send makes one request. body is encoded as JSON, nil sends none.
func (s *session) send(ctx context.Context, method, target string, body any) (reply, error) {
	var encoded secret.Value
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return reply{}, s.unsent(broker.ReasonInternal, "the request could not be encoded")
		}
		encoded = secret.New(text)
		clear(text)
	}
	answer, err := s.client.Manage(ctx, oauth.ManagementRequest{
		Op: s.op, Method: method, URL: target, Destinations: s.call.Destinations,
		Scheme: s.scheme, Token: s.token, Body: encoded,
		Secrets: []secret.Value{s.call.Management, s.call.Registration, s.call.Current, s.call.New},
	})
	if err != nil {
		return reply{}, err
	}
	return read(answer, s.op), nil
}

// ask makes a request that changes nothing. As nothing was changed, errors of it are
// marked as those of a request that was never sent.
func (s *session) ask(ctx context.Context, target string) (reply, error) {
	got, err := s.send(ctx, http.MethodGet, target, nil)
	return got, harmless(err)
}

// harmless marks an error of a call that so far changed nothing.
func harmless(err error) error {
	var marked *broker.UnsentError
	if err == nil || errors.As(err, &marked) {
		return err
	}
	return &broker.UnsentError{Err: err}
}

// unsent returns an error of a call that made no request.
func (s *session) unsent(reason broker.Reason, format string, args ...any) error {
	return harmless(&broker.Error{Reason: reason, Op: s.op, Detail: fmt.Sprintf(format, args...)})
}

// newSecret returns the secret that an answer brought.
func (s *session) newSecret(got reply, name string) (secret.Value, error) {
	value, ok := shown(got.object, name)
	switch {
	case !ok:
		return secret.Value{}, got.fail(broker.ReasonUpstreamMalformed, "%s without the secret (%s)", got.kind, name)
	case oauth.CheckSecret(broker.Authentication{Method: broker.ClientSecretPost}, value) != nil:
		return secret.Value{}, got.fail(broker.ReasonUpstreamMalformed, "something as %s that is no client secret", name)
	}
	return value, nil
}

// changed is newSecret for a provider that replaces the current one.
func (s *session) changed(got reply, name string) (secret.Value, error) {
	value, err := s.newSecret(got, name)
	if err == nil && value.Equal(s.call.Current) {
		err = got.fail(broker.ReasonRotatorRefused, "the present secret: the provider did not change it")
	}
	return value, err
}

// compared says what became of a Create that replaces the secret, from the one that
// the provider shows now.
func (s *session) compared(got reply, name string) (broker.RecoveredCreate, error) {
	value, ok := shown(got.object, name)
	switch {
	case !ok:
		return broker.RecoveredCreate{Outcome: broker.CreateUnknown}, nil
	case value.Equal(s.call.Current):
		return broker.RecoveredCreate{Outcome: broker.CreateNotDone}, nil
	}
	value, err := s.newSecret(got, name)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	return broker.RecoveredCreate{Outcome: broker.CreateDone, Created: broker.CreatedSecret{Value: value}}, nil
}

// shown returns a secret in an answer. It is not shown where it is missing, empty or
// masked.
func shown(o object, name string) (secret.Value, bool) {
	text := o.text(name)
	if strings.Trim(text, "*") == "" {
		return secret.Value{}, false
	}
	return secret.NewString(text), true
}

// parseTime reads a date of RFC 3339, zero if it is none or far out of range.
func parseTime(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() < 2000 || t.Year() > 9000 {
		return time.Time{}
	}
	return t.UTC()
}
