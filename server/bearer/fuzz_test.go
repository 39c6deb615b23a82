package bearer_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// FuzzVerify: whatever is shown, there is no panic, a refusal has a cause, and nothing
// is accepted but what was signed.
func FuzzVerify(f *testing.F) {
	v := withFile(f, jwkSet(f))
	good := goodToken(f)
	for _, seed := range []string{good, "", "..", "a.b.c", good + ".", good[:len(good)/2], `{"payload":""}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		id, err := v.Verify(t.Context(), token)
		if err == nil {
			if token != good || id.Name() == "" {
				t.Errorf("accepted %q", token)
			}
			return
		}
		var refused *bearer.Error
		if !errors.As(err, &refused) || !slices.Contains(bearer.Causes(), refused.Cause) {
			t.Errorf("got %v, want a refusal with a cause", err)
		}
	})
}

// FuzzParts mutates what is inside: header and claims, under a signature that is good.
func FuzzParts(f *testing.F) {
	v := withFile(f, jwkSet(f))
	f.Add(`{"alg":"RS256","kid":"rsa"}`, `{"iss":"https://issuer.example","aud":"tokenbroker","sub":"a","exp":99999999999}`)
	f.Add(`{"alg":"RS256","kid":"rsa","typ":"JWT","jwk":{}}`, `{"iss":"https://issuer.example","aud":["tokenbroker"],"sub":"a","exp":1e10,"nbf":0.5}`)
	f.Add(`{"alg":"RS256","crit":[]}`, `{"iss":"https://issuer.example","aud":[[]],"sub":{"a":"a"},"exp":-0}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		id, err := v.Verify(t.Context(), compact(t, header, claims, withRSA(t, testKeys().rsa)))
		if err == nil && (id.Subject == "" || id.Issuer != issuerName || id.KeyID != "rsa" || id.ExpireTime.IsZero()) {
			t.Errorf("accepted %s %s as %+v", header, claims, id)
		}
	})
}

// FuzzKeySet: whatever a set holds, there is no panic.
func FuzzKeySet(f *testing.F) {
	f.Add(jwkSet(f))
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"","y":""},{"kty":"OKP"},null,[],{"kty":"RSA","n":"AQAB","e":"AAAAAAAAAAAAAAAB"}]}`)
	f.Fuzz(func(t *testing.T, set string) {
		issuer := bearer.Issuer{Issuer: issuerName, Audiences: []string{audience}, Algorithms: everyAlgorithm, JWKSFile: t.TempDir() + "/jwks.json"}
		writeFile(t, issuer.JWKSFile, set)
		v, err := bearer.New(bearer.Config{Issuers: []bearer.Issuer{issuer}})
		if err == nil && v.Status()[0].Generation != 1 {
			t.Errorf("got %+v", v.Status())
		}
	})
}
