package oauth_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// selfSignedPEM makes a certificate for key that key signed itself.
func selfSignedPEM(t *testing.T, key crypto.Signer, change func(*x509.Certificate)) string {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "canary-7f3a9c"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour).Truncate(time.Second),
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("CERTIFICATE", der)
}

// clientPEM is a key and its certificate.
func clientPEM(t *testing.T) string {
	t.Helper()
	return pkcs8(t, keys().p256) + selfSignedPEM(t, keys().p256, nil)
}

// TestCertificateBesideTheKey: an assertion says which certificate its key belongs to,
// if that was staged with the key.
func TestCertificateBesideTheKey(t *testing.T) {
	client, server, last := capture(t)
	k := keys()
	own := selfSignedPEM(t, k.rsa, nil)
	block, _ := pem.Decode([]byte(own))
	sum := sha256.Sum256(block.Bytes)
	want := base64.RawURLEncoding.EncodeToString(sum[:])
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	foreign := selfSignedPEM(t, k.p256, nil)
	for _, test := range []struct{ name, secret, want string }{
		{"none", pkcs8(t, k.rsa), ""},
		{"behind the key", pkcs8(t, k.rsa) + own, want},
		{"before the key", own + pkcs8(t, k.rsa), want},
		{"behind its issuer's", pkcs8(t, k.rsa) + foreign + own, want},
		{"of another key", pkcs8(t, k.rsa) + foreign, ""},
		{"damaged", pkcs8(t, k.rsa) + encodePEM("CERTIFICATE", []byte("x")), ""},
		{"JWK", jwk(t, jose.JSONWebKey{Key: k.rsa}), ""},
		{"JWK with x5c", jwk(t, jose.JSONWebKey{Key: k.rsa, Certificates: []*x509.Certificate{certificate}}), want},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := tokenRequest(server)
			req.Secret = secret.NewString(test.secret)
			req.Authentication = broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: "PS256"}
			if _, err := client.RequestToken(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			signed, err := jose.ParseSignedCompact(last.Load().form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.PS256})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := signed.Verify(k.rsa.Public()); err != nil {
				t.Error(err)
			}
			if got, _ := signed.Signatures[0].Header.ExtraHeaders["x5t#S256"].(string); got != test.want {
				t.Errorf("x5t#S256 is %q, want %q", got, test.want)
			}
		})
	}
}

