package bearer_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// TestEveryAlgorithm has tokens that somebody else's library signed.
func TestEveryAlgorithm(t *testing.T) {
	k := testKeys()
	v := withFile(t, jwkSet(t))
	private := map[string]any{"rsa": k.rsa, "p256": k.p256, "p384": k.p384, "p521": k.p521, "ed": k.ed}
	for alg, id := range map[string]string{
		"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
		"ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed",
	} {
		t.Run(alg, func(t *testing.T) {
			key := jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: jose.JSONWebKey{Key: private[id], KeyID: id}}
			signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
			if err != nil {
				t.Fatal(err)
			}
			payload := encodeJSON(t, goodClaims())
			signed, err := signer.Sign(payload)
			if err != nil {
				t.Fatal(err)
			}
			token, err := signed.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			got := wantGood(t, v, token)
			if got.Algorithm != alg || got.KeyID != id || len(got.KeyThumbprint) != 43 {
				t.Errorf("got %s by key %s (%s)", got.Algorithm, got.KeyID, got.KeyThumbprint)
			}
			last := strings.LastIndexByte(token, '.')
			forged := []byte(token)
			forged[last+5] = nextLetter(forged[last+5])
			wantRefused(t, v, string(forged), bearer.BadSignature)
		})
	}
}

func TestIdentity(t *testing.T) {
	v := withFile(t, jwkSet(t))
	claims := goodClaims()
	token := compact(t, rs256Header(), claims, withRSA(t, testKeys().rsa))
	id := wantGood(t, v, token)
	if got, want := id.Name(), "jwt:"+issuerName+"#system:serviceaccount:crm:sync"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if id.ExpireTime.Unix() != claims["exp"] || id.IssueTime.Unix() != claims["iat"] || id.Issuer != issuerName {
		t.Errorf("got %+v", id)
	}
	if again := wantGood(t, v, token); again != id {
		t.Error("the second time is not remembered")
	}
	if !v.Valid(id) {
		t.Error("a fresh identity is not valid")
	}
}

