package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

const (
	basic    = pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC
	basicRaw = pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC_RAW
	post     = pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_POST
	keyJWT   = pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_JWT
)

const (
	crmAPI    = "https://crm.example"
	ledgerAPI = "https://ledger.example"
)

// awkward is a secret with what naive encodings break.
const awkward = `s3cr3t: %+/&=~"\-`

// clientOfMethod is one client at the provider and how it is registered here.
type clientOfMethod struct {
	name   string
	method pb.AuthenticationMethod
	theirs oidcprovider.Client
	secret *pb.SecretInput
	assert *pb.AssertionSettings
}

// clientsOfMethods has a client for each method, form of key and algorithm.
func clientsOfMethods(t *testing.T) []clientOfMethod {
	t.Helper()
	scopes := []string{"read", "write"}
	list := []clientOfMethod{
		{"basic", basic, oidcprovider.Client{Secret: awkward + "basic"}, secretInput(awkward + "basic"), nil},
		{"post", post, oidcprovider.Client{Secret: awkward + "post", AuthMethod: oidcprovider.Post}, secretInput(awkward + "post"), nil},
	}
	for _, algorithm := range []string{"RS256", "PS256", "ES256", "EdDSA"} {
		key := newKey(t, algorithm)
		theirs := oidcprovider.Client{AuthMethod: oidcprovider.PrivateKeyJWT, JWKS: key.jwks}
		withPEM := clientOfMethod{"pem-" + algorithm, keyJWT, theirs, keyInput(key.pem), &pb.AssertionSettings{KeyId: key.public.KeyID}}
		if algorithm == "PS256" { // of an RSA key the natural one is RS256
			withPEM.assert.SigningAlgorithm = algorithm
		}
		list = append(list, withPEM, clientOfMethod{"jwk-" + algorithm, keyJWT, theirs, keyInput(key.jwk), nil})
	}
	for i := range list {
		list[i].name = strings.ToLower(list[i].name)
		list[i].theirs.ID, list[i].theirs.Scopes = "app:"+list[i].name, scopes
	}
	return list
}

// TestEveryMethod takes the main path for each way of authentication: an operator
// registers a client, a caller gets its token by name.
func TestEveryMethod(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	list := clientsOfMethods(t)
	config := oidcprovider.Config{Resources: []oidcprovider.Resource{
		{URI: crmAPI, Scopes: []string{"read", "write"}}, {URI: ledgerAPI, Scopes: []string{"read"}, Lifetime: 90 * time.Second, Opaque: true},
	}}
	for _, r := range list {
		config.Clients = append(config.Clients, r.theirs)
	}
	provider := oidcprovider.Start(t, config)
	ca, err := os.ReadFile(provider.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, store.config(store.Addr()), ca)
	n := s.start(t, program(t))
	for _, r := range list {
		t.Run(r.name, func(t *testing.T) {
			client := &pb.Client{
				Name: "clients/" + r.name, TokenEndpoint: provider.TokenEndpoint(), ClientId: r.theirs.ID, AuthenticationMethod: r.method, Assertion: r.assert,
				DefaultScopes: []string{"read"}, AllowedScopes: []string{"write"}, Resources: []string{crmAPI}, AllowedResources: []string{ledgerAPI},
			}
			if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: r.secret}); err != nil {
				t.Fatalf("CreateClient: %v", err)
			}
			before := provider.Requests()
			got, err := n.token(t.Context(), client.GetName())
			if err != nil {
				t.Fatalf("GetToken: %v", err)
			}
			claims := claimsOf(t, got.GetAccessToken())
			if claims["aud"] != crmAPI || claims["scope"] != "read" || claims["client_id"] != r.theirs.ID || got.GetSecretVersion() != 1 || got.GetTokenType() != "Bearer" {
				t.Errorf("the token is for %v, scope %v, of %v, secret version %d, %s; want %s, read, %s, 1, Bearer",
					claims["aud"], claims["scope"], claims["client_id"], got.GetSecretVersion(), got.GetTokenType(), crmAPI, r.theirs.ID)
			}
			if left := time.Until(got.GetExpireTime().AsTime()); left < 9*time.Minute || left > 10*time.Minute || got.GetExpirySource() != pb.ExpirySource_EXPIRY_SOURCE_RESPONSE {
				t.Errorf("it lives %v by %v, want 10 min by the response", left, got.GetExpirySource())
			}
			again, err := n.token(t.Context(), client.GetName())
			if err != nil || again.GetTokenId() != got.GetTokenId() || provider.Requests() != before+1 {
				t.Errorf("the second call: %v, token %s after %s, %d requests in all; want the same token by one request", err, again.GetTokenId(), got.GetTokenId(), provider.Requests()-before)
			}
			other, err := n.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: client.GetName(), Scopes: []string{"read"}, Resources: []string{ledgerAPI}})
			if err != nil || strings.Contains(other.GetAccessToken(), ".") || !slices.Equal(other.GetScopes(), []string{"read"}) {
				t.Errorf("for the other resource: %v, scopes %v; want an opaque token with scope read", err, other.GetScopes())
			}
		})
	}
	for _, r := range list {
		for _, where := range map[string]string{"the server's log": n.log.String(), "an answer": s.heard.String(), "Vault's audit log": auditLog(t, store)} {
			if strings.Contains(where, awkward[:8]) || strings.Contains(where, "PRIVATE KEY") {
				t.Errorf("a secret of %s is in the clear", r.name)
			}
		}
	}
	n.stop(t)
}

