package oauth

import (
	"context"
	"net/http"
	"net/url"

	"github.com/tokenbroker/tokenbroker/broker"
)

const opAPI = "call the API"

// CallAPI implements [broker.Prober]: one GET, which follows no redirect.
func (c *Client) CallAPI(ctx context.Context, call broker.APICall) (broker.APIAnswer, error) {
	endpoint, err := c.boundEndpoint(apiEndpoint, call.URL, call.Destinations)
	if err != nil {
		return broker.APIAnswer{}, err
	}
	build := func(ctx context.Context) (*request, error) {
		out, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.String(), http.NoBody)
		if err != nil {
			return nil, refusedEndpoint("%s is not a URL", apiEndpoint)
		}
		out.Header = http.Header{"Accept": {"application/json, */*;q=0.5"}, "User-Agent": {userAgent}}
		sent := &request{Request: out, op: opAPI}
		if !call.Token.IsZero() {
			out.Header.Set("Authorization", call.TokenType+" "+call.Token.RevealString())
			sent.credentials = []string{call.Token.RevealString(), url.QueryEscape(call.Token.RevealString())}
		}
		return sent, nil
	}
	var answered broker.APIAnswer
	err = c.exchange(ctx, hop{endpoint: endpoint}, new(progress), build, func(a *attempt, res *http.Response) error {
		a.progress.reach(stageReading)
		if isRedirect(res.StatusCode) {
			return a.redirected(res)
		}
		body, _ := readBody(res) // a body that is too large or breaks off has its status all the same
		challenges := parseChallenges(res.Header.Values("WWW-Authenticate"))
		_, kind := parseDocument(res.Header.Get("Content-Type"), body)
		answered = broker.APIAnswer{
			Status: res.StatusCode, Kind: kind, Error: a.scrub(document{}).clean(challenges.errorCode(), maxCode),
			Challenged: challenges.has("bearer") || challenges.has("dpop"),
		}
		return nil
	})
	return answered, err
}