// TestRules has what configuration can ask for.
func TestRules(t *testing.T) {
	now := time.Now().Unix()
	pod := members{"kubernetes.io": members{"namespace": "crm", "serviceaccount": members{"name": "sync", "uid": "u-1"}}}
	require := func(claims map[string]string) func(*bearer.Issuer) {
		return func(i *bearer.Issuer) { i.RequiredClaims = claims }
	}
	subject := func(name string) func(*bearer.Issuer) {
		return func(i *bearer.Issuer) { i.SubjectClaim = name }
	}
	lifetime := func(i *bearer.Issuer) { i.MaxLifetime = time.Hour }
	plain := func(*bearer.Issuer) {}
	tests := []struct {
		name           string
		issuer         func(*bearer.Issuer)
		header, claims members // changes
		want           bearer.Cause
		claim          string
	}{
		{name: "several audiences", issuer: plain, claims: members{"aud": []string{"x", audience}}},
		{name: "within the leeway past exp", issuer: plain, claims: members{"exp": now - 20}},
		{name: "within the leeway before nbf", issuer: plain, claims: members{"nbf": now + 20, "iat": now + 20}},
		{name: "fractions of seconds", issuer: plain, claims: members{"exp": float64(now) + 60.5}},
		{name: "no typ", issuer: plain, header: members{"typ": nil}},
		{name: "typ of RFC 9068", issuer: plain, header: members{"typ": "at+jwt"}},
		{name: "typ in full", issuer: plain, header: members{"typ": "application/AT+JWT"}},
		{name: "keys in the header", issuer: plain, header: members{"jwk": jwk(testKeys().otherRSA.Public(), "x"), "jku": "https://canary.example", "x5u": "https://canary.example"}},
		{name: "a broken key in the header", issuer: plain, header: members{"jwk": members{"kty": "RSA"}}, want: bearer.Malformed},
		{name: "a private key in the header", issuer: plain, header: members{"jwk": jwk(testKeys().otherRSA, "x")}, want: bearer.Malformed},
		{name: "only one typ", issuer: func(i *bearer.Issuer) { i.Types = []string{"at+JWT"} }, header: members{"typ": "at+jwt"}},
		{name: "typ that is not on the list", issuer: func(i *bearer.Issuer) { i.Types = []string{"at+jwt"} }, want: bearer.TypeNotAllowed},
		{name: "no typ where one is asked for", issuer: func(i *bearer.Issuer) { i.Types = []string{"JWT"} }, header: members{"typ": nil}, want: bearer.TypeNotAllowed},
		{name: "alg that is not on the list", issuer: func(i *bearer.Issuer) { i.Algorithms = []string{"PS256", "ES256"} }, want: bearer.AlgorithmNotAllowed},
		{name: "lifetime", issuer: lifetime},
		{name: "lifetime too long", issuer: lifetime, claims: members{"exp": now + 3700}, want: bearer.LifetimeTooLong},
		{name: "lifetime without iat", issuer: lifetime, claims: members{"iat": nil}, want: bearer.MissingClaim, claim: "iat"},
		{name: "required", issuer: require(map[string]string{"azp": "crm", "/kubernetes.io/serviceaccount/name": "sync"}), claims: pod.with(members{"azp": "crm"})},
		{name: "required has another value", issuer: require(map[string]string{"/kubernetes.io/namespace": "erp"}), claims: pod, want: bearer.WrongClaim, claim: "/kubernetes.io/namespace"},
		{name: "required is missing", issuer: require(map[string]string{"/kubernetes.io/pod/name": "a"}), claims: pod, want: bearer.MissingClaim, claim: "/kubernetes.io/pod/name"},
		{name: "required leads through text", issuer: require(map[string]string{"/kubernetes.io/namespace/x": "a"}), claims: pod, want: bearer.MissingClaim, claim: "/kubernetes.io/namespace/x"},
		{name: "required is no text", issuer: require(map[string]string{"azp": "true"}), claims: members{"azp": true}, want: bearer.InvalidClaim, claim: "azp"},
		{name: "dots do not lead into claims", issuer: require(map[string]string{"kubernetes.io": "crm", "a.b": "c"}), claims: members{"a": members{"b": "c"}}, want: bearer.MissingClaim, claim: "a.b"},
		{name: "dots are of the name", issuer: require(map[string]string{"a.b": "c"}), claims: members{"a.b": "c"}},
		{name: "slashes are of the name", issuer: require(map[string]string{"https://example.com/team": "crm"}), claims: members{"https://example.com/team": "crm"}},
		{name: "slashes within a pointer", issuer: require(map[string]string{"/https:~1~1example.com~1team/~0n": "crm"}), claims: members{"https://example.com/team": members{"~n": "crm"}}},
		{name: "escape of an escape", issuer: require(map[string]string{"/~01": "x"}), claims: members{"~1": "x"}},
		{name: "another subject", issuer: subject("/kubernetes.io/serviceaccount/uid"), claims: pod},
		{name: "another subject is missing", issuer: subject("client_id"), want: bearer.MissingClaim, claim: "client_id"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := withFile(t, jwkSet(t), test.issuer)
			token := compact(t, rs256Header().with(test.header), goodClaims().with(test.claims), withRSA(t, testKeys().rsa))
			if test.want == "" {
				wantGood(t, v, token)
			} else if got := wantRefused(t, v, token, test.want); got.Claim != test.claim || got.Issuer != issuerName {
				t.Errorf("got claim %q of issuer %q, want %q", got.Claim, got.Issuer, test.claim)
			}
		})
	}
}