// claimsOf decodes a JWT without checking it.
func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("the token has %d parts, want a JWT", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func auditLog(t *testing.T, store *vaultStore) string {
	t.Helper()
	content, err := os.ReadFile(store.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestRefusalsOfTheProvider names what a real provider's refusals mean, and what
// mends them.
func TestRefusalsOfTheProvider(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	provider := oidcprovider.Start(t, oidcprovider.Config{
		Clients:   []oidcprovider.Client{{ID: "app", Secret: awkward, Scopes: []string{"read", "write"}}},
		Resources: []oidcprovider.Resource{{URI: crmAPI, Scopes: []string{"read"}}},
	})
	ca, err := os.ReadFile(provider.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	n := newSite(t, store.config(store.Addr()), ca).start(t, program(t))
	create := func(name, secret string, change func(*pb.Client)) {
		client := &pb.Client{
			Name: "clients/" + name, TokenEndpoint: provider.TokenEndpoint(), ClientId: "app", AuthenticationMethod: basic,
			DefaultScopes: []string{"read"}, AllowedScopes: []string{"write"},
		}
		change(client)
		if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(secret)}); err != nil {
			t.Fatalf("CreateClient %s: %v", name, err)
		}
	}
	tests := []struct {
		name, secret string
		change       func(*pb.Client)
		want         string
	}{
		{"wrong-secret", "wrong", func(*pb.Client) {}, "CLIENT_REJECTED"},
		{"wrong-id", awkward, func(c *pb.Client) { c.ClientId = "nobody" }, "CLIENT_REJECTED"},
		{"wrong-method", awkward, func(c *pb.Client) { c.AuthenticationMethod = basicRaw }, "REQUEST_REJECTED"},
		{"wrong-resource", awkward, func(c *pb.Client) { c.Resources = []string{"https://other.example"} }, "TARGET_REJECTED"},
		{"wrong-path", awkward, func(c *pb.Client) { c.TokenEndpoint += "s" }, "UPSTREAM_REFUSED"}, // a page, from which nothing follows
	}
	for _, test := range tests {
		create(test.name, test.secret, test.change)
		_, err := n.token(t.Context(), "clients/"+test.name)
		wantReason(t, test.name, err, test.want)
		// The same call by an operator has the endpoint's words, and no secret.
		_, err = n.operator.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/" + test.name, Scopes: []string{"write"}})
		if test.want == "CLIENT_REJECTED" {
			wantReason(t, test.name+" as an operator", err, test.want, "invalid_client")
		}
		if cause, err := n.rootCause(t.Context(), "clients/"+test.name); cause != "" || err != nil {
			t.Errorf("%s: CheckLookup = %q, %v; the lookup itself is sound", test.name, cause, err)
		}
	}

	// A wrong secret is mended by staging the right one, in place or not.
	const name = "clients/wrong-secret"
	staged, err := n.operator.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: name, Secret: secretInput("wrong too")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.operator.rotations.VerifySecret(t.Context(), &pb.VerifySecretRequest{Client: name})
	wantReason(t, "VerifySecret of a wrong secret", err, "CLIENT_REJECTED")
	_, err = n.operator.rotations.PromoteSecret(t.Context(), &pb.PromoteSecretRequest{Client: name, SecretVersion: staged.GetSecretVersion().GetNumber()})
	wantReason(t, "PromoteSecret of what was not verified", err, "SECRET_NOT_VERIFIED")
	rotate(t, n, name, awkward)
	if got, err := n.token(t.Context(), name); err != nil || got.GetSecretVersion() != 3 {
		t.Errorf("after the rotation: version %d, %v; want 3", got.GetSecretVersion(), err)
	}

	// The provider replaces the secret in place: warm tokens go on, new ones need
	// the new secret.
	create("replaced", awkward, func(*pb.Client) {})
	warm, err := n.token(t.Context(), "clients/replaced")
	if err != nil {
		t.Fatal(err)
	}
	provider.PutClient(oidcprovider.Client{ID: "app", Secret: "replaced in place", Scopes: []string{"read", "write"}})
	if got, err := n.token(t.Context(), "clients/replaced"); err != nil || got.GetTokenId() != warm.GetTokenId() {
		t.Errorf("a warm token after the secret was replaced: %v", err)
	}
	_, err = n.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/replaced", Scopes: []string{"write"}})
	wantReason(t, "a cold token after the secret was replaced", err, "CLIENT_REJECTED")
	rotate(t, n, "clients/replaced", "replaced in place")
	if _, err := n.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/replaced", Scopes: []string{"write"}}); err != nil {
		t.Errorf("a cold token after the rotation: %v", err)
	}
	n.stop(t)
}

// rotate stages, verifies and promotes a client secret.
func rotate(t *testing.T, n *node, client, value string) {
	t.Helper()
	staged, err := n.operator.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: client, Secret: secretInput(value)})
	if err != nil {
		t.Fatalf("StageSecret %s: %v", client, err)
	}
	number := staged.GetSecretVersion().GetNumber()
	if _, err := n.operator.rotations.VerifySecret(t.Context(), &pb.VerifySecretRequest{Client: client, SecretVersion: number}); err != nil {
		t.Fatalf("VerifySecret %s: %v", client, err)
	}
	promoted, err := n.operator.rotations.PromoteSecret(t.Context(), &pb.PromoteSecretRequest{Client: client, SecretVersion: number})
	if err != nil || promoted.GetCurrent().GetNumber() != number {
		t.Fatalf("PromoteSecret %s: version %d is current, %v; want %d", client, promoted.GetCurrent().GetNumber(), err, number)
	}
}

// TestBasicRaw is the method that no strict server takes: against one that
// compares what it gets without decoding.
func TestBasicRaw(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	up := newUpstream(t)
	up.mux.HandleFunc("/raw", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if id, value, _ := r.BasicAuth(); id != "app" || value != awkward {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
			return
		}
		_, _ = w.Write([]byte(`{"access_token":"raw-token","token_type":"bearer","expires_in":60}`))
	})
	n := newSite(t, store.config(store.Addr()), up.ca).start(t, program(t))
	for method, want := range map[pb.AuthenticationMethod]string{basicRaw: "", basic: "CLIENT_REJECTED"} {
		name := strings.ToLower(method.String())
		client := &pb.Client{Name: "clients/" + name, TokenEndpoint: up.origin + "/raw", ClientId: "app", AuthenticationMethod: method}
		if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(awkward)}); err != nil {
			t.Fatal(err)
		}
		_, err := n.token(t.Context(), client.GetName())
		wantReason(t, name, err, want)
	}
	n.stop(t)
}
