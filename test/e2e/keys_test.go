package e2e_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// signingKey is a private key in the forms in which operators have it.
type signingKey struct {
	pem, jwk string
	jwks     json.RawMessage // the public half, for a provider
	public   jose.JSONWebKey
	private  crypto.Signer
}

// newKey makes a key for one of the algorithms RS256, PS256, ES256 and EdDSA.
func newKey(t testing.TB, algorithm string) signingKey {
	t.Helper()
	var private crypto.Signer
	var err error
	switch algorithm {
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	id := "key-" + algorithm
	jwk, err := jose.JSONWebKey{Key: private, KeyID: id, Algorithm: algorithm, Use: "sig"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	k := signingKey{
		pem: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), jwk: string(jwk),
		public:  jose.JSONWebKey{Key: private.Public(), KeyID: id, Algorithm: algorithm, Use: "sig"},
		private: private,
	}
	if k.jwks, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.public}}); err != nil {
		t.Fatal(err)
	}
	return k
}

// pemOf returns a certificate as a file has it.
func pemOf(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}
