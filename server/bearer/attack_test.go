package bearer_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// TestClaimAttacks has tokens that the issuer signed, and that are not for us, not now
// or not what we ask for.
func TestClaimAttacks(t *testing.T) {
	now := time.Now().Unix()
	tests := []struct {
		name   string
		claims any // a members is of changes
		want   bearer.Cause
		claim  string
	}{
		{"expired", members{"exp": now - 31}, bearer.Expired, ""},
		{"expired in 1970", members{"exp": 0}, bearer.Expired, ""},
		{"no exp", members{"exp": nil}, bearer.MissingClaim, "exp"},
		{"exp is text", members{"exp": "9999999999"}, bearer.InvalidClaim, "exp"},
		{"exp is beyond time", members{"exp": 1e300}, bearer.InvalidClaim, "exp"},
		{"exp is negative", members{"exp": -1}, bearer.InvalidClaim, "exp"},
		{"nbf in the future", members{"nbf": now + 60}, bearer.NotYetValid, ""},
		{"iat in the future", members{"iat": now + 60}, bearer.NotYetValid, ""},
		{"wrong issuer", members{"iss": "https://canary.example"}, bearer.UnknownIssuer, ""},
		{"issuer with a slash more", members{"iss": issuerName + "/"}, bearer.UnknownIssuer, ""},
		{"issuer in capitals", members{"iss": strings.ToUpper(issuerName)}, bearer.UnknownIssuer, ""},
		{"no issuer", members{"iss": nil}, bearer.MissingClaim, "iss"},
		{"issuer under another name", members{"iss": nil, "ISS": issuerName}, bearer.MissingClaim, "iss"},
		{"issuers", members{"iss": []string{issuerName}}, bearer.MissingClaim, "iss"},
		{"wrong audience", members{"aud": "canary"}, bearer.WrongAudience, ""},
		{"part of the audience", members{"aud": audience + "2"}, bearer.WrongAudience, ""},
		{"missing audience", members{"aud": nil}, bearer.MissingClaim, "aud"},
		{"no audiences", members{"aud": []string{}}, bearer.WrongAudience, ""},
		{"audiences are not text", members{"aud": []any{audience, 1}}, bearer.InvalidClaim, "aud"},
		{"audience is an object", members{"aud": members{"a": audience}}, bearer.InvalidClaim, "aud"},
		{"no subject", members{"sub": nil}, bearer.MissingClaim, "sub"},
		{"empty subject", members{"sub": ""}, bearer.InvalidClaim, "sub"},
		{"subject is a number", members{"sub": 7}, bearer.InvalidClaim, "sub"},
		{"subject with a line break", members{"sub": "canary\nx"}, bearer.InvalidClaim, "sub"},
		{"subject that is broken text", members{"sub": "canary\ufffd"}, bearer.InvalidClaim, "sub"},
		{"long subject", members{"sub": strings.Repeat("s", 513)}, bearer.InvalidClaim, "sub"},
		{"claims that are there twice", `{"iss":"` + issuerName + `","sub":"canary","sub":"b"}`, bearer.Malformed, ""},
		{"claims that are there twice under an escape", `{"iss":"` + issuerName + `","sub":"canary","s\u0075b":"b"}`, bearer.Malformed, ""},
		{"claims twice further in", `{"iss":"` + issuerName + `","a":[{"b":1,"b":2}]}`, bearer.Malformed, ""},
		{"claims are a list", `["` + issuerName + `"]`, bearer.Malformed, ""},
		{"claims are no JSON", `iss=` + issuerName, bearer.Malformed, ""},
		{"claims with more behind", `{"iss":"` + issuerName + `"}{}`, bearer.Malformed, ""},
		{"claims are not UTF-8", "{\"iss\":\"" + issuerName + "\",\"sub\":\"\xff\"}", bearer.Malformed, ""},
		{"claims go deep", strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000), bearer.Malformed, ""},
	}
	v := withFile(t, jwkSet(t))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			claims := test.claims
			if changes, ok := claims.(members); ok {
				claims = goodClaims().with(changes)
			}
			token := compact(t, rs256Header(), claims, withRSA(t, testKeys().rsa))
			for range 2 { // the second time not from a cache either
				if got := wantRefused(t, v, token, test.want); got.Claim != test.claim {
					t.Errorf("got claim %q, want %q", got.Claim, test.claim)
				}
			}
		})
	}
}

