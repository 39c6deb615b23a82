package oauth_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// keys are made once: an RSA key takes a while.
var keys = sync.OnceValue(func() (k struct {
	rsa, rsa1024 *rsa.PrivateKey
	p224, p256   *ecdsa.PrivateKey
	p384, p521   *ecdsa.PrivateKey
	ed           ed25519.PrivateKey
	agreement    *ecdh.PrivateKey
},
) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.rsa1024, err = rsa.GenerateKey(rand.Reader, 1024)
	must(err)
	for curve, key := range map[elliptic.Curve]**ecdsa.PrivateKey{
		elliptic.P224(): &k.p224, elliptic.P256(): &k.p256, elliptic.P384(): &k.p384, elliptic.P521(): &k.p521,
	} {
		*key, err = ecdsa.GenerateKey(curve, rand.Reader)
		must(err)
	}
	_, k.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	k.agreement, err = ecdh.X25519().GenerateKey(rand.Reader)
	must(err)
	return k
})

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("PRIVATE KEY", der)
}

func sec1(t testing.TB, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("EC PRIVATE KEY", der)
}

func jwk(t testing.TB, key jose.JSONWebKey) string {
	t.Helper()
	text, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func keyPEM(t testing.TB, kind string) string {
	t.Helper()
	if kind == "RSA PRIVATE KEY" {
		return encodePEM(kind, x509.MarshalPKCS1PrivateKey(keys().rsa))
	}
	return pkcs8(t, keys().p256)
}

func keyJWK(t testing.TB) string { return jwk(t, jose.JSONWebKey{Key: keys().p256, KeyID: "k1"}) }

func publicPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("PUBLIC KEY", der)
}

func TestUsableKeys(t *testing.T) {
	k := keys()
	tests := []struct{ name, key, algorithm string }{
		{"RSA PKCS#1", keyPEM(t, "RSA PRIVATE KEY"), ""},
		{"RSA PKCS#8", pkcs8(t, k.rsa), ""},
		{"RSA RS256", pkcs8(t, k.rsa), "RS256"},
		{"RSA RS384", pkcs8(t, k.rsa), "RS384"},
		{"RSA RS512", pkcs8(t, k.rsa), "RS512"},
		{"RSA PS256", pkcs8(t, k.rsa), "PS256"},
		{"RSA PS384", pkcs8(t, k.rsa), "PS384"},
		{"RSA PS512", pkcs8(t, k.rsa), "PS512"},
		{"P-256 SEC 1", sec1(t, k.p256), ""},
		{"P-256 PKCS#8", pkcs8(t, k.p256), "ES256"},
		{"P-384", pkcs8(t, k.p384), ""},
		{"P-384 ES384", pkcs8(t, k.p384), "ES384"},
		{"P-521", sec1(t, k.p521), "ES512"},
		{"Ed25519", pkcs8(t, k.ed), ""},
		{"Ed25519 EdDSA", pkcs8(t, k.ed), "EdDSA"},
		{"RSA JWK", jwk(t, jose.JSONWebKey{Key: k.rsa, Algorithm: "PS256", Use: "sig"}), ""},
		{"RSA JWK and setting", jwk(t, jose.JSONWebKey{Key: k.rsa, Algorithm: "PS256"}), "PS256"},
		{"EC JWK", keyJWK(t), ""},
		{"Ed25519 JWK", jwk(t, jose.JSONWebKey{Key: k.ed}), ""},
		{"white space around", "\n " + pkcs8(t, k.p256) + "\r\n", ""},
		{"line ends of Windows", strings.ReplaceAll(pkcs8(t, k.p256), "\n", "\r\n"), ""},
		{"byte order mark", "\ufeff" + pkcs8(t, k.p256), ""},
		{"parameters before", encodePEM("EC PARAMETERS", []byte{6, 1, 2}) + sec1(t, k.p256), ""},
		{"certificate and words beside", "Bag Attributes\n" + encodePEM("CERTIFICATE", []byte("x")) + pkcs8(t, k.p256), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			auth := broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: tt.algorithm}
			if err := oauth.CheckSecret(auth, secret.NewString(tt.key)); err != nil {
				t.Errorf("CheckSecret = %v, want nil", err)
			}
		})
	}
}

