package oauth

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// introspectionOp is what errors call the question about a token.
const introspectionOp = "introspect token"

// maxTime is what later ends are cut to: far from where times overflow in JSON.
var maxTime = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// Introspect is [broker.AuthorizationServer]'s: one POST to the introspection endpoint
// (RFC 7662 §2.1), with the client's authentication. A signed answer (RFC 9701) is not
// asked for. Errors are those of [Client.RequestToken]; an answer that does not say
// whether the token is active is UPSTREAM_MALFORMED.
func (c *Client) Introspect(ctx context.Context, req broker.IntrospectionRequest) (broker.Introspection, error) {
	endpoint, err := c.boundEndpoint(introspectionEndpoint, req.Endpoint, req.Client.Destinations)
	if err != nil {
		return broker.Introspection{}, err
	}
	client := req.Client
	client.Grant = broker.GrantParameters{} // a proof is for the token endpoint
	spoken, err := c.dialectOf(client)      // of errors; requests are as the RFC has them
	if err != nil {
		return broker.Introspection{}, err
	}
	build := func(ctx context.Context) (*request, error) {
		form := url.Values{"token": {req.Token.RevealString()}, "token_type_hint": {"access_token"}}
		out, err := post(ctx, endpoint, form, client)
		if err == nil {
			out.op, out.dialect, out.credentials = introspectionOp, spoken, append(out.credentials, req.Token.RevealString())
		}
		return out, err
	}
	var answered broker.Introspection
	to := hop{endpoint: endpoint, authentication: client.Authentication, secret: client.Secret}
	err = c.exchange(ctx, to, new(progress), build, func(a *attempt, res *http.Response) (err error) {
		answered, err = a.introspected(res)
		return err
	})
	return answered, err
}

func (a *attempt) introspected(res *http.Response) (broker.Introspection, error) {
	members, err := a.object(res)
	if err != nil {
		return broker.Introspection{}, err
	}
	active, ok := members.flag("active")
	if !ok {
		return broker.Introspection{}, a.fail(broker.ReasonUpstreamMalformed, nil, "answered %d without saying whether the token is active", res.StatusCode)
	}
	if !active {
		return broker.Introspection{}, nil // the rest of such an answer means nothing (§2.2)
	}
	answered := broker.Introspection{Active: true}
	if seconds, there := members.number("exp"); there && seconds > 0 {
		answered.ExpireTime = maxTime
		if seconds < float64(maxTime.Unix()) {
			answered.ExpireTime = time.Unix(int64(seconds), 0).UTC()
		}
	}
	var granted string
	if json.Unmarshal(members["scope"], &granted) == nil && len(granted) <= maxScopeBytes && len(members["scope"]) > 0 && members["scope"][0] == '"' {
		answered.Scopes = append([]string{}, slices.Compact(slices.Sorted(slices.Values(strings.Fields(granted))))...)
	}
	return answered, nil
}
