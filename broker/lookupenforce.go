package broker

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// The two refusals of an API (RFC 6750 §3.1): who is it, and may he.
const (
	statusUnauthorized = 401
	statusForbidden    = 403
)

// checkEnforcement walks [StageNoSecret] and [StageWrongSecret].
func (b *Broker) checkEnforcement(ctx context.Context, w *walk, c *Client, current SecretVersion, key tokenKey, value secret.Value) {
	method := c.Upstream.Authentication.Method
	switch why := b.harms(c); {
	case why != "":
		w.skipUntil(StageAPIToken, ReasonCheckWouldHarm, why)
		return
	case c.Upstream.Grant != "" && c.Upstream.Grant != ClientCredentials:
		w.skipUntil(StageAPIToken, "", "only the client_credentials grant stands on the secret alone")
		return
	case method == NoAuthentication:
		w.skipUntil(StageAPIToken, "", "the client is public: it has no secret")
		return
	}
	without := c.clone()
	without.Upstream.Authentication = Authentication{Method: NoAuthentication}
	b.mustRefuse(ctx, w, StageNoSecret, without, c, current, secret.Value{}, key, value)
	if !w.deep(DepthEnforcement) {
		return
	}
	if !guessable(method) {
		w.add(StageWrongSecret, OutcomeSkipped, "", "a key cannot be guessed as a secret can")
		return
	}
	wrong := secret.NewString(strings.ToLower(rand.Text() + rand.Text()))
	defer wrong.Wipe()
	b.mustRefuse(ctx, w, StageWrongSecret, c, c, current, wrong, key, value)
}

// refusals are what a server says that does not take a credential. All else says nothing
// of that: a handshake that failed, or a token that came in an odd form.
var refusals = []Reason{ReasonClientRejected, ReasonGrantRejected, ReasonGrantTypeRejected, ReasonRequestRejected, ReasonUpstreamRefused}

// mustRefuse makes one wrong try as the client asked, and makes sure that it is refused.
// A token that comes of it is revoked with the right secret.
func (b *Broker) mustRefuse(ctx context.Context, w *walk, stage string, asked, c *Client, current SecretVersion, wrong secret.Value, key tokenKey, right secret.Value) {
	if err := b.spendTry(ctx, w, c); err != nil {
		e := AsError(err)
		w.add(stage, OutcomeSkipped, e.Reason, evidenceOf(e)...)
		return
	}
	answer, err := b.askOnce(ctx, asked, current, wrong, key)
	switch e := AsError(err); {
	case err == nil:
		what := "it gave a token, which is not revoked: it lives on until it expires"
		if b.dropToken(ctx, c, current, b.secretAgain(ctx, c, current, right), answer.AccessToken) {
			what = "it gave a token, which is revoked"
		}
		w.add(stage, OutcomeFailed, ReasonAuthenticationNotEnforced, what)
	case slices.Contains(refusals, e.Reason):
		w.add(stage, OutcomePassed, "", append([]string{"refused with " + string(e.Reason)}, evidenceOf(e)...)...)
	default:
		w.add(stage, OutcomeWarned, e.Reason, evidenceOf(e)...)
	}
}

// secretAgain returns the secret, which is not at hand where an outcome of just now was
// taken.
func (b *Broker) secretAgain(ctx context.Context, c *Client, current SecretVersion, value secret.Value) secret.Value {
	if !value.IsZero() {
		return value
	}
	again, err := b.readSecret(ctx, c, current)
	if err != nil {
		b.log.WarnContext(ctx, "a token of a check is not revoked", "client", c.ID, "reason", ReasonOf(err))
	}
	return again
}

// checkAPI walks the stages of the API: the registered URL, never one of the request.
func (b *Broker) checkAPI(ctx context.Context, w *walk, c *Client, current SecretVersion, token *Token) {
	switch {
	case c.Upstream.APIEndpoint == "":
		w.skipUntil("", "", "the client has no api_endpoint")
		return
	case b.prober == nil:
		w.skipUntil("", "", "this server calls no API")
		return
	case token == nil:
		w.skipUntil("", "", "there is no token to call it with")
		return
	}
	call := APICall{URL: c.Upstream.APIEndpoint, Destinations: current.TokenDestinations, Token: token.Access, TokenType: token.Type}
	answer, err := b.callAPI(ctx, w, call)
	said := fmt.Sprintf("answered %d with %s", answer.Status, answer.Kind)
	if answer.Error != "" {
		said += ", " + answer.Error
	}
	switch {
	case err != nil:
		w.fail(StageAPIToken, err)
	case answer.Status == statusUnauthorized:
		w.add(StageAPIToken, OutcomeFailed, ReasonAPITokenRefused, said)
	case answer.Status == statusForbidden:
		w.add(StageAPIToken, OutcomeFailed, ReasonAPIPermissionMissing, said)
	case answer.Status >= 500:
		w.add(StageAPIToken, OutcomeFailed, ReasonUpstreamUnavailable, said)
	case answer.Status >= 400:
		w.add(StageAPIToken, OutcomeWarned, ReasonEndpointWrong, said)
	default:
		w.add(StageAPIToken, OutcomePassed, "", said)
	}
	if w.failed {
		return
	}
	call.Token = secret.Value{}
	b.apiMustRefuse(ctx, w, StageAPINoToken, call)
	if !w.failed {
		call.Token = secret.NewString(rand.Text())
		b.apiMustRefuse(ctx, w, StageAPIWrongToken, call)
	}
}

func (b *Broker) callAPI(ctx context.Context, w *walk, call APICall) (APIAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	w.report.Cost.APICalls++
	return b.prober.CallAPI(ctx, call)
}

// apiMustRefuse calls the API with what it must not take.
func (b *Broker) apiMustRefuse(ctx context.Context, w *walk, stage string, call APICall) {
	answer, err := b.callAPI(ctx, w, call)
	said := fmt.Sprintf("answered %d with %s", answer.Status, answer.Kind)
	switch e := AsError(err); {
	case err != nil && e.Reason == ReasonUpstreamRedirected:
		w.add(stage, OutcomePassed, "", "it sends to somewhere else: "+e.Detail)
	case err != nil:
		w.add(stage, OutcomeWarned, e.Reason, evidenceOf(e)...)
	case answer.Status >= 200 && answer.Status < 300:
		w.add(stage, OutcomeFailed, ReasonAPINotEnforcing, said)
	default:
		w.add(stage, OutcomePassed, "", said)
	}
}
