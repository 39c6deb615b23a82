package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

const (
	byCode        = pb.GrantType_GRANT_TYPE_AUTHORIZATION_CODE
	byDevice      = pb.GrantType_GRANT_TYPE_DEVICE_CODE
	publicClient  = pb.AuthenticationMethod_AUTHENTICATION_METHOD_NONE
	callbackPath  = "/authorization/callback"
	webSecret     = "the web client's secret, long enough for HS256"
	consentActive = pb.AuthorizationState_AUTHORIZATION_STATE_ACTIVE
)

// asking is a real authorization server whose users are asked for consent, and where the
// broker's callback is.
type asking struct {
	t        *testing.T
	provider *oidcprovider.Server
	ca       []byte // PEM
	// callbackAt is host:port of the broker's callback.
	callbackAt string
}

// newAsking starts one that replaces each refresh token by its use, and ends the whole
// grant when one is used twice. change may change what it is.
func newAsking(t *testing.T, lifetime time.Duration, change func(*oidcprovider.Config)) *asking {
	t.Helper()
	a := &asking{t: t, callbackAt: harness.UnusedAddress(t)}
	scopes := []string{"openid", "read", "write"}
	grants := []string{oidcprovider.AuthorizationCode, oidcprovider.RefreshToken}
	redirects := []string{a.callback(), appCallback}
	config := oidcprovider.Config{
		Clients: []oidcprovider.Client{
			{ID: "web", Secret: webSecret, Scopes: scopes, Grants: grants, RedirectURIs: redirects},
			{ID: "signing", Secret: webSecret, AuthMethod: oidcprovider.SecretJWT, Scopes: scopes, Grants: grants, RedirectURIs: redirects},
			{ID: "public", AuthMethod: oidcprovider.None, Scopes: scopes, Grants: grants, RedirectURIs: redirects},
			{ID: "tv", AuthMethod: oidcprovider.None, Scopes: scopes, Grants: []string{oidcprovider.DeviceCode, oidcprovider.RefreshToken}},
		},
		Resources: []oidcprovider.Resource{{URI: crmAPI, Scopes: scopes[1:]}}, DefaultResource: crmAPI,
		Lifetime: lifetime, RotateRefreshTokens: true,
	}
	if change != nil {
		change(&config)
	}
	a.provider = oidcprovider.Start(t, config)
	var err error
	if a.ca, err = os.ReadFile(a.provider.CAFile()); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *asking) callback() string { return "https://" + a.callbackAt + callbackPath }

// configure has a server host the callback, and lets the caller have tokens of users.
func (a *asking) configure(t *testing.T, s *site) {
	t.Helper()
	delete(s.config, "callers")
	s.config["access"] = map[string]any{"file": s.write(t, "access.yaml", []byte(systemAccess))}
	s.config["authorization"] = map[string]any{"callback_url": a.callback(), "callback_listen": a.callbackAt}
}

// web returns a client at the provider as it is registered here.
func (a *asking) web(name string) *pb.Client {
	return &pb.Client{
		Name: "clients/" + name, GrantType: byCode, ClientId: "web", AuthenticationMethod: basic, Issuer: a.provider.Issuer(),
		TokenEndpoint: a.provider.TokenEndpoint(), AuthorizationEndpoint: a.provider.AuthorizationEndpoint(), RevocationEndpoint: a.provider.RevocationEndpoint(),
		DefaultScopes: []string{"openid", "read", "write"}, RedirectUris: []string{appCallback},
	}
}

// create registers a client; without a secret where that is "".
func (a *asking) create(n *node, client *pb.Client, secret string) {
	a.t.Helper()
	request := &pb.CreateClientRequest{Client: client}
	if secret != "" {
		request.Secret = secretInput(secret)
	}
	if _, err := n.operator.clients.CreateClient(a.t.Context(), request); err != nil {
		a.t.Fatalf("CreateClient %s: %v", client.GetName(), err)
	}
}

// question is a consent that a user is asked for.
type question struct {
	client, subject, url string
}

