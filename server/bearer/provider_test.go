package bearer_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/bearer"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

// providerToken asks a real authorization server for a token of RFC 9068.
func providerToken(t *testing.T, server *oidcprovider.Server, resource string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "resource": {resource}, "scope": {"read"}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.TokenEndpoint(), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth("crm", "s3cr3t-crm")
	response, err := server.HTTPClient().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("got status %d, %v", response.StatusCode, err)
	}
	return answer.AccessToken
}

// TestRealProvider verifies what oidc-provider issues, by its metadata and its keys.
func TestRealProvider(t *testing.T) {
	const ours, theirs = "https://tokenbroker.example", "https://ledger.example"
	server := oidcprovider.Start(t, oidcprovider.Config{
		Clients:   []oidcprovider.Client{{ID: "crm", Secret: "s3cr3t-crm", Scopes: []string{"read"}}},
		Resources: []oidcprovider.Resource{{URI: ours, Scopes: []string{"read"}}, {URI: theirs, Scopes: []string{"read"}}},
	})
	issuer := bearer.Issuer{
		Issuer: server.Issuer(), Audiences: []string{ours}, Algorithms: []string{"ES256"}, Discovery: true, CAFile: server.CAFile(),
		Types: []string{"at+jwt"}, MaxLifetime: 10 * time.Minute, RequiredClaims: map[string]string{"client_id": "crm", "scope": "read"},
	}
	token := providerToken(t, server, ours)
	for name, change := range map[string]func(*bearer.Issuer){
		"by discovery":  func(*bearer.Issuer) {},
		"by URL":        func(i *bearer.Issuer) { i.Discovery, i.JWKSURL = false, server.Issuer()+"/jwks" },
		"by client_id":  func(i *bearer.Issuer) { i.SubjectClaim = "client_id" },
		"single use":    func(i *bearer.Issuer) { i.SingleUse = true },
		"of any typ":    func(i *bearer.Issuer) { i.Types = nil },
		"any algorithm": func(i *bearer.Issuer) { i.Algorithms = everyAlgorithm },
	} {
		t.Run(name, func(t *testing.T) {
			changed := issuer
			change(&changed)
			v := running(t, changed)
			eventually(t, v)
			id := wantGood(t, v, token)
			if want := "jwt:" + server.Issuer() + "#crm"; id.Name() != want || id.Algorithm != "ES256" || id.KeyID == "" || !v.Valid(id) {
				t.Errorf("got %+v, want %s", id, want)
			}
			if left := time.Until(id.ExpireTime); left < 9*time.Minute || left > 10*time.Minute {
				t.Errorf("expires in %s, want 10m", left)
			}
		})
	}
	v := running(t, issuer)
	eventually(t, v)
	wantRefused(t, v, providerToken(t, server, theirs), bearer.WrongAudience)
	parts := strings.Split(token, ".")
	wantRefused(t, v, parts[0]+"."+parts[1]+"."+strings.Split(providerToken(t, server, ours), ".")[2], bearer.BadSignature)
}
