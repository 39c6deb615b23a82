package bearer_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// TestRotation: a new kid is accepted after a fetch that it causes itself.
func TestRotation(t *testing.T) {
	k := testKeys()
	inWorld(t, serving(jwkSet(t, jwk(k.rsa.Public(), "rsa"))), func(t *testing.T, w *world) {
		old := goodToken(t)
		id := wantGood(t, w.Verifier, old)
		w.set(serving(jwkSet(t, jwk(k.rsa.Public(), "rsa"), jwk(k.otherRSA.Public(), "new"))))
		fresh := compact(t, rs256Header().with(members{"kid": "new"}), goodClaims(), withRSA(t, k.otherRSA))
		wantGood(t, w.Verifier, fresh)
		w.wantFetches(t, 2)
		wantGood(t, w.Verifier, old)
		if !w.Valid(id) {
			t.Error("an identity is not valid although its key is still there")
		}
		if got := w.Status()[0]; got.Keys != 2 || got.Generation != 2 || got.Err != nil || !got.FetchTime.Equal(time.Now()) {
			t.Errorf("got %+v", got)
		}
	})
}

// TestWithdrawal: a key that is gone from the set is gone, for remembered tokens too.
func TestWithdrawal(t *testing.T) {
	k := testKeys()
	for name, left := range map[string]string{
		"one key": jwkSet(t, jwk(k.rsa.Public(), "rsa")), "no key": `{"keys":[]}`, "another key of that name": jwkSet(t, jwk(k.otherRSA.Public(), "gone")),
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, serving(jwkSet(t, jwk(k.rsa.Public(), "rsa"), jwk(k.p256.Public(), "gone"))), func(t *testing.T, w *world) {
				token := compact(t, members{"alg": "ES256", "kid": "gone"}, goodClaims(), withP256(t, k.p256))
				id := wantGood(t, w.Verifier, token)
				w.set(serving(left))
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				wantRefused(t, w.Verifier, token, bearer.UnknownKey)
				if w.Valid(id) {
					t.Error("an identity is valid although its key was withdrawn")
				}
			})
		})
	}
}

// TestForgedFlood: no forgery causes a fetch, and a good token passes amid them.
func TestForgedFlood(t *testing.T) {
	k := testKeys()
	inWorld(t, serving(jwkSet(t)), func(t *testing.T, w *world) {
		good := goodToken(t)
		signature := strings.Repeat("A", 342)
		refusals := make(map[bearer.Cause]int)
		for n := range 10_000 {
			header := rs256Header()
			claims := goodClaims().with(members{"jti": fmt.Sprint(n)})
			switch n % 5 {
			case 0:
				header["kid"] = nil // as no kid
				delete(header, "kid")
			case 1:
				claims["exp"] = n
			case 2:
				claims["iss"] = fmt.Sprint(n)
			case 3:
				claims["aud"] = fmt.Sprint(n)
			}
			token := encode(t, header) + "." + encode(t, claims) + "." + signature
			_, err := w.Verify(t.Context(), token)
			var refused *bearer.Error
			if !errors.As(err, &refused) {
				t.Fatalf("accepted a forgery: %v", err)
			}
			refusals[refused.Cause]++
		}
		for cause, want := range map[bearer.Cause]int{bearer.BadSignature: 4_000, bearer.Expired: 2_000, bearer.UnknownIssuer: 2_000, bearer.WrongAudience: 2_000} {
			if refusals[cause] != want {
				t.Errorf("got %d refusals because of %s, want %d", refusals[cause], cause, want)
			}
		}
		wantGood(t, w.Verifier, good)
		wantRefused(t, w.Verifier, compact(t, rs256Header(), goodClaims(), withRSA(t, k.otherRSA)), bearer.BadSignature)
		w.wantFetches(t, 1)
	})
}