// start begins to ask.
func (a *asking) start(t *testing.T, n *node, client, subject, redirect string) question {
	t.Helper()
	started, err := n.operator.authorizations.StartAuthorization(t.Context(), &pb.StartAuthorizationRequest{Client: client, Subject: subject, RedirectUri: redirect})
	if err != nil {
		t.Fatalf("StartAuthorization %s: %v", client, err)
	}
	return question{client, subject, started.GetAuthorization().GetConsent().GetAuthorizationUrl()}
}

// complete hands over what came to the application's callback.
func (q question) complete(t *testing.T, n *node, back url.Values) (*pb.Authorization, error) {
	t.Helper()
	completed, err := n.operator.authorizations.CompleteAuthorization(t.Context(), &pb.CompleteAuthorizationRequest{
		Client: q.client, State: back.Get("state"), Code: back.Get("code"), Issuer: back.Get("iss"), Error: back.Get("error"), ErrorDescription: back.Get("error_description"),
	})
	return completed.GetAuthorization(), err
}

// consents has a user consent by way of the application's callback.
func (a *asking) consents(t *testing.T, n *node, client, subject string) {
	t.Helper()
	q := a.start(t, n, client, subject, appCallback)
	got, err := q.complete(t, n, a.provider.Consent(q.url, "ann"))
	if err != nil || got.GetState() != consentActive || !got.GetRefreshable() {
		t.Fatalf("CompleteAuthorization %s: %v, %v; want an active authorization that can be refreshed", client, got, err)
	}
}

// browse opens the broker's callback as a browser does that the provider sends there.
func (a *asking) browse(t *testing.T, s *site, back url.Values) (status int, page string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.ca.PEM())
	browser := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	response, err := browser.Get(a.callback() + "?" + back.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&s.heard, response.Header, string(content))
	return response.StatusCode, string(content)
}

// tokenOf asks for a user's token as the caller does.
func (n *node) tokenOf(t *testing.T, client, subject string, scopes ...string) (*pb.GetTokenResponse, error) {
	t.Helper()
	return n.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: client, Subject: subject, Scopes: scopes})
}

// wantUsers demands a token for the API, of a user.
func wantUsers(t *testing.T, got *pb.GetTokenResponse, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	if claims := claimsOf(t, got.GetAccessToken()); claims["aud"] != crmAPI || claims["sub"] != "ann" {
		t.Errorf("the token is for %v, of %v; want %s, ann", claims["aud"], claims["sub"], crmAPI)
	}
}

// wantRefreshed gets a token for fewer scopes, which only a refresh brings.
func wantRefreshed(t *testing.T, n *node, client, subject string) {
	t.Helper()
	got, err := n.tokenOf(t, client, subject, "read")
	wantUsers(t, got, err)
	if scope := claimsOf(t, got.GetAccessToken())["scope"]; scope != "read" {
		t.Errorf("the refreshed token has the scope %v, want read", scope)
	}
}

// authorization returns what is said of one.
func (n *node) authorization(t *testing.T, client, subject string) (*pb.Authorization, error) {
	t.Helper()
	got, err := n.operator.authorizations.GetAuthorization(t.Context(), &pb.GetAuthorizationRequest{Client: client, Subject: subject})
	return got.GetAuthorization(), err
}

// active asks the provider itself whether it would take a refresh token.
func (a *asking) active(t *testing.T, refreshToken string) bool {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.provider.IntrospectionEndpoint(), strings.NewReader(url.Values{"token": {refreshToken}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth("web", url.QueryEscape(webSecret))
	var answer struct {
		Active *bool `json:"active"`
	}
	a.ask(t, request, &answer)
	if answer.Active == nil {
		t.Fatal("the provider does not say whether a refresh token is active")
	}
	return *answer.Active
}

// ask sends a request to the provider, as somebody else than the broker.
func (a *asking) ask(t *testing.T, request *http.Request, answer any) {
	t.Helper()
	response, err := a.provider.HTTPClient().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v", request.URL.Path, response.StatusCode, err)
	}
}
