package oauth

import (
	"cmp"
	"context"
	"net/http"
	"net/url"

	"github.com/tokenbroker/tokenbroker/broker"
)

// RevokeToken is a [broker.RevokeToken]: one POST to the revocation endpoint
// (RFC 7009 §2.1), never repeated. Every 2xx is success, also for a token that the
// server does not know (§2.2); a 503 means that the token may live on (§2.2.1).
//
// Its errors are those of [Client.RequestToken].
func (c *Client) RevokeToken(ctx context.Context, req broker.RevocationRequest) error {
	endpoint, err := c.boundEndpoint(revocationEndpoint, req.Endpoint, req.Destinations)
	if err != nil {
		return err
	}
	build := func(ctx context.Context) (*request, error) {
		form := url.Values{"token": {req.Token.RevealString()}, "token_type_hint": {string(cmp.Or(req.Kind, broker.AccessTokenKind))}}
		out, err := post(ctx, endpoint, form, broker.TokenRequest{
			Endpoint: req.TokenEndpoint, Authentication: req.Authentication, ClientID: req.ClientID, Secret: req.Secret,
		})
		if err == nil {
			out.credentials = append(out.credentials, req.Token.RevealString())
		}
		return out, err
	}
	return c.exchange(ctx, hop{endpoint: endpoint, authentication: req.Authentication, secret: req.Secret}, new(progress), build, (*attempt).revoked)
}

// revoked reads the answer to a revocation.
func (a *attempt) revoked(res *http.Response) error {
	a.progress.reach(stageReading)
	if isRedirect(res.StatusCode) {
		return a.redirected(res)
	}
	body, err := readBody(res)
	if res.StatusCode >= 200 && res.StatusCode <= 299 {
		return nil // what stands in it has no meaning (§2.2)
	}
	ans := answer{status: res.StatusCode, header: res.Header, kind: "a body that could not be read"}
	if err == nil {
		ans.doc, ans.kind = parseDocument(res.Header.Get("Content-Type"), body)
	}
	return a.rejected(ans)
}
