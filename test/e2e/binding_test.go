package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

// TestTokensBoundToACallersKey gets one token by the Go client's proofs, at a real
// authorization server that wants nonces, and serves it again to that key alone.
func TestTokensBoundToACallersKey(t *testing.T) {
	t.Parallel()
	provider := oidcprovider.Start(t, oidcprovider.Config{
		Clients:   []oidcprovider.Client{{ID: "app", Secret: firstSecret, BoundByDPoP: true}},
		Resources: []oidcprovider.Resource{{URI: crmAPI}}, DefaultResource: crmAPI, DPoPNonce: true,
	})
	n := siteFor(t, provider)
	const name = "clients/app"
	registered := &pb.Client{
		Name: name, TokenEndpoint: provider.TokenEndpoint(), ClientId: "app", AuthenticationMethod: basic, TokenBinding: pb.TokenBinding_TOKEN_BINDING_DPOP,
	}
	if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: registered, Secret: secretInput(firstSecret)}); err != nil {
		t.Fatal(err)
	}
	_, err := n.token(t.Context(), name)
	wantReason(t, "GetToken without a proof", err, "DPOP_PROOF_REQUIRED")
	if got := infoOf(err).GetMetadata()["htu"]; got != provider.TokenEndpoint() {
		t.Errorf("htu = %q, want %s", got, provider.TokenEndpoint())
	}
	ids := map[string]bool{}
	for range 2 { // two callers with keys of their own
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, err := client.NewDPoPKey(private)
		if err != nil {
			t.Fatal(err)
		}
		caller := client.NewFromConn(n.caller.conn, client.WithDPoP(key))
		for range 2 {
			token, err := caller.Token(t.Context(), client.Request{Client: name})
			if err != nil {
				t.Fatal(err)
			}
			ids[token.ID] = true
			bound, _ := claimsOf(t, token.Access.Reveal())["cnf"].(map[string]any)
			if token.Type != "DPoP" || bound["jkt"] != key.Thumbprint() {
				t.Errorf("a %s token bound to %v, want DPoP and %s", token.Type, bound, key.Thumbprint())
			}
		}
		if err := caller.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(ids) != 2 {
		t.Errorf("%d tokens for two keys", len(ids))
	}
	_, err = n.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: name, DpopProof: "no.proof.x"})
	wantReason(t, "GetToken with no proof", err, "DPOP_PROOF_INVALID")
	n.stop(t)
}

// TestClientsWithCertificates register at the alias for mutual TLS. Their secrets'
// expire_time is the certificates', and a new certificate comes in by a rotation.
func TestClientsWithCertificates(t *testing.T) {
	t.Parallel()
	provider := oidcprovider.Start(t, oidcprovider.Config{
		Clients:   []oidcprovider.Client{{ID: "app", AuthMethod: oidcprovider.TLS, CertificateSubject: "CN=app"}},
		Resources: []oidcprovider.Resource{{URI: crmAPI}}, DefaultResource: crmAPI,
	})
	n := siteFor(t, provider)
	const name = "clients/app"
	first := provider.ClientCertificate("app")
	registered := &pb.Client{
		Name: name, TokenEndpoint: provider.MTLSTokenEndpoint(), ClientId: "app",
		AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_TLS_CLIENT_AUTH,
	}
	created, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: registered, Secret: keyInput(first)})
	if err != nil {
		t.Fatal(err)
	}
	if got := created.GetClient(); got.GetAuthenticationMethod() != registered.GetAuthenticationMethod() {
		t.Errorf("client = %v", got)
	}
	if _, err := n.token(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	versions, err := n.operator.rotations.ListSecretVersions(t.Context(), &pb.ListSecretVersionsRequest{Client: name})
	if err != nil {
		t.Fatal(err)
	}
	ends, known := oauth.SecretExpiry(broker.Authentication{Method: broker.TLSClientAuth}, secret.NewString(first))
	if got := versions.GetSecretVersions()[0].GetExpireTime(); !known || !got.AsTime().Equal(ends) {
		t.Errorf("expire_time = %v, want that of the certificate, %v", got.AsTime(), ends)
	}
	rotate(t, n, name, provider.ClientCertificate("app"))
	n.stop(t)
}

// siteFor starts a server with an embedded store that trusts the provider.
func siteFor(t *testing.T, provider *oidcprovider.Server) *node {
	t.Helper()
	ca, err := os.ReadFile(provider.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	return newSite(t, embeddedStore(t.TempDir()), ca).start(t, program(t))
}
