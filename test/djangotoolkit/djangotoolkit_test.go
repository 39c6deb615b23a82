package djangotoolkit_test

import (
	"net/http"
	"slices"
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
