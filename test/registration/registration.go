// Package registration rotates secrets by RFC 7592 at real authorization servers: what every server's tests do alike.
//
// It is imported by the tests with real servers, and by nothing that ships.
package registration

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/rotator"
)

// Client is a registration (RFC 7592, section 3).
type Client struct {
	ID, Secret string
	// Endpoint is the registration_client_uri, Token the registration access token.
	Endpoint, Token string
	TokenEndpoint   string
}

// Register sends a registration request and returns what it brought.
func Register(t testing.TB, client *http.Client, request *http.Request, tokenEndpoint string) Client {
	t.Helper()
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode > 299 {
		t.Fatalf("registering a client: status %d, %v: %s", response.StatusCode, err, body)
	}
	var told struct {
		ID       string `json:"client_id"`
		Secret   string `json:"client_secret"`
		Endpoint string `json:"registration_client_uri"`
		Token    string `json:"registration_access_token"`
	}
	if err := json.Unmarshal(body, &told); err != nil || told.Secret == "" || told.Token == "" {
		t.Fatalf("registering a client: %v: %s", err, body)
	}
	return Client{ID: told.ID, Secret: told.Secret, Endpoint: told.Endpoint, Token: told.Token, TokenEndpoint: tokenEndpoint}
}

// Bench is where the rotator is tried out at one server.
type Bench struct {
	t       testing.TB
	client  *oauth.Client
	rotator broker.Rotator
	reaches http.RoundTripper
}

// NewBench returns a bench for a server that client trusts.
func NewBench(t testing.TB, client *http.Client) *Bench {
	t.Helper()
	transport, ok := client.Transport.(*http.Transport)
	if !ok {
		t.Fatalf("the client's transport is %T", client.Transport)
	}
	cfg := oauth.Config{AllowHTTPLoopback: true, Timeout: time.Minute} // the machine may be loaded
	if transport.TLSClientConfig != nil {
		cfg.RootCAs = transport.TLSClientConfig.RootCAs
	}
	b := &Bench{t: t, client: oauth.New(cfg), reaches: transport}
	t.Cleanup(b.client.Close)
	b.rotator = rotator.New(b.client)["rfc7592"]
	return b
}

// call is a call about the client as it is known.
func (b *Bench) call(c Client) broker.RotatorCall {
	b.t.Helper()
	origin, err := broker.Origin(c.Endpoint)
	if err != nil {
		b.t.Fatal(err)
	}
	return broker.RotatorCall{
		Token: "abcdefghijklmnopqrstuvwx27", ClientID: c.ID, TokenEndpoint: c.TokenEndpoint,
		Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
		Settings:       broker.RotationSettings{Rotator: "rfc7592", Endpoint: c.Endpoint},
		Destinations:   []string{origin},
		Registration:   secret.NewString(c.Token), Current: secret.NewString(c.Secret),
	}
}

// Create has the server make a secret, and returns the registration as it is known then.
func (b *Bench) Create(c Client) (Client, error) {
	b.t.Helper()
	made, err := b.rotator.Create(b.t.Context(), b.call(c))
	return c.with(made), err
}

// Recover asks the server what became of a Create.
func (b *Bench) Recover(c Client) (Client, broker.CreateOutcome) {
	b.t.Helper()
	found, err := b.rotator.Recover(b.t.Context(), b.call(c))
	if err != nil {
		b.t.Fatalf("Recover = %v", err)
	}
	return c.with(found.Created), found.Outcome
}

func (c Client) with(made broker.CreatedSecret) Client {
	if !made.Value.IsZero() {
		c.Secret = made.Value.RevealString()
	}
	if !made.Registration.IsZero() {
		c.Token = made.Registration.RevealString()
	}
	if made.RegistrationEndpoint != "" {
		c.Endpoint = made.RegistrationEndpoint
	}
	return c
}

// Losing returns the client with an endpoint at which the answers to updates are lost after the server did its work.
func (b *Bench) Losing(c Client) Client {
	b.t.Helper()
	target, err := url.Parse(c.Endpoint)
	if err != nil {
		b.t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Transport: b.reaches,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host})
		},
		ModifyResponse: func(r *http.Response) error {
			if r.Request.Method == http.MethodPut {
				if r.StatusCode != http.StatusOK {
					b.t.Errorf("the update was refused: status %d", r.StatusCode)
				}
				panic(http.ErrAbortHandler)
			}
			return nil
		},
	}
	server := httptest.NewServer(proxy)
	b.t.Cleanup(server.Close)
	c.Endpoint = server.URL + target.Path
	return c
}

// Works reports whether the server gives a token for the client's secret.
func (b *Bench) Works(c Client) bool {
	b.t.Helper()
	origin, err := broker.Origin(c.TokenEndpoint)
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = b.client.RequestToken(b.t.Context(), broker.TokenRequest{
		Endpoint: c.TokenEndpoint, Destinations: []string{origin}, ClientID: c.ID, Secret: secret.NewString(c.Secret), Scopes: []string{"read"},
		Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
	})
	switch reason := broker.ReasonOf(err); reason {
	case "", broker.ReasonClientRejected, broker.ReasonUpstreamRefused: // the last is glewlwyd's: a 403 and no word
		return err == nil
	}
	b.t.Fatalf("RequestToken = %v", err)
	return false
}
