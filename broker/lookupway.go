package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// checkWay walks the stages of the way to the token endpoint.
func (b *Broker) checkWay(ctx context.Context, w *walk, c *Client) {
	if b.prober == nil {
		w.skipUntil(StageAuthorization, "", "this server looks at no way")
		return
	}
	sights := b.prober.Reach(ctx, ReachTarget{Endpoint: c.Upstream.TokenEndpoint, Provider: c.Upstream.Provider})
	for _, s := range sights {
		w.report.Cost.Connections += s.Connections
		switch {
		case s.Err != nil:
			e := AsError(s.Err)
			w.put(s.Stage, OutcomeFailed, e.Reason, s.Duration, append(slices.Clip(s.Evidence), evidenceOf(e)...))
		case s.Warning != "":
			w.put(s.Stage, OutcomeWarned, s.Warning, s.Duration, s.Evidence)
		default:
			w.put(s.Stage, OutcomePassed, "", s.Duration, s.Evidence)
		}
	}
	if !w.failed {
		b.checkMetadata(ctx, w, c)
	}
}

// checkMetadata is [StageMetadata]: what the issuer says of itself against the settings.
// Metadata that cannot be had breaks nothing.
func (b *Broker) checkMetadata(ctx context.Context, w *walk, c *Client) {
	u := c.Upstream
	if b.server == nil || u.Issuer == "" {
		w.add(StageMetadata, OutcomePassed, "", "the client names no issuer, so there is no metadata to compare with")
		return
	}
	m, err := b.server.Discover(ctx, u.Issuer)
	w.report.Cost.Connections++
	if err != nil {
		e := AsError(err)
		w.add(StageMetadata, OutcomeWarned, e.Reason, evidenceOf(e)...)
		return
	}
	var odds []string
	differ := func(what, ours, theirs string) {
		if ours != "" && theirs != "" && ours != theirs {
			odds = append(odds, fmt.Sprintf("%s is %s, the metadata has %s", what, ours, theirs))
		}
	}
	token := m.TokenEndpoint
	if m.MTLSTokenEndpoint == u.TokenEndpoint {
		token = m.MTLSTokenEndpoint
	}
	differ("token_endpoint", u.TokenEndpoint, token)
	differ("revocation_endpoint", u.RevocationEndpoint, m.RevocationEndpoint)
	differ("authorization_endpoint", u.AuthorizationEndpoint, m.AuthorizationEndpoint)
	method := u.Authentication.Method
	if method == ClientSecretBasicRaw {
		method = ClientSecretBasic
	}
	if len(m.AuthenticationMethods) > 0 && !slices.Contains(m.AuthenticationMethods, method) && method != PrivateKeyBearer {
		odds = append(odds, fmt.Sprintf("authentication_method is %s, the metadata offers %s", u.Authentication.Method, joined(m.AuthenticationMethods)))
	}
	if name := wireGrant(u.Grant); len(m.GrantTypes) > 0 && !slices.Contains(m.GrantTypes, name) {
		odds = append(odds, fmt.Sprintf("the grant is %s, the metadata offers %s", name, strings.Join(m.GrantTypes, ", ")))
	}
	for _, scope := range u.DefaultScopes {
		if len(m.Scopes) > 0 && !slices.Contains(m.Scopes, scope) {
			odds = append(odds, fmt.Sprintf("the metadata does not list the scope %q; it need not list all", truncate(scope, 64)))
		}
	}
	if len(odds) > 0 {
		w.add(StageMetadata, OutcomeWarned, ReasonMetadataDisagrees, odds[:min(len(odds), 10)]...)
		return
	}
	w.add(StageMetadata, OutcomePassed, "", "as "+u.Issuer+" says of itself")
}

func joined(methods []AuthenticationMethod) string {
	names := make([]string, 0, len(methods))
	for _, m := range methods {
		names = append(names, string(m))
	}
	return strings.Join(names, ", ")
}

// wireGrant is the grant_type that a client's first token request has.
func wireGrant(g GrantType) string {
	switch g {
	case "":
		return string(ClientCredentials)
	case DeviceCode:
		return "urn:ietf:params:oauth:grant-type:device_code"
	case JWTBearer:
		return "urn:ietf:params:oauth:grant-type:jwt-bearer"
	case TokenExchange:
		return "urn:ietf:params:oauth:grant-type:token-exchange"
	default:
		return string(g)
	}
}