// TestUnknownKidFlood: one fetch in 30 s, and it stands in nobody's way, also if it
// hangs.
func TestUnknownKidFlood(t *testing.T) {
	flood := func(t *testing.T, w *world, seconds int) (longest time.Duration) {
		good := goodToken(t)
		var group sync.WaitGroup
		var mu sync.Mutex
		for second := range seconds {
			for n := range 100 {
				group.Go(func() {
					begun := time.Now()
					token := compact(t, rs256Header().with(members{"kid": fmt.Sprint(second, n)}), goodClaims(), func([]byte) []byte { return []byte("signature") })
					wantRefused(t, w.Verifier, token, bearer.UnknownKey)
					mu.Lock()
					defer mu.Unlock()
					longest = max(longest, time.Since(begun))
				})
			}
			synctest.Wait()
			begun := time.Now()
			wantGood(t, w.Verifier, good)
			wantGood(t, w.Verifier, goodToken(t)) // not remembered
			if waited := time.Since(begun); waited != 0 {
				t.Errorf("a good token waited %s", waited)
			}
			time.Sleep(time.Second)
		}
		group.Wait()
		return longest
	}
	t.Run("answering", func(t *testing.T) {
		inWorld(t, serving(jwkSet(t)), func(t *testing.T, w *world) {
			flood(t, w, 61) // seconds 0, 30 and 60 fetch
			w.wantFetches(t, 1+3)
		}, func(i *bearer.Issuer) { i.RefreshInterval = time.Hour })
	})
	t.Run("hanging", func(t *testing.T) {
		inWorld(t, serving(jwkSet(t)), func(t *testing.T, w *world) {
			w.set(hanging)
			if longest := flood(t, w, 20); longest != 2*time.Second {
				t.Errorf("a token with an unknown kid waited %s, want 2s", longest)
			}
			w.wantFetches(t, 1+1)
		})
	})
}

// TestFewWait: who floods us with unknown kids does not pile up behind a fetch.
func TestFewWait(t *testing.T) {
	inWorld(t, serving(jwkSet(t)), func(t *testing.T, w *world) {
		w.set(hanging)
		token := compact(t, rs256Header().with(members{"kid": "unknown"}), goodClaims(), withRSA(t, testKeys().rsa))
		var group sync.WaitGroup
		var waited atomic.Int32
		for range 500 {
			group.Go(func() {
				begun := time.Now()
				wantRefused(t, w.Verifier, token, bearer.UnknownKey)
				if time.Since(begun) > 0 {
					waited.Add(1)
				}
			})
		}
		group.Wait()
		if got := waited.Load(); got != 64 {
			t.Errorf("%d waited, want 64", got)
		}
	})
}

// TestWhichKey: without a kid, or where two keys share one, exactly one must fit.
func TestWhichKey(t *testing.T) {
	k := testKeys()
	set := jwkSet(t, jwk(k.rsa.Public(), "same"), jwk(k.otherRSA.Public(), "same"), jwk(k.p256.Public(), "same"), jwk(k.ed.Public(), ""))
	inWorld(t, serving(set), func(t *testing.T, w *world) {
		wantGood(t, w.Verifier, compact(t, members{"alg": "ES256"}, goodClaims(), withP256(t, k.p256)))
		wantGood(t, w.Verifier, compact(t, members{"alg": "ES256", "kid": "same"}, goodClaims(), withP256(t, k.p256)))
		wantRefused(t, w.Verifier, compact(t, members{"alg": "RS256"}, goodClaims(), withRSA(t, k.rsa)), bearer.UnknownKey)
		w.wantFetches(t, 1) // none of these asks for a fetch
		wantRefused(t, w.Verifier, compact(t, members{"alg": "RS256", "kid": "same"}, goodClaims(), withRSA(t, k.rsa)), bearer.UnknownKey)
		wantRefused(t, w.Verifier, compact(t, members{"alg": "EdDSA", "kid": "ed"}, goodClaims(), withRSA(t, k.rsa)), bearer.UnknownKey)
	})
}

