package bearer_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuerName = "https://issuer.example"
	audience   = "tokenbroker"
	jwksURL    = issuerName + "/keys"
)

// keys are made once: RSA takes long.
type keys struct {
	rsa, otherRSA, smallRSA *rsa.PrivateKey
	p256, p384, p521        *ecdsa.PrivateKey
	ed                      ed25519.PrivateKey
}

var testKeys = sync.OnceValue(func() keys {
	made := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var k keys
	var err error
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	made(err)
	k.otherRSA, err = rsa.GenerateKey(rand.Reader, 2048)
	made(err)
	k.smallRSA, err = rsa.GenerateKey(rand.Reader, 1024)
	made(err)
	k.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	made(err)
	k.p384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	made(err)
	k.p521, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	made(err)
	_, k.ed, err = ed25519.GenerateKey(rand.Reader)
	made(err)
	return k
})

// members is a JSON object to be.
type members map[string]any

// with returns a copy with changes; nil takes a member away.
func (m members) with(changes members) members {
	copied := maps.Clone(m)
	for name, value := range changes {
		if value == nil {
			delete(copied, name)
		} else {
			copied[name] = value
		}
	}
	return copied
}

// goodClaims are those of a token that is valid for an hour from now.
func goodClaims() members {
	now := time.Now().Unix()
	return members{"iss": issuerName, "aud": audience, "sub": "system:serviceaccount:crm:sync", "iat": now, "nbf": now, "exp": now + 3600, "jti": rand.Text()}
}

func rs256Header() members { return members{"alg": "RS256", "typ": "JWT", "kid": "rsa"} }

func encode(t testing.TB, value any) string {
	t.Helper()
	if text, ok := value.(string); ok {
		return base64.RawURLEncoding.EncodeToString([]byte(text))
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// compact makes a token of a header and claims, each an object or its text.
func compact(t testing.TB, header, claims any, sign func(input []byte) []byte) string {
	t.Helper()
	input := encode(t, header) + "." + encode(t, claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(input)))
}

func withRSA(t testing.TB, key *rsa.PrivateKey) func([]byte) []byte {
	return func(input []byte) []byte {
		digest := sha256.Sum256(input)
		signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
}

func withP256(t testing.TB, key *ecdsa.PrivateKey) func([]byte) []byte {
	return func(input []byte) []byte {
		digest := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		return signature
	}
}

// goodToken is signed by the RSA key.
func goodToken(t testing.TB) string {
	t.Helper()
	return compact(t, rs256Header(), goodClaims(), withRSA(t, testKeys().rsa))
}

func jwk(key any, id string) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key, KeyID: id, Use: "sig"}
}

// jwkSet is the text of a set; the usual one if no keys are given.
func jwkSet(t testing.TB, list ...jose.JSONWebKey) string {
	t.Helper()
	if len(list) == 0 {
		k := testKeys()
		list = []jose.JSONWebKey{
			jwk(k.rsa.Public(), "rsa"), jwk(k.p256.Public(), "p256"), jwk(k.p384.Public(), "p384"), jwk(k.p521.Public(), "p521"), jwk(k.ed.Public(), "ed"),
		}
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: list})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// everyAlgorithm lists all that can be configured.
var everyAlgorithm = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// withFile returns a verifier of one issuer whose keys are in a file.
func withFile(t testing.TB, set string, change ...func(*bearer.Issuer)) *bearer.Verifier {
	t.Helper()
	issuer := bearer.Issuer{
		Issuer: issuerName, Audiences: []string{"other", audience}, Algorithms: everyAlgorithm,
		JWKSFile: filepath.Join(t.TempDir(), "jwks.json"),
	}
	writeFile(t, issuer.JWKSFile, set)
	for _, c := range change {
		c(&issuer)
	}
	v, err := bearer.New(bearer.Config{Issuers: []bearer.Issuer{issuer}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantGood checks that a token is accepted.
func wantGood(t testing.TB, v *bearer.Verifier, token string) *bearer.Identity {
	t.Helper()
	id, err := v.Verify(t.Context(), token)
	if err != nil {
		t.Fatalf("refused a good token: %v", err)
	}
	return id
}

// wantRefused checks the cause, and that the error has nothing of the token.
func wantRefused(t testing.TB, v *bearer.Verifier, token string, cause bearer.Cause) *bearer.Error {
	t.Helper()
	id, err := v.Verify(t.Context(), token)
	var refused *bearer.Error
	if !errors.As(err, &refused) || id != nil {
		t.Fatalf("got %v, %v, want a refusal because of %s", id, err, cause)
	}
	if refused.Cause != cause {
		t.Fatalf("got %v, want %s", err, cause)
	}
	for segment := range strings.SplitSeq(token, ".") {
		if len(segment) > 3 && strings.Contains(err.Error(), segment) {
			t.Errorf("the error %q has a piece of the token", err)
		}
	}
	if strings.Contains(err.Error(), "serviceaccount") || strings.Contains(err.Error(), "canary") {
		t.Errorf("the error %q has a claim of the token", err)
	}
	return refused
}

func encodeJSON(t testing.TB, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