func TestCertificatesThatDoNotFit(t *testing.T) {
	k := keys()
	own := func(change func(*x509.Certificate)) string {
		return pkcs8(t, k.p256) + selfSignedPEM(t, k.p256, change)
	}
	tests := []struct {
		name, secret, text string // "" is one that fits
	}{
		{"key and certificate", own(nil), ""},
		{"certificate first", selfSignedPEM(t, k.p256, nil) + pkcs8(t, k.p256), ""},
		{"issuer before leaf", pkcs8(t, k.p256) + selfSignedPEM(t, k.rsa, nil) + selfSignedPEM(t, k.p256, nil), ""},
		{"Ed25519", pkcs8(t, k.ed) + selfSignedPEM(t, k.ed, nil), ""},
		{"nothing", "", "empty"},
		{"a client secret", canary, "this is not PEM"},
		{"a JWK", keyJWK(t), "this is not PEM"},
		{"no certificate", pkcs8(t, k.p256), "no certificate beside the private key"},
		{"no key", selfSignedPEM(t, k.p256, nil), "the private key is needed"},
		{"another key's", pkcs8(t, k.rsa) + selfSignedPEM(t, k.p256, nil), "does not belong to the private key"},
		{"damaged", pkcs8(t, k.p256) + encodePEM("CERTIFICATE", []byte("canary-7f3a9c")), "cannot be read"},
		{"too many", own(nil) + strings.Repeat(selfSignedPEM(t, k.p256, nil), 10), "more than 10"},
		{"expired", own(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "the certificate expired at 20"},
		{"not yet", own(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "good only from 20"},
	}
	for _, method := range []broker.AuthenticationMethod{broker.TLSClientAuth, broker.SelfSignedTLSClientAuth} {
		for _, tt := range tests {
			t.Run(string(method)+"/"+tt.name, func(t *testing.T) {
				err := oauth.CheckSecret(broker.Authentication{Method: method}, secret.NewString(tt.secret))
				if tt.text == "" {
					if err != nil {
						t.Errorf("CheckSecret = %v", err)
					}
					return
				}
				wantReason(t, err, broker.ReasonSecretUnusable, tt.text)
			})
		}
	}
}

func TestSecretExpiry(t *testing.T) {
	auth := broker.Authentication{Method: broker.TLSClientAuth}
	want := time.Now().Add(48 * time.Hour).Truncate(time.Second).UTC()
	value := pkcs8(t, keys().p256) + selfSignedPEM(t, keys().p256, func(c *x509.Certificate) { c.NotAfter = want })
	if got, ok := oauth.SecretExpiry(auth, secret.NewString(value)); !ok || !got.Equal(want) {
		t.Errorf("SecretExpiry = %v, %t, want %v", got, ok, want)
	}
	for name, value := range map[string]string{"no certificate": pkcs8(t, keys().p256), "nothing": ""} {
		if got, ok := oauth.SecretExpiry(auth, secret.NewString(value)); ok {
			t.Errorf("%s: SecretExpiry = %v", name, got)
		}
	}
	if _, ok := oauth.SecretExpiry(broker.Authentication{Method: broker.PrivateKeyJWT}, secret.NewString(value)); ok {
		t.Error("a key of private_key_jwt has an expiry")
	}
}

// TestPublicKeyHasTheSelfSignedCertificate as RFC 8705 §2.2.2 has servers look for it.
func TestPublicKeyHasTheSelfSignedCertificate(t *testing.T) {
	public, err := oauth.PublicKey(secret.NewString(clientPEM(t)))
	if err != nil {
		t.Fatal(err)
	}
	var key struct{ X5C []string }
	if err := json.Unmarshal([]byte(public), &key); err != nil || len(key.X5C) != 1 || strings.Contains(public, `"d"`) {
		t.Errorf("PublicKey = %s, %v, want one certificate and no private key", public, err)
	}
}

// TestConnectionsAreNotShared counts connections and looks at who presents what: two
// clients with certificates, and one without, to one server.
func TestConnectionsAreNotShared(t *testing.T) {
	var mu sync.Mutex
	presented := map[string]int{} // connection and certificate → requests
	connections := map[string]bool{}
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		name := "none"
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		presented[name]++
		if connections[r.RemoteAddr] && name != "none" {
			t.Errorf("a connection of %s was used before", name)
		}
		connections[r.RemoteAddr] = true
		answer(200, `{"access_token":"at"}`)(w, r)
	}, func(s *httptest.Server, _ *oauth.Config) {
		_, others := issue(t, func(c *x509.Certificate) { c.Subject.CommonName = "hinted at" })
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: others}
	})
	named := func(name string) secret.Value {
		return secret.NewString(pkcs8(t, keys().p256) + selfSignedPEM(t, keys().p256, func(c *x509.Certificate) { c.Subject.CommonName = name }))
	}
	requests := map[string]broker.TokenRequest{"none": tokenRequest(server)}
	for _, name := range []string{"one", "two"} {
		req := tokenRequest(server)
		req.Authentication.Method, req.Secret = broker.SelfSignedTLSClientAuth, named(name)
		requests[name] = req
	}
	for range 3 {
		for _, req := range requests {
			if _, err := client.RequestToken(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name := range requests {
		if presented[name] != 3 {
			t.Errorf("%s was presented %d times, want 3", name, presented[name])
		}
	}
}

// TestRefusedCertificates says that it is the client's credential that is not taken.
func TestRefusedCertificates(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			client, server := serve(t, answer(200, `{"access_token":"at"}`), func(s *httptest.Server, _ *oauth.Config) {
				s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool(), MaxVersion: version}
			})
			req := tokenRequest(server)
			req.Authentication.Method, req.Secret = broker.TLSClientAuth, secret.NewString(clientPEM(t))
			_, err := client.RequestToken(t.Context(), req)
			wantReason(t, err, broker.ReasonClientRejected, "does not take the client's certificate: ")
		})
	}
}

func TestCertificatesAreForTLSOnly(t *testing.T) {
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true})
	defer client.Close()
	req := requestTo("http://127.0.0.1:1/token")
	req.Authentication.Method, req.Secret = broker.TLSClientAuth, secret.NewString(clientPEM(t))
	_, err := client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonUpstreamAddressRefused, "over https only")
}