// TestIssuersKeepApart: the keys of one issuer are none for another.
func TestIssuersKeepApart(t *testing.T) {
	k := testKeys()
	dir := t.TempDir()
	issuer := func(name, file, set string) bearer.Issuer {
		writeFile(t, dir+file, set)
		return bearer.Issuer{Issuer: name, Audiences: []string{audience}, Algorithms: []string{"RS256"}, JWKSFile: dir + file}
	}
	v, err := bearer.New(bearer.Config{Issuers: []bearer.Issuer{
		issuer("https://a.example", "/a.json", jwkSet(t, jwk(k.rsa.Public(), "k"))),
		issuer("https://b.example", "/b.json", jwkSet(t, jwk(k.otherRSA.Public(), "k"))),
	}})
	if err != nil {
		t.Fatal(err)
	}
	header := rs256Header().with(members{"kid": "k"})
	wantGood(t, v, compact(t, header, goodClaims().with(members{"iss": "https://a.example"}), withRSA(t, k.rsa)))
	wantGood(t, v, compact(t, header, goodClaims().with(members{"iss": "https://b.example"}), withRSA(t, k.otherRSA)))
	wantRefused(t, v, compact(t, header, goodClaims().with(members{"iss": "https://b.example"}), withRSA(t, k.rsa)), bearer.BadSignature)
	wantRefused(t, v, compact(t, header, goodClaims(), withRSA(t, k.rsa)), bearer.UnknownIssuer)
}

// TestExpiryOfWhatIsRemembered: the cache does not keep a token alive.
func TestExpiryOfWhatIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := withFile(t, jwkSet(t))
		token := compact(t, rs256Header(), goodClaims().with(members{"exp": time.Now().Unix() + 60}), withRSA(t, testKeys().rsa))
		id := wantGood(t, v, token)
		time.Sleep(90*time.Second - time.Millisecond)
		wantGood(t, v, token)
		time.Sleep(time.Millisecond)
		wantRefused(t, v, token, bearer.Expired)
		if v.Valid(id) {
			t.Error("an expired identity is valid")
		}
	})
}

func TestSingleUse(t *testing.T) {
	single := func(i *bearer.Issuer) { i.SingleUse, i.MaxLifetime = true, time.Hour }
	synctest.Test(t, func(t *testing.T) {
		v := withFile(t, jwkSet(t), single)
		byRSA := withRSA(t, testKeys().rsa)
		claims := goodClaims()
		token := compact(t, rs256Header(), claims, byRSA)
		results := make(chan error, 20)
		for range cap(results) {
			go func() {
				_, err := v.Verify(t.Context(), token)
				results <- err
			}()
		}
		accepted := 0
		for range cap(results) {
			if err := <-results; err == nil {
				accepted++
			}
		}
		if accepted != 1 {
			t.Errorf("a token was accepted %d times, want once", accepted)
		}
		wantRefused(t, v, compact(t, rs256Header().with(members{"x": "y"}), claims, byRSA), bearer.Replayed) // the same jti
		wantRefused(t, v, compact(t, rs256Header(), claims.with(members{"jti": nil}), byRSA), bearer.MissingClaim)
		fresh := claims.with(members{"jti": "fresh"})
		wantRefused(t, v, compact(t, rs256Header(), fresh, withRSA(t, testKeys().otherRSA)), bearer.BadSignature)
		wantGood(t, v, compact(t, rs256Header(), fresh, byRSA)) // a forgery uses up nothing
		for range 7 {                                           // up to the last second of its life
			time.Sleep(515 * time.Second)
			wantGood(t, v, goodToken(t))
			wantRefused(t, v, token, bearer.Replayed)
		}
		time.Sleep(25 * time.Second)
		wantRefused(t, v, token, bearer.Expired)
	})
}

// TestSingleUseAtTheEdges: a token of an issuer whose clock is ahead lives longest, and
// is remembered as long.
func TestSingleUseAtTheEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := withFile(t, jwkSet(t), func(i *bearer.Issuer) { i.SingleUse, i.MaxLifetime = true, time.Hour })
		wantGood(t, v, goodToken(t))
		time.Sleep(time.Hour - time.Second)
		ahead := time.Now().Unix() + 29
		token := compact(t, rs256Header(), goodClaims().with(members{"iat": ahead, "nbf": ahead, "exp": ahead + 3600}), withRSA(t, testKeys().rsa))
		wantGood(t, v, token)
		time.Sleep(time.Second)
		wantGood(t, v, goodToken(t))
		time.Sleep(time.Hour + 50*time.Second)
		wantGood(t, v, goodToken(t))
		wantRefused(t, v, token, bearer.Replayed)
		time.Sleep(10 * time.Second)
		wantRefused(t, v, token, bearer.Expired)
	})
}
