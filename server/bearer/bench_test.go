package bearer_test

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// kubernetesClaims are about what a projected service-account token has.
func kubernetesClaims() members {
	return goodClaims().with(members{"kubernetes.io": members{
		"namespace":      "crm",
		"node":           members{"name": "node-7", "uid": "0e8f1c1e-5e0e-4f0c-8a56-2f6f1f6f7b11"},
		"pod":            members{"name": "sync-7d9c6d7b9-abcde", "uid": "4c1de0ec-60e1-4cbb-8f2b-4b1e1f8fd8de"},
		"serviceaccount": members{"name": "sync", "uid": "d1e8b9a2-19a5-4e0e-9a4f-0e4a6d1b0c43"},
		"warnafter":      1_700_003_607,
	}})
}

// BenchmarkWarm is the hot path: a token that was shown before.
func BenchmarkWarm(b *testing.B) {
	v := withFile(b, jwkSet(b))
	token := compact(b, rs256Header(), kubernetesClaims(), withRSA(b, testKeys().rsa))
	wantGood(b, v, token)
	b.ReportMetric(float64(len(token)), "token-bytes")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCold is a token that is shown for the first time.
func BenchmarkCold(b *testing.B) {
	v := withFile(b, jwkSet(b), func(i *bearer.Issuer) { i.Leeway = 1 })
	for _, bench := range []struct{ name, alg, kid string }{{"RS256", "RS256", "rsa"}, {"ES256", "ES256", "p256"}} {
		b.Run(bench.name, func(b *testing.B) {
			sign := withRSA(b, testKeys().rsa)
			if bench.alg == "ES256" {
				sign = withP256(b, testKeys().p256)
			}
			tokens := make([]string, 512)
			for n := range tokens {
				tokens[n] = compact(b, members{"alg": bench.alg, "kid": bench.kid}, kubernetesClaims(), sign)
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n%len(tokens) == 0 { // what was remembered is forgotten
					b.StopTimer()
					v = withFile(b, jwkSet(b))
					b.StartTimer()
				}
				if _, err := v.Verify(b.Context(), tokens[n%len(tokens)]); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	}
}

// BenchmarkForged is a flood's unit of work.
func BenchmarkForged(b *testing.B) {
	v := withFile(b, jwkSet(b))
	signature := "." + strings.Repeat("A", 342)
	for name, changes := range map[string]members{"wrong audience": {"aud": "x"}, "bad signature": {}} {
		b.Run(name, func(b *testing.B) {
			token := encode(b, rs256Header()) + "." + encode(b, kubernetesClaims().with(changes)) + signature
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), token); err == nil {
					b.Fatal("accepted a forgery")
				}
			}
		})
	}
}