// hmacKeys are what a careless library would take for the secret of HS256.
func hmacKeys(t *testing.T) map[string][]byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(testKeys().rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PublicKey(&testKeys().rsa.PublicKey)
	return map[string][]byte{
		"the PEM":           pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"the PEM of PKCS#1": pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: pkcs1}),
		"the DER":           der,
		"the JWK":           []byte(jwkSet(t, jwk(testKeys().rsa.Public(), "rsa"))),
		"nothing":           {},
	}
}

// TestHeaderAttacks has tokens whose header leads astray.
func TestHeaderAttacks(t *testing.T) {
	k := testKeys()
	nothing := func([]byte) []byte { return nil }
	byRSA, byP256, byOther := withRSA(t, k.rsa), withP256(t, k.p256), withRSA(t, k.otherRSA)
	other := jwk(k.otherRSA.Public(), "rsa")
	tests := []struct {
		name   string
		header any // a members is of changes
		sign   func([]byte) []byte
		want   bearer.Cause
	}{
		{"signed by somebody else", members{}, byOther, bearer.BadSignature},
		{"signature of nothing", members{}, func([]byte) []byte { return make([]byte, 256) }, bearer.BadSignature},
		{"short signature", members{}, func([]byte) []byte { return []byte{1} }, bearer.BadSignature},
		{"no alg", members{"alg": nil}, byRSA, bearer.Malformed},
		{"alg is a list", members{"alg": []string{"RS256"}}, byRSA, bearer.Malformed},
		{"alg under another name", members{"alg": nil, "ALG": "RS256"}, byRSA, bearer.Malformed},
		{"alg in small letters", members{"alg": "rs256"}, byRSA, bearer.AlgorithmNotAllowed},
		{"ES256 token with an RS256 header", members{}, byP256, bearer.BadSignature},
		{"RS256 header with the EC key's kid", members{"kid": "p256"}, byP256, bearer.UnknownKey},
		{"ES256 header with the RSA key's kid", members{"alg": "ES256"}, byRSA, bearer.UnknownKey},
		{"ES256 header, signed with RSA", members{"alg": "ES256", "kid": "p256"}, byRSA, bearer.BadSignature},
		{"ES384 header with the P-256 key's kid", members{"alg": "ES384", "kid": "p256"}, byP256, bearer.UnknownKey},
		{"PS256 header, signed with PKCS#1", members{"alg": "PS256"}, byRSA, bearer.BadSignature},
		{"ECDSA of zeros", members{"alg": "ES256", "kid": "p256"}, func([]byte) []byte { return make([]byte, 64) }, bearer.BadSignature},
		{"EdDSA of zeros", members{"alg": "EdDSA", "kid": "ed"}, func([]byte) []byte { return make([]byte, 64) }, bearer.BadSignature},
		{"unknown kid", members{"kid": "canary"}, byRSA, bearer.UnknownKey},
		{"kid is a path", members{"kid": "../../dev/null"}, byRSA, bearer.UnknownKey},
		{"kid is a number", members{"kid": 1}, byRSA, bearer.Malformed},
		{"embedded jwk", members{"jwk": other}, byOther, bearer.BadSignature},
		{"embedded jwk without kid", members{"kid": nil, "jwk": other}, byOther, bearer.BadSignature},
		{"jku", members{"jku": "https://canary.example/keys"}, byOther, bearer.BadSignature},
		{"x5u", members{"x5u": "https://canary.example/cert"}, byOther, bearer.BadSignature},
		{"crit", members{"crit": []string{"exp"}, "exp": 1}, byRSA, bearer.HeaderNotAllowed},
		{"crit that is empty", members{"crit": []string{}}, byRSA, bearer.HeaderNotAllowed},
		{"b64", members{"b64": false, "crit": []string{"b64"}}, byRSA, bearer.HeaderNotAllowed},
		{"b64 alone", members{"b64": true}, byRSA, bearer.HeaderNotAllowed},
		{"enc", members{"enc": "A128GCM"}, byRSA, bearer.HeaderNotAllowed},
		{"another purpose", members{"typ": "logout+jwt"}, byRSA, bearer.TypeNotAllowed},
		{"typ that is empty", members{"typ": ""}, byRSA, bearer.Malformed},
		{"typ that is a number", members{"typ": 1}, byRSA, bearer.Malformed},
		{"alg twice", `{"alg":"none","alg":"RS256","kid":"rsa"}`, byRSA, bearer.Malformed},
		{"alg twice under an escape", `{"alg":"RS256","\u0061lg":"none","kid":"rsa"}`, byRSA, bearer.Malformed},
		{"header is a list", `["RS256"]`, byRSA, bearer.Malformed},
		{"header is null", `null`, byRSA, bearer.Malformed},
	}
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "", "HS384", "RSA1_5", "dir", " RS256", "RS256\x00", "ML-DSA-44"} {
		for what, sign := range map[string]func([]byte) []byte{"": byRSA, ", not signed": nothing} {
			want := bearer.AlgorithmNotAllowed
			if what != "" {
				want = bearer.Malformed
			}
			tests = append(tests, struct {
				name   string
				header any
				sign   func([]byte) []byte
				want   bearer.Cause
			}{"alg " + alg + what, members{"alg": alg}, sign, want})
		}
	}
	for what, secret := range hmacKeys(t) {
		tests = append(tests, struct {
			name   string
			header any
			sign   func([]byte) []byte
			want   bearer.Cause
		}{"HS256 with " + what, members{"alg": "HS256"}, func(input []byte) []byte {
			mac := hmac.New(sha256.New, secret)
			mac.Write(input)
			return mac.Sum(nil)
		}, bearer.AlgorithmNotAllowed})
	}
	v := withFile(t, jwkSet(t))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			header := test.header
			if changes, ok := header.(members); ok {
				header = rs256Header().with(changes)
			}
			wantRefused(t, v, compact(t, header, goodClaims(), test.sign), test.want)
		})
	}
}

