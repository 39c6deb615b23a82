package oauth_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// documentsAt serves documents by path; $ISSUER in them is the server's URL.
func documentsAt(t *testing.T, documents map[string]http.HandlerFunc) (*oauth.Client, *httptest.Server, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.EscapedPath())
		mu.Unlock()
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "" {
			t.Errorf("%s with Authorization %q", r.Method, r.Header.Get("Authorization"))
		}
		if handler := documents[r.URL.EscapedPath()]; handler != nil {
			handler(w, r)
			return
		}
		http.NotFound(w, r)
	})
	return client, server, func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(asked) }
}

func metadataDoc(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.ReplaceAll(body, "$ISSUER", "https://"+r.Host))
	}
}

const (
	oauthPlace = "/.well-known/oauth-authorization-server"
	oidcPlace  = "/.well-known/openid-configuration"
)

func TestDiscoverLooksAtBothPlaces(t *testing.T) {
	good := metadataDoc(`{"issuer":"$ISSUER/t/1","token_endpoint":"$ISSUER/token"}`)
	tests := []struct {
		name      string
		documents map[string]http.HandlerFunc
		asked     []string
	}{
		{"inserted", map[string]http.HandlerFunc{oauthPlace + "/t/1": good}, []string{oauthPlace + "/t/1"}},
		{"appended", map[string]http.HandlerFunc{"/t/1" + oidcPlace: good}, []string{oauthPlace + "/t/1", "/t/1" + oidcPlace}},
		{"another's first", map[string]http.HandlerFunc{
			oauthPlace + "/t/1": metadataDoc(`{"issuer":"$ISSUER/t/2","token_endpoint":"$ISSUER/evil"}`), "/t/1" + oidcPlace: good,
		}, []string{oauthPlace + "/t/1", "/t/1" + oidcPlace}},
		{"broken first", map[string]http.HandlerFunc{oauthPlace + "/t/1": answer(503, ``), "/t/1" + oidcPlace: good}, []string{oauthPlace + "/t/1", "/t/1" + oidcPlace}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, server, asked := documentsAt(t, tt.documents)
			got, err := client.Discover(t.Context(), server.URL+"/t/1")
			if err != nil {
				t.Fatal(err)
			}
			if got.Issuer != server.URL+"/t/1" || got.TokenEndpoint != server.URL+"/token" || len(got.Ignored) > 0 {
				t.Errorf("Discover = %+v", got)
			}
			if !slices.Equal(asked(), tt.asked) {
				t.Errorf("asked %v, want %v", asked(), tt.asked)
			}
		})
	}
}

func TestDiscoverReadsAll(t *testing.T) {
	client, server, _ := documentsAt(t, map[string]http.HandlerFunc{oauthPlace: metadataDoc(`{
		"issuer":"$ISSUER","token_endpoint":"$ISSUER/token","authorization_endpoint":"$ISSUER/auth?tenant=1",
		"device_authorization_endpoint":"$ISSUER/device","revocation_endpoint":"$ISSUER/revoke","introspection_endpoint":"$ISSUER/introspect",
		"token_endpoint_auth_methods_supported":["tls_client_auth","private_key_jwt","attest_jwt_client_auth","private_key_jwt"],
		"grant_types_supported":["authorization_code","client_credentials"],"scopes_supported":["openid","read"],
		"code_challenge_methods_supported":["S256"],"authorization_response_iss_parameter_supported":true,
		"mtls_endpoint_aliases":{"token_endpoint":"$ISSUER/mtls/token","introspection_endpoint":"https://mtls.example/introspect"}}`)})
	got, err := client.Discover(t.Context(), server.URL, "https://mtls.example")
	if err != nil {
		t.Fatal(err)
	}
	want := broker.Metadata{
		Issuer: server.URL, TokenEndpoint: server.URL + "/token", AuthorizationEndpoint: server.URL + "/auth?tenant=1",
		DeviceAuthorizationEndpoint: server.URL + "/device", RevocationEndpoint: server.URL + "/revoke", IntrospectionEndpoint: server.URL + "/introspect",
		AuthenticationMethods: []broker.AuthenticationMethod{broker.TLSClientAuth, broker.PrivateKeyJWT},
		GrantTypes:            []string{"authorization_code", "client_credentials"}, Scopes: []string{"openid", "read"},
		CodeChallengeMethods: []string{"S256"}, IssuerInAnswer: true,
		MTLSTokenEndpoint: server.URL + "/mtls/token", MTLSIntrospectionEndpoint: "https://mtls.example/introspect",
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("Discover = %+v, want %+v", got, want)
	}
	for what, pair := range map[string][2]string{
		"token": {got.WithCertificate().TokenEndpoint, server.URL + "/mtls/token"}, "introspection": {got.WithCertificate().IntrospectionEndpoint, "https://mtls.example/introspect"},
		"no alias": {got.WithCertificate().RevocationEndpoint, server.URL + "/revoke"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: endpoint with a certificate = %s, want %s", what, pair[0], pair[1])
		}
	}
}

