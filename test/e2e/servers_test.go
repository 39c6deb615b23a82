package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/djangotoolkit"
	"github.com/tokenbroker/tokenbroker/test/glewlwyd"
)

// readCA returns the PEM of an authority.
func readCA(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestDjangoToolkit gets tokens of clients and of users at django-oauth-toolkit, which
// replaces a refresh token by its use and does not take the old one again.
func TestDjangoToolkit(t *testing.T) {
	t.Parallel()
	needServers(t)
	const live = 6 * time.Second
	provider := djangotoolkit.Start(t, djangotoolkit.Config{Scopes: []string{"read", "write"}, Lifetime: live, Clients: []djangotoolkit.Client{
		{ID: "reports", Secret: awkward, Grant: djangotoolkit.ClientCredentials},
		{ID: "crm", Secret: awkward, Grant: djangotoolkit.AuthorizationCode, RedirectURIs: []string{appCallback}},
	}})
	s := newSite(t, embeddedStore(t.TempDir()), readCA(t, provider.CAFile()))
	delete(s.config, "callers")
	s.config["access"] = map[string]any{"file": s.write(t, "access.yaml", []byte(systemAccess))}
	n := s.start(t, program(t))
	opens := func(token string) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, provider.API(), nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := provider.HTTPClient().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.StatusCode
	}
	create := func(client *pb.Client) {
		t.Helper()
		client.TokenEndpoint, client.AuthenticationMethod, client.RevocationEndpoint = provider.TokenEndpoint(), basic, provider.RevocationEndpoint()
		client.DefaultScopes, client.AllowedScopes = []string{"read"}, []string{"write", "admin"}
		if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(awkward)}); err != nil {
			t.Fatal(err)
		}
	}

	const reports, crm = "clients/reports", "clients/crm"
	create(&pb.Client{Name: reports, ClientId: "reports"})
	for _, test := range []struct {
		scopes, want []string
		status       int
		reason       string
	}{
		{nil, []string{"read"}, http.StatusOK, ""},
		{[]string{"write"}, []string{"write"}, http.StatusForbidden, ""},
		{[]string{"write", "read"}, []string{"read", "write"}, http.StatusOK, ""},
		{[]string{"admin"}, nil, 0, "SCOPE_REJECTED"},
	} {
		got, err := n.tokenOf(t, reports, "", test.scopes...)
		wantReason(t, fmt.Sprintf("scopes %v", test.scopes), err, test.reason)
		if err != nil {
			continue
		}
		if status := opens(got.GetAccessToken()); !slices.Equal(got.GetScopes(), test.want) || status != test.status {
			t.Errorf("scopes %v: the token has %v, and the API says %d; want %v and %d", test.scopes, got.GetScopes(), status, test.want, test.status)
		}
	}

	create(&pb.Client{Name: crm, ClientId: "crm", GrantType: byCode, AuthorizationEndpoint: provider.AuthorizationEndpoint(), RedirectUris: []string{appCallback}})
	started, err := n.operator.authorizations.StartAuthorization(t.Context(), &pb.StartAuthorizationRequest{Client: crm, Subject: ada, RedirectUri: appCallback})
	if err != nil {
		t.Fatal(err)
	}
	q := question{client: crm, subject: ada, url: started.GetAuthorization().GetConsent().GetAuthorizationUrl()}
	if got, err := q.complete(t, n, provider.Consent(q.url)); err != nil || got.GetState() != consentActive || !got.GetRefreshable() {
		t.Fatalf("CompleteAuthorization: %v, %v", got, err)
	}
	ids := map[string]bool{}
	eventually(t, time.Minute, "three tokens of a user", func() error {
		got, err := n.tokenOf(t, crm, ada)
		if err != nil {
			t.Fatalf("GetToken: %v", err)
		}
		if !ids[got.GetTokenId()] && opens(got.GetAccessToken()) != http.StatusOK {
			t.Errorf("the API does not take token %d of a user", len(ids)+1)
		}
		if ids[got.GetTokenId()] = true; len(ids) < 3 {
			return fmt.Errorf("%d tokens", len(ids))
		}
		return nil
	})
	last, err := n.tokenOf(t, crm, ada)
	if err != nil {
		t.Fatal(err)
	}
	given, err := n.operator.authorizations.RevokeAuthorization(t.Context(), &pb.RevokeAuthorizationRequest{Client: crm, Subject: ada})
	if err != nil || !given.GetRevoked() {
		t.Errorf("RevokeAuthorization: %v, %v; want it revoked there", given, err)
	}
	if status := opens(last.GetAccessToken()); status == http.StatusOK { // the toolkit ends it with its refresh token
		t.Error("the API takes the token of a grant that was given up")
	}
	_, err = n.tokenOf(t, crm, ada)
	wantReason(t, "after the grant was given up", err, "AUTHORIZATION_REQUIRED")
	n.stop(t)
}

// TestGlewlwyd gets tokens with scopes at glewlwyd, which has its own ways of refusing.
func TestGlewlwyd(t *testing.T) {
	t.Parallel()
	needServers(t)
	provider := glewlwyd.Start(t)
	registered := provider.Register("Reports")
	n := newSite(t, embeddedStore(t.TempDir()), readCA(t, provider.CAFile())).start(t, program(t))
	for _, test := range []struct{ name, secret, reason string }{
		{"reports", registered.Secret, ""},
		{"wrong-secret", "wrong", "UPSTREAM_REFUSED"}, // it answers 403 and nothing, which proves nothing
	} {
		client := &pb.Client{
			Name: "clients/" + test.name, TokenEndpoint: provider.TokenEndpoint(), ClientId: registered.ID, AuthenticationMethod: basic,
			DefaultScopes: []string{glewlwyd.Scope}, AllowedScopes: []string{"admin"},
		}
		if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(test.secret)}); err != nil {
			t.Fatal(err)
		}
		got, err := n.token(t.Context(), client.GetName())
		wantReason(t, test.name, err, test.reason)
		if err == nil && !slices.Equal(got.GetScopes(), []string{glewlwyd.Scope}) {
			t.Errorf("the token has the scopes %v, want %s", got.GetScopes(), glewlwyd.Scope)
		}
	}
	_, err := n.tokenOf(t, "clients/reports", "", "admin")
	wantReason(t, "a scope that there is not", err, "SCOPE_REJECTED")
	n.stop(t)
}