// TestFormAttacks has texts that are no compact JWS.
func TestFormAttacks(t *testing.T) {
	good := goodToken(t)
	parts := strings.Split(good, ".")
	lastLetter := good[len(good)-1]
	jwe := func() string {
		encrypter, err := jose.NewEncrypter(jose.A128GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: testKeys().rsa.Public()}, nil)
		if err != nil {
			t.Fatal(err)
		}
		object, err := encrypter.Encrypt([]byte(good))
		if err != nil {
			t.Fatal(err)
		}
		text, err := object.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}()
	tests := []struct {
		name, token string
		want        bearer.Cause
	}{
		{"empty", "", bearer.Malformed},
		{"dots", "..", bearer.Malformed},
		{"two segments", parts[0] + "." + parts[1], bearer.Malformed},
		{"four segments", good + ".x", bearer.Malformed},
		{"two dots in a row", parts[0] + ".." + parts[2], bearer.Malformed},
		{"five segments", parts[0] + ".a.b.c.d", bearer.Malformed},
		{"JWE", jwe, bearer.Malformed},
		{"JSON serialization", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, bearer.Malformed},
		{"no signature", parts[0] + "." + parts[1] + ".", bearer.Malformed},
		{"a line break within", good[:20] + "\n" + good[20:], bearer.Malformed},
		{"a line break behind", good + "\n", bearer.Malformed},
		{"space before", " " + good, bearer.Malformed},
		{"padding", good + "==", bearer.Malformed},
		{"letters of the other base64", parts[0] + "." + parts[1] + ".+/+/", bearer.Malformed},
		{"bits that no byte uses", good[:len(good)-1] + string(nextLetter(lastLetter)), bearer.Malformed},
		{"oversized", good + strings.Repeat("A", 16<<10), bearer.TooLarge},
		{"oversized claims", compact(t, rs256Header(), goodClaims().with(members{"pad": strings.Repeat("x", 12<<10)}), withRSA(t, testKeys().rsa)), bearer.TooLarge},
	}
	v := withFile(t, jwkSet(t))
	wantGood(t, v, good)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { wantRefused(t, v, test.token, test.want) })
	}
}

// nextLetter changes the lowest bit of a base64url letter. The 256 bytes of an RSA
// signature leave four bits of its last letter unused.
func nextLetter(letter byte) byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return alphabet[strings.IndexByte(alphabet, letter)^1]
}

// TestPayloadIsWhatWasSigned: claims of one token under the signature of another.
func TestPayloadIsWhatWasSigned(t *testing.T) {
	v := withFile(t, jwkSet(t))
	mine := strings.Split(goodToken(t), ".")
	wantGood(t, v, strings.Join(mine, "."))
	admin := encode(t, goodClaims().with(members{"sub": "admin"}))
	wantRefused(t, v, mine[0]+"."+admin+"."+mine[2], bearer.BadSignature)
	header := encode(t, rs256Header().with(members{"x": 1}))
	wantRefused(t, v, header+"."+mine[1]+"."+mine[2], bearer.BadSignature)
	noise := make([]byte, 256)
	_, _ = rand.Read(noise)
	wantRefused(t, v, mine[0]+"."+mine[1]+"."+base64.RawURLEncoding.EncodeToString(noise), bearer.BadSignature)
}
