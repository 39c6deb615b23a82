package djangotoolkit_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/test/djangotoolkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	reports       = "reports"
	reportsSecret = "s3cr3t: %+/&=~"
	crm           = "crm"
	crmSecret     = "the secret of crm"
	callback      = "https://broker.example/callback"
)

func start(t *testing.T) *djangotoolkit.Server {
	t.Helper()
	return djangotoolkit.Start(t, djangotoolkit.Config{Scopes: []string{"read", "write"}, Clients: []djangotoolkit.Client{
		{ID: reports, Secret: reportsSecret, Grant: djangotoolkit.ClientCredentials},
		{ID: crm, Secret: crmSecret, Grant: djangotoolkit.AuthorizationCode, RedirectURIs: []string{callback}},
	}})
}

// newClient returns a client that trusts the server.
func newClient(t *testing.T, server *djangotoolkit.Server) *oauth.Client {
	t.Helper()
	transport, ok := server.HTTPClient().Transport.(*http.Transport)
	if !ok {
		t.Fatalf("the transport is %T", server.HTTPClient().Transport)
	}
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true, RootCAs: transport.TLSClientConfig.RootCAs, Timeout: time.Minute}) // the machine may be loaded
	t.Cleanup(client.Close)
	return client
}

// request is a token request of a client.
func request(t *testing.T, server *djangotoolkit.Server, id, value string, method broker.AuthenticationMethod, scopes ...string) broker.TokenRequest {
	t.Helper()
	origin, err := broker.Origin(server.TokenEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	return broker.TokenRequest{
		Endpoint: server.TokenEndpoint(), Destinations: []string{origin}, Authentication: broker.Authentication{Method: method},
		ClientID: id, Secret: secret.NewString(value), Scopes: scopes,
	}
}

// opens reports whether the API takes the token.
func opens(t *testing.T, server *djangotoolkit.Server, token secret.Value) bool {
	t.Helper()
	ask, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.API(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ask.Header.Set("Authorization", "Bearer "+string(token.Reveal()))
	response, err := server.HTTPClient().Do(ask)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func TestClientCredentials(t *testing.T) {
	server := start(t)
	client := newClient(t, server)
	tests := []struct {
		name       string
		id, secret string
		method     broker.AuthenticationMethod
		scopes     []string
		want       []string
		reason     broker.Reason
	}{
		{name: "one scope", id: reports, secret: reportsSecret, method: broker.ClientSecretBasic, scopes: []string{"write"}, want: []string{"write"}},
		{name: "two scopes", id: reports, secret: reportsSecret, method: broker.ClientSecretBasic, scopes: []string{"read", "write"}, want: []string{"read", "write"}},
		{name: "the default scope", id: reports, secret: reportsSecret, method: broker.ClientSecretBasic, want: []string{"read"}},
		{name: "by the form", id: reports, secret: reportsSecret, method: broker.ClientSecretPost, scopes: []string{"read"}, want: []string{"read"}},
		{name: "a wrong secret", id: reports, secret: "wrong", method: broker.ClientSecretBasic, reason: broker.ReasonClientRejected},
		{name: "an unknown client", id: "nobody", secret: reportsSecret, method: broker.ClientSecretBasic, reason: broker.ReasonClientRejected},
		{name: "a scope that there is not", id: reports, secret: reportsSecret, method: broker.ClientSecretBasic, scopes: []string{"admin"}, reason: broker.ReasonScopeRejected},
		{name: "a client of another grant", id: crm, secret: crmSecret, method: broker.ClientSecretBasic, scopes: []string{"read"}, reason: broker.ReasonGrantTypeRejected},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := client.RequestToken(t.Context(), request(t, server, test.id, test.secret, test.method, test.scopes...))
			if broker.ReasonOf(err) != test.reason {
				t.Fatalf("RequestToken = %v, want %q", err, test.reason)
			}
			if err != nil {
				return
			}
			if !slices.Equal(got.Scopes, test.want) || got.TokenType != "Bearer" || got.ExpiresIn == nil || *got.ExpiresIn != 10*time.Minute {
				t.Errorf("the token has scopes %v, type %s, lifetime %v; want %v, Bearer, 10 min", got.Scopes, got.TokenType, got.ExpiresIn, test.want)
			}
			if want := slices.Contains(test.want, "read"); opens(t, server, got.AccessToken) != want {
				t.Errorf("the API takes the token: %v, want %v", !want, want)
			}
		})
	}
}

// TestAuthorizationCode takes a user's consent with PKCE, and refreshes with tokens that rotate; the server tells the end of a refresh
// token as invalid_grant.
func TestAuthorizationCode(t *testing.T) {
	server := start(t)
	client := newClient(t, server)
	req := request(t, server, crm, crmSecret, broker.ClientSecretBasic)
	verifier := strings.Repeat("v", 43)
	challenge := sha256.Sum256([]byte(verifier))
	open, err := client.AuthorizationURL(broker.AuthorizationRequest{
		Endpoint: server.AuthorizationEndpoint(), ClientID: crm, RedirectURI: callback, State: "a state", Scopes: []string{"read", "write"},
		CodeChallenge: base64.RawURLEncoding.EncodeToString(challenge[:]),
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(grant broker.GrantParameters) (broker.TokenResponse, error) {
		r := req
		r.Grant = grant
		return client.RequestToken(t.Context(), r)
	}
	byCode := func(verifier string) (broker.TokenResponse, error) {
		back := server.Consent(open)
		if back.Get("state") != "a state" {
			t.Errorf("the state that came back is %q", back.Get("state"))
		}
		return ask(broker.GrantParameters{
			Type: broker.AuthorizationCode, Code: secret.NewString(back.Get("code")), CodeVerifier: secret.NewString(verifier), RedirectURI: callback,
		})
	}
	if _, err := byCode(strings.Repeat("w", 43)); broker.ReasonOf(err) != broker.ReasonAuthorizationNotTaken {
		t.Errorf("a code with another verifier: %v, want AUTHORIZATION_NOT_TAKEN", err)
	}
	first, err := byCode(verifier)
	if err != nil || first.RefreshToken.IsZero() || !opens(t, server, first.AccessToken) {
		t.Fatalf("a code: %v; want a token that the API takes, and a refresh token", err)
	}
	byRefresh := func(token secret.Value) (broker.TokenResponse, error) {
		return ask(broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: token})
	}
	second, err := byRefresh(first.RefreshToken)
	if err != nil || second.RefreshToken.IsZero() || second.RefreshToken.Equal(first.RefreshToken) || !opens(t, server, second.AccessToken) {
		t.Fatalf("a refresh: %v; want a token that the API takes, and a successor", err)
	}
	if !slices.Equal(second.Scopes, []string{"read", "write"}) {
		t.Errorf("the refreshed token has the scopes %v, want those of the consent", second.Scopes)
	}
	if _, err := byRefresh(first.RefreshToken); broker.ReasonOf(err) != broker.ReasonRefreshTokenRejected {
		t.Errorf("a refresh token that was replaced: %v, want REFRESH_TOKEN_REJECTED", err)
	}
}

// TestGrace uses a refresh token for the second time while the server still takes it, as after a lost answer: it gives the successor
// that it gave before.
func TestGrace(t *testing.T) {
	server := djangotoolkit.Start(t, djangotoolkit.Config{
		Scopes: []string{"read"}, Grace: time.Minute,
		Clients: []djangotoolkit.Client{{ID: crm, Secret: crmSecret, Grant: djangotoolkit.AuthorizationCode, RedirectURIs: []string{callback}}},
	})
	client := newClient(t, server)
	verifier := strings.Repeat("v", 43)
	challenge := sha256.Sum256([]byte(verifier))
	open, err := client.AuthorizationURL(broker.AuthorizationRequest{
		Endpoint: server.AuthorizationEndpoint(), ClientID: crm, RedirectURI: callback, State: "s", Scopes: []string{"read"},
		CodeChallenge: base64.RawURLEncoding.EncodeToString(challenge[:]),
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(grant broker.GrantParameters) broker.TokenResponse {
		t.Helper()
		r := request(t, server, crm, crmSecret, broker.ClientSecretBasic)
		r.Grant = grant
		got, err := client.RequestToken(t.Context(), r)
		if err != nil {
			t.Fatalf("%s: %v", grant.Type, err)
		}
		return got
	}
	first := ask(broker.GrantParameters{
		Type: broker.AuthorizationCode, Code: secret.NewString(server.Consent(open).Get("code")), CodeVerifier: secret.NewString(verifier), RedirectURI: callback,
	})
	once := ask(broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: first.RefreshToken})
	again := ask(broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: first.RefreshToken})
	if once.RefreshToken.IsZero() || !again.RefreshToken.Equal(once.RefreshToken) {
		t.Error("within the grace it is not the same successor")
	}
	if !opens(t, server, again.AccessToken) {
		t.Error("the API does not take the token of the second use")
	}
}
