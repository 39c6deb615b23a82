package oidcprovider_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

// clientOf returns the client under test, which trusts the server.
func clientOf(t *testing.T, server *oidcprovider.Server) *oauth.Client {
	t.Helper()
	text, err := os.ReadFile(server.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	client := oauth.New(oauth.Config{RootCAs: roots, AllowHTTPLoopback: true, Timeout: time.Minute}) // the machine may be loaded
	t.Cleanup(client.Close)
	return client
}

// requestOf is a token request of a client to the server.
func requestOf(t *testing.T, endpoint, id, value string, method broker.AuthenticationMethod) broker.TokenRequest {
	t.Helper()
	origin, err := broker.Origin(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return broker.TokenRequest{
		Endpoint: endpoint, Destinations: []string{origin}, ClientID: id, Secret: secret.NewString(value),
		Authentication: broker.Authentication{Method: method}, Resources: []string{api},
	}
}

func wantReason(t *testing.T, err error, reason broker.Reason) *broker.Error {
	t.Helper()
	if got := broker.ReasonOf(err); got != reason {
		t.Fatalf("error = %v, want %s", err, reason)
	}
	return broker.AsError(err)
}

// selfSigned is a key and its own certificate.
func selfSigned(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "own"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})) + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// keySet is what a server is told of a private key: what the broker publishes.
func keySet(t *testing.T, value string) json.RawMessage {
	t.Helper()
	public, err := oauth.PublicKey(secret.NewString(value))
	if err != nil {
		t.Fatal(err)
	}
	return json.RawMessage(`{"keys":[` + public + `]}`)
}

// TestKeyWithItsCertificate: the thumbprint in the assertion's header disturbs nobody who
// does not ask for it.
func TestKeyWithItsCertificate(t *testing.T) {
	value := selfSigned(t)
	server := oidcprovider.Start(t, oidcprovider.Config{
		Resources: []oidcprovider.Resource{{URI: api, Scopes: []string{"read"}}},
		Clients:   []oidcprovider.Client{{ID: "certified", AuthMethod: oidcprovider.PrivateKeyJWT, JWKS: keySet(t, value), SigningAlgorithm: "ES256", Scopes: []string{"read"}}},
	})
	if _, err := clientOf(t, server).RequestToken(t.Context(), requestOf(t, server.TokenEndpoint(), "certified", value, broker.PrivateKeyJWT)); err != nil {
		t.Error(err)
	}
}

func TestClientSecretJWT(t *testing.T) {
	long := strings.Repeat("s3cr3t-j", 8)
	algorithms := []string{"", "HS256", "HS384", "HS512"}
	config := oidcprovider.Config{Resources: []oidcprovider.Resource{{URI: api, Scopes: []string{"read"}}}}
	for _, algorithm := range algorithms {
		config.Clients = append(config.Clients, oidcprovider.Client{
			ID: "jwt" + algorithm, Secret: long, AuthMethod: oidcprovider.SecretJWT, SigningAlgorithm: algorithm, Scopes: []string{"read"},
		})
	}
	server := oidcprovider.Start(t, config)
	client := clientOf(t, server)
	for _, algorithm := range algorithms {
		req := requestOf(t, server.TokenEndpoint(), "jwt"+algorithm, long, broker.ClientSecretJWT)
		req.Authentication.SigningAlgorithm = algorithm
		if _, err := client.RequestToken(t.Context(), req); err != nil {
			t.Errorf("%q: %v", algorithm, err)
		}
	}
	req := requestOf(t, server.TokenEndpoint(), "jwt", strings.Repeat("wr0ng-j-", 8), broker.ClientSecretJWT)
	_, err := client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonClientRejected)
}

// TestCertificates authenticates by certificates of both kinds, at the alias that
// discovery finds, and gets tokens that are bound to them.
func TestCertificates(t *testing.T) {
	own := selfSigned(t)
	server := oidcprovider.Start(t, oidcprovider.Config{
		Clients: []oidcprovider.Client{
			{ID: "issued", AuthMethod: oidcprovider.TLS, CertificateSubject: "CN=issued", Scopes: []string{"read"}, BoundToCertificate: true},
			{ID: "own", AuthMethod: oidcprovider.SelfSigned, JWKS: keySet(t, own), Scopes: []string{"read"}},
		},
		Resources: []oidcprovider.Resource{{URI: api, Scopes: []string{"read"}}},
	})
	client := clientOf(t, server)
	metadata, err := client.Discover(t.Context(), server.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	endpoint := metadata.WithCertificate().TokenEndpoint
	if endpoint != server.MTLSTokenEndpoint() || metadata.TokenEndpoint != server.TokenEndpoint() {
		t.Fatalf("Discover = %+v, want the alias %s", metadata, server.MTLSTokenEndpoint())
	}
	issued := server.ClientCertificate("issued")
	tests := []struct {
		name, id, secret string
		method           broker.AuthenticationMethod
		reason           broker.Reason
		bound            bool
	}{
		{"issued", "issued", issued, broker.TLSClientAuth, "", true},
		{"self-signed", "own", own, broker.SelfSignedTLSClientAuth, "", false},
		{"of another name", "issued", server.ClientCertificate("other"), broker.TLSClientAuth, broker.ReasonClientRejected, false},
		{"of an unknown authority", "issued", selfSigned(t), broker.TLSClientAuth, broker.ReasonClientRejected, false},
		{"another self-signed", "own", selfSigned(t), broker.SelfSignedTLSClientAuth, broker.ReasonClientRejected, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := requestOf(t, endpoint, tt.id, tt.secret, tt.method)
			token, err := client.RequestToken(t.Context(), req)
			if tt.reason != "" {
				wantReason(t, err, tt.reason)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := ""
			if tt.bound {
				want = certificateThumbprint(t, tt.secret)
			}
			if token.CertificateThumbprint != want {
				t.Errorf("token is bound to %q, want %q", token.CertificateThumbprint, want)
			}
		})
	}
	req := requestOf(t, server.TokenEndpoint(), "issued", issued, broker.TLSClientAuth)
	_, err = client.RequestToken(t.Context(), req) // the ordinary endpoint asks for no certificate
	wantReason(t, err, broker.ReasonClientRejected)
}

func certificateThumbprint(t *testing.T, text string) string {
	t.Helper()
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			sum := sha256.Sum256(block.Bytes)
			return base64.RawURLEncoding.EncodeToString(sum[:])
		}
	}
	t.Fatal("there is no certificate")
	return ""
}