// TestHostileMetadata has one row for each way to lead a secret elsewhere or to harm.
func TestHostileMetadata(t *testing.T) {
	tests := []struct {
		name, body string
		reason     broker.Reason // "" if the metadata is taken
		text       string        // of the error, or of Ignored
	}{
		{"another issuer", `{"issuer":"https://evil.example","token_endpoint":"$ISSUER/token"}`, broker.ReasonDiscoveryFailed, "another issuer: https://evil.example"},
		{"issuer with a slash more", `{"issuer":"$ISSUER/","token_endpoint":"$ISSUER/token"}`, broker.ReasonDiscoveryFailed, "another issuer"},
		{"no issuer", `{"token_endpoint":"$ISSUER/token"}`, broker.ReasonDiscoveryFailed, "another issuer"},
		{"issuer twice", `{"issuer":"https://evil.example","issuer":"$ISSUER"}`, broker.ReasonDiscoveryFailed, "twice"},
		{"an array", `[{"issuer":"$ISSUER"}]`, broker.ReasonDiscoveryFailed, "not one JSON object"},
		{"more behind", `{"issuer":"$ISSUER"}{}`, broker.ReasonDiscoveryFailed, "not one JSON object"},
		{"a page", `<html><script>alert(1)</script>`, broker.ReasonDiscoveryFailed, "not one JSON object"},
		{"too large", `{"issuer":"$ISSUER","x":"` + strings.Repeat("x", 1<<20) + `"}`, broker.ReasonDiscoveryFailed, "over 1 MiB"},
		{"too many members", `{"issuer":"$ISSUER"` + manyMembers(600) + `}`, broker.ReasonDiscoveryFailed, "not one JSON object"},
		{"another host", `{"issuer":"$ISSUER","token_endpoint":"https://evil.example/token"}`, "", "token_endpoint: https://evil.example"},
		{"plain http", `{"issuer":"$ISSUER","token_endpoint":"http://127.0.0.1/token"}`, "", "token_endpoint: http://127.0.0.1"},
		{"a user in it", `{"issuer":"$ISSUER","token_endpoint":"https://127.0.0.1@evil.example/token"}`, "", "user or password"},
		{"a private address", `{"issuer":"$ISSUER","token_endpoint":"https://169.254.169.254/token"}`, "", "link-local"},
		{"a host that begins alike", `{"issuer":"$ISSUER","token_endpoint":"https://127.0.0.1.evil.example/token"}`, "", "127.0.0.1.evil.example"},
		{"a number", `{"issuer":"$ISSUER","token_endpoint":7}`, "", "token_endpoint: not a URL"},
		{"control characters", `{"issuer":"$ISSUER","token_endpoint":"$ISSUER/\r\nHost: evil"}`, "", "token_endpoint: not a URL"},
		{"a very long URL", `{"issuer":"$ISSUER","token_endpoint":"$ISSUER/` + strings.Repeat("x", 4096) + `"}`, "", "token_endpoint: not a URL"},
		{"a script for the browser", `{"issuer":"$ISSUER","authorization_endpoint":"javascript:alert(1)"}`, "", "authorization_endpoint: "},
		{"a query at the token endpoint", `{"issuer":"$ISSUER","token_endpoint":"$ISSUER/token?redirect=https://evil.example"}`, "", "token_endpoint: has a query"},
		{"aliases elsewhere", `{"issuer":"$ISSUER","mtls_endpoint_aliases":{"token_endpoint":"https://evil.example/token"}}`, "", "token_endpoint: https://evil.example"},
		{"aliases of another type", `{"issuer":"$ISSUER","mtls_endpoint_aliases":["x"],"scopes_supported":"all","grant_types_supported":[1,{}]}`, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, server, _ := documentsAt(t, map[string]http.HandlerFunc{oauthPlace: metadataDoc(tt.body), oidcPlace: metadataDoc(tt.body)})
			got, err := client.Discover(t.Context(), server.URL)
			if tt.reason != "" {
				wantReason(t, err, tt.reason, tt.text)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.TokenEndpoint+got.MTLSTokenEndpoint+got.AuthorizationEndpoint != "" || !strings.Contains(strings.Join(got.Ignored, " "), tt.text) {
				t.Errorf("Discover = %+v, want no endpoint and %q ignored", got, tt.text)
			}
		})
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"m%d":1`, i)
	}
	return b.String()
}

func TestDiscoveryThatFails(t *testing.T) {
	all := func(handler http.HandlerFunc) map[string]http.HandlerFunc {
		return map[string]http.HandlerFunc{oauthPlace: handler, oidcPlace: handler}
	}
	tests := []struct {
		name      string
		documents map[string]http.HandlerFunc
		reason    broker.Reason
		text      string
	}{
		{"nothing there", nil, broker.ReasonDiscoveryFailed, oidcPlace + " answered 404"},
		{"redirects", all(answer(302, "", "Location", "https://evil.example/")), broker.ReasonDiscoveryFailed, "answered 302"},
		{"down", all(answer(503, "", "Retry-After", "7")), broker.ReasonUpstreamUnavailable, "503"},
		{"too often", all(answer(429, "")), broker.ReasonUpstreamRateLimited, "429"},
		{"slow", all(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), broker.ReasonUpstreamTimeout, "no answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			handler := func(w http.ResponseWriter, r *http.Request) {
				if h := tt.documents[r.URL.Path]; h != nil {
					h(w, r)
					return
				}
				http.NotFound(w, r)
			}
			patience := 10 * time.Second
			if tt.name == "slow" {
				patience = time.Second
			}
			client, server := serve(t, handler, timeout(patience))
			_, err := client.Discover(t.Context(), server.URL)
			if e := wantReason(t, err, tt.reason, tt.text); tt.name == "down" && e.RetryAfter != 7*time.Second {
				t.Errorf("RetryAfter = %v", e.RetryAfter)
			}
		})
	}
	client := oauth.New(oauth.Config{})
	defer client.Close()
	for _, issuer := range []string{"", "http://issuer.example", "https://issuer.example/?a=b", "https://issuer.example/#x", "https://10.0.0.1"} {
		_, err := client.Discover(t.Context(), issuer)
		wantReason(t, err, broker.ReasonUpstreamAddressRefused, "")
	}
}