func TestUnusableKeys(t *testing.T) {
	k := keys()
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other.PublicKey = k.p256.PublicKey // the halves of two keys
	mixed := jwk(t, jose.JSONWebKey{Key: other})
	bare := func(members string) string { return `{"kty":"EC",` + members + `}` }
	wrapped := encodePEM("RSA PRIVATE KEY", []byte("x"))
	wrapped = strings.Replace(wrapped, "KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1)
	tests := []struct{ name, key, algorithm, text string }{
		{"empty", "", "", "is empty"},
		{"white space", " \n", "", "is empty"},
		{"a client secret", "canary-secret", "", "neither"},
		{"too large", strings.Repeat("a", broker.MaxSecretBytes+1), "", "at most"},
		{"encrypted PKCS#8", encodePEM("ENCRYPTED PRIVATE KEY", []byte("canary")), "", "encrypted with a passphrase"},
		{"encrypted PKCS#1", wrapped, "", "encrypted with a passphrase"},
		{"OpenSSH", encodePEM("OPENSSH PRIVATE KEY", []byte("canary")), "", "ssh-keygen"},
		{"DSA", encodePEM("DSA PRIVATE KEY", []byte("canary")), "", "DSA"},
		{"public", publicPEM(t, k.rsa), "", "public key or certificate only"},
		{"certificate", encodePEM("CERTIFICATE", []byte("canary")), "", "public key or certificate only"},
		{"two keys", pkcs8(t, k.p256) + pkcs8(t, k.p384), "", "more than one"},
		{"unknown block", encodePEM("CANARY", []byte("canary")), "", "no private key that can be read"},
		{"cut off", pkcs8(t, k.p256)[:80], "", "check that it is whole"},
		{"backslashes", strings.ReplaceAll(pkcs8(t, k.p256), "\n", `\n`), "", `two characters "\n"`},
		{"damaged PKCS#8", encodePEM("PRIVATE KEY", []byte("canary")), "", "cannot be read as PKCS#8"},
		{"damaged PKCS#1", encodePEM("RSA PRIVATE KEY", []byte("canary")), "", "cannot be read as PKCS#1"},
		{"damaged SEC 1", encodePEM("EC PRIVATE KEY", []byte("canary")), "", "cannot be read as SEC 1"},
		{"for agreement", pkcs8(t, k.agreement), "", "key agreement"},
		{"short RSA", pkcs8(t, k.rsa1024), "", "shorter than 2048"},
		{"short RSA JWK", jwk(t, jose.JSONWebKey{Key: k.rsa1024}), "", "shorter than 2048"},
		{"P-224", pkcs8(t, k.p224), "", "none of P-256"},
		{"RSA for ES256", pkcs8(t, k.rsa), "ES256", "ES256 cannot be signed with this key, which is for RS256"},
		{"P-256 for RS256", pkcs8(t, k.p256), "RS256", "RS256 cannot be signed with this key, which is for ES256"},
		{"P-256 for ES384", pkcs8(t, k.p256), "ES384", "which is for ES256"},
		{"Ed25519 for ES256", pkcs8(t, k.ed), "ES256", "which is for EdDSA"},
		{"JWK not JSON", `{"kty":"EC","d":"canary"`, "", "not valid JSON"},
		{"JWK set", `{"keys":[` + keyJWK(t) + `]}`, "", "set of JWKs"},
		{"JWK symmetric", `{"kty":"oct","k":"Y2FuYXJ5"}`, "", "symmetric"},
		{"JWK public", jwk(t, jose.JSONWebKey{Key: k.p256.Public()}), "", "public key"},
		{"JWK for encryption", jwk(t, jose.JSONWebKey{Key: k.p256, Use: "enc"}), "", "not for signatures"},
		{"JWK damaged", bare(`"crv":"P-256","x":"canary","y":"canary","d":"canary"`), "", "cannot be read"},
		{"JWK unknown kind", `{"kty":"canary","d":"canary"}`, "", "cannot be read"},
		{"JWK too long", `{"kty":"RSA","n":"` + strings.Repeat("a", 2000) + `","d":"canary"}`, "", "at most 4096 bits"},
		{"JWK for another algorithm", jwk(t, jose.JSONWebKey{Key: k.rsa, Algorithm: "PS256"}), "RS256", "the JWK is for PS256"},
		{"JWK for an unknown algorithm", jwk(t, jose.JSONWebKey{Key: k.rsa, Algorithm: "canary"}), "", "not one of"},
		{"JWK for another kind of key", jwk(t, jose.JSONWebKey{Key: k.rsa, Algorithm: "ES256"}), "", "which is for RS256"},
		{"JWK with foreign halves", mixed, "", "ES256"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			auth := broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: tt.algorithm}
			err := oauth.CheckSecret(auth, secret.NewString(tt.key))
			if tt.name == "JWK with foreign halves" {
				// Which of signing and verifying notices is up to crypto/ecdsa.
				wantReason(t, err, broker.ReasonSecretUnusable, "")
				return
			}
			wantReason(t, err, broker.ReasonSecretUnusable, tt.text)
		})
	}
}

func TestClientSecrets(t *testing.T) {
	tests := []struct{ name, value, text string }{
		{"special characters", "% + = / ~ ! : space ü \"", ""},
		{"looks like JSON", `{"a":1}`, ""},
		{"empty", "", "is empty"},
		{"too large", strings.Repeat("a", broker.MaxSecretBytes+1), "at most"},
		{"PEM", pkcs8(t, keys().p256), "private_key_jwt"},
		{"certificate", encodePEM("CERTIFICATE", []byte("x")), "PEM"},
		{"JWK", keyJWK(t), "private_key_jwt"},
		{"JWK set", `{"keys":[]}`, "JWK"},
		{"not UTF-8", "a\xffcanary", "not UTF-8"},
		{"line break at the end", "canary\n", "line break"},
		{"byte order mark", "\ufeffcanary", "control character"},
		{"NUL", "a\x00b", "control character"},
	}
	for _, tt := range tests {
		for _, method := range []broker.AuthenticationMethod{broker.ClientSecretBasic, broker.ClientSecretBasicRaw, broker.ClientSecretPost} {
			t.Run(tt.name+" "+string(method), func(t *testing.T) {
				err := oauth.CheckSecret(broker.Authentication{Method: method}, secret.NewString(tt.value))
				if tt.text == "" {
					if err != nil {
						t.Errorf("CheckSecret = %v, want nil", err)
					}
					return
				}
				wantReason(t, err, broker.ReasonSecretUnusable, tt.text)
			})
		}
	}
	err := oauth.CheckSecret(broker.Authentication{Method: "canary"}, secret.NewString("x"))
	wantReason(t, err, broker.ReasonInvalidRequest, "is not one of")
}
