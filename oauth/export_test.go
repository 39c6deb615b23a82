package oauth

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// ReadAnswer judges an answer as if it had come from a server that was sent the
// credential by HTTP Basic.
func ReadAnswer(credential string, status int, header http.Header, body string) (broker.TokenResponse, error) {
	return ReadAnswerTo(nil, broker.GrantParameters{}, credential, status, header, body)
}

// ReadAnswerTo is [ReadAnswer] of a server with a profile, to a request with that grant.
func ReadAnswerTo(p *profile.Profile, grant broker.GrantParameters, credential string, status int, header http.Header, body string) (broker.TokenResponse, error) {
	a := &attempt{
		dialect: dialect{profile: p, grant: grant.Type, pollInterval: grant.PollInterval},
		origin:  "https://as.example", parent: context.Background(), limited: context.Background(),
		timeout: time.Second, progress: new(progress), basic: true, credentials: []string{credential}, sent: time.Now(),
	}
	return a.read(&http.Response{
		StatusCode: status, Header: header, ContentLength: -1, Body: io.NopCloser(strings.NewReader(body)),
		Request: &http.Request{URL: &url.URL{Scheme: "https", Host: "as.example", Path: "/token"}},
	})
}

// Clean scrubs a text of a server that was sent the credentials.
func Clean(text string, credentials ...string) string {
	return scrubber{credentials}.clean(text, maxDescription)
}

// MaxDescription is the bound on what Clean returns.
const MaxDescription = maxDescription

// CheckAddress judges an address that is about to be dialled.
func (c *Client) CheckAddress(addr netip.Addr) error { return c.door.CheckAddress(addr) }

// KeySpellings returns what of a private key must not show up anywhere.
func KeySpellings(text []byte) []string { return keySpellings(text) }