// TestFailedFetch: whatever a server answers, the last good set stays in force until it
// is stale, and then nothing is said of tokens.
func TestFailedFetch(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string // in the error
	}{
		{"500", failing(500), "answered 500 Internal Server Error"},
		{"404", failing(404), "answered 404"},
		{"204", failing(204), "answered 204"},
		{"redirect", failing(302), "answered 302"},
		{"permanent redirect", failing(308), "answered 308"},
		{"slow", hanging, "did not answer in time"},
		{"nothing", serving(""), "is not JSON"},
		{"garbage", serving("\x00\xffcanary"), "is not JSON"},
		{"HTML", serving("<!DOCTYPE html><title>canary</title>"), "is not JSON"},
		{"half", serving(jwkSet(t)[:100]), "is not JSON"},
		{"no set", serving(`{"canary":[]}`), `no list "keys"`},
		{"keys is null", serving(`{"keys":null}`), `no list "keys"`},
		{"a list", serving(`[]`), "not a JSON object"},
		{"keys twice", serving(`{"keys":[],"keys":[]}`), "a member twice"},
		{"huge", serving(`{"keys":[` + strings.Repeat(" ", 1<<20) + `]}`), "over 1 MiB"},
		{"too many keys", serving(`{"keys":[` + strings.Repeat("{},", 64) + `{}]}`), "65 keys"},
		{"nested deep", serving(`{"keys":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`), "is not JSON"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, serving(jwkSet(t)), func(t *testing.T, w *world) {
				w.set(test.answer)
				remembered := compact(t, rs256Header(), goodClaims().with(members{"exp": time.Now().Unix() + 100_000}), withRSA(t, testKeys().rsa))
				id := wantGood(t, w.Verifier, remembered)
				time.Sleep(2*time.Hour - 10*time.Minute)
				wantGood(t, w.Verifier, goodToken(t))
				if err := w.Status()[0].Err; err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q in it", err, test.want)
				}
				time.Sleep(11 * time.Minute)
				for _, token := range []string{goodToken(t), remembered} {
					if refused := wantRefused(t, w.Verifier, token, bearer.KeysUnavailable); !refused.Unavailable() || refused.Err == nil {
						t.Errorf("got %+v, want it to be unavailable, with the reason", refused)
					}
				}
				if w.Valid(id) {
					t.Error("an identity is valid although no keys are in force")
				}
				w.set(serving(jwkSet(t)))
				time.Sleep(time.Minute)
				synctest.Wait()
				wantGood(t, w.Verifier, remembered)
				if warned := strings.Count(w.log.String(), "level=WARN"); warned != 1 {
					t.Errorf("the same failure was logged %d times, want once", warned)
				}
			}, func(i *bearer.Issuer) { i.MaxStale = 2 * time.Hour })
		})
	}
}

// TestBeforeTheFirstFetch: who comes early waits a little, and is never told that the
// token is bad.
func TestBeforeTheFirstFetch(t *testing.T) {
	inWorld(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Second)
		serving(jwkSet(t))(w, r)
	}, func(t *testing.T, w *world) {
		wantGood(t, w.Verifier, goodToken(t))
		w.wantFetches(t, 1)
	})
	inWorld(t, hanging, func(t *testing.T, w *world) {
		begun := time.Now()
		wantRefused(t, w.Verifier, goodToken(t), bearer.KeysUnavailable)
		if waited := time.Since(begun); waited != 2*time.Second {
			t.Errorf("waited %s, want 2s", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Verify(ctx, goodToken(t)); err == nil || time.Since(begun) != 3*time.Second {
			t.Errorf("got %v after %s, want a refusal after 3s", err, time.Since(begun))
		}
		wantRefused(t, w.Verifier, goodToken(t)+"=", bearer.Malformed) // no keys are needed to say so
	})
	inWorld(t, failing(503), func(t *testing.T, w *world) {
		for range 1000 {
			wantRefused(t, w.Verifier, goodToken(t), bearer.KeysUnavailable)
		}
		w.wantFetches(t, 1)
		time.Sleep(time.Second)
		synctest.Wait()
		w.wantFetches(t, 2)
		w.set(serving(jwkSet(t)))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		wantGood(t, w.Verifier, goodToken(t))
	})
}

func TestWithoutRun(t *testing.T) {
	w := &world{answer: serving(jwkSet(t))}
	v, err := bearer.New(bearer.Config{Transport: w, Issuers: []bearer.Issuer{{Issuer: issuerName, Audiences: []string{audience}, Algorithms: everyAlgorithm, JWKSURL: jwksURL}}})
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, v, goodToken(t), bearer.KeysUnavailable)
	w.wantFetches(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.Run(ctx); err != nil {
		t.Errorf("got %v", err)
	}
	if err := v.Run(ctx); err == nil {
		t.Error("Run can be called twice")
	}
}