// TestDPoP goes the way of a caller: a proof, the server's nonce, a proof with it, a
// token that is bound to the proof's key. A proof that was used is refused.
func TestDPoP(t *testing.T) {
	server := oidcprovider.Start(t, oidcprovider.Config{
		Clients:   []oidcprovider.Client{{ID: "bound", Secret: "s3cr3t-bound", Scopes: []string{"read"}, BoundByDPoP: true}},
		Resources: []oidcprovider.Resource{{URI: api, Scopes: []string{"read"}}},
		DPoPNonce: true,
	})
	client := clientOf(t, server)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	req := requestOf(t, server.TokenEndpoint(), "bound", "s3cr3t-bound", broker.ClientSecretBasic)
	_, err = client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonGrantRejected) // without any proof: all that this server says is invalid_grant

	req.Grant.DPoPProof = proof(t, key, server.TokenEndpoint(), "")
	thumbprint, err := oauth.CheckDPoPProof(req.Grant.DPoPProof, server.TokenEndpoint(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.RequestToken(t.Context(), req)
	e := wantReason(t, err, broker.ReasonDPoPNonceRequired)
	if e.Told["htu"] != server.TokenEndpoint() || e.Told["dpop_nonce"] == "" {
		t.Fatalf("told %v", e.Told)
	}

	req.Grant.DPoPProof = proof(t, key, e.Told["htu"], e.Told["dpop_nonce"])
	token, err := client.RequestToken(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if token.TokenType != "DPoP" || token.KeyThumbprint != thumbprint {
		t.Errorf("token of type %q bound to %q, want DPoP and %q", token.TokenType, token.KeyThumbprint, thumbprint)
	}
	_, err = client.RequestToken(t.Context(), req)
	if got := broker.ReasonOf(err); got != broker.ReasonDPoPProofInvalid && got != broker.ReasonGrantRejected {
		t.Errorf("a proof used twice: %v", err)
	}
	req.Grant.DPoPProof = proof(t, key, server.RevocationEndpoint(), e.Told["dpop_nonce"])
	_, err = client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonDPoPProofInvalid)
}

func TestIntrospection(t *testing.T) {
	server := oidcprovider.Start(t, oidcprovider.Config{
		Clients:         []oidcprovider.Client{{ID: "basic", Secret: "s3cr3t-basic", Scopes: []string{"read", "write"}}},
		Resources:       []oidcprovider.Resource{{URI: ledger, Scopes: []string{"read", "write"}, Lifetime: 90 * time.Second, Opaque: true}},
		DefaultResource: ledger,
	})
	client := clientOf(t, server)
	req := requestOf(t, server.TokenEndpoint(), "basic", "s3cr3t-basic", broker.ClientSecretBasic)
	req.Resources, req.Scopes = nil, []string{"read", "write"}
	before := time.Now()
	token, err := client.RequestToken(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	question := broker.IntrospectionRequest{Endpoint: server.IntrospectionEndpoint(), Client: req, Token: token.AccessToken}
	got, err := client.Introspect(t.Context(), question)
	if err != nil {
		t.Fatal(err)
	}
	if left := got.ExpireTime.Sub(before); !got.Active || !slices.Equal(got.Scopes, req.Scopes) || left < 80*time.Second || left > 100*time.Second {
		t.Errorf("Introspect = %+v, want an active token of 90 s", got)
	}
	if err := client.RevokeToken(t.Context(), broker.RevocationRequest{
		Endpoint: server.RevocationEndpoint(), TokenEndpoint: req.Endpoint, Destinations: req.Destinations, Authentication: req.Authentication,
		ClientID: req.ClientID, Secret: req.Secret, Token: token.AccessToken,
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Introspect(t.Context(), question); err != nil || got.Active {
		t.Errorf("of a revoked token: %+v, %v", got, err)
	}
	question.Client.Secret = secret.NewString("wrong")
	_, err = client.Introspect(t.Context(), question)
	wantReason(t, err, broker.ReasonClientRejected)
}

func TestDiscovery(t *testing.T) {
	server, _ := start(t, false)
	client := clientOf(t, server)
	got, err := client.Discover(t.Context(), server.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	if got.TokenEndpoint != server.TokenEndpoint() || got.IntrospectionEndpoint != server.IntrospectionEndpoint() || got.RevocationEndpoint != server.RevocationEndpoint() ||
		!slices.Contains(got.AuthenticationMethods, broker.PrivateKeyJWT) || !slices.Contains(got.GrantTypes, "client_credentials") || len(got.Ignored) > 0 {
		t.Errorf("Discover = %+v", got)
	}
	_, err = client.Discover(t.Context(), server.Issuer()+"/")
	wantReason(t, err, broker.ReasonDiscoveryFailed)
}
