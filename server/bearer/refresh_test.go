package bearer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// world is an issuer on no network, and a verifier that runs.
type world struct {
	*bearer.Verifier
	fetches atomic.Int32
	log     safeBuffer

	mu     sync.Mutex // guards answer
	answer http.HandlerFunc
}

// RoundTrip lets the handler answer, as long as the request is not given up.
func (w *world) RoundTrip(request *http.Request) (*http.Response, error) {
	w.fetches.Add(1)
	w.mu.Lock()
	answer := w.answer
	w.mu.Unlock()
	recorder := httptest.NewRecorder()
	answer(recorder, request)
	if err := request.Context().Err(); err != nil {
		return nil, err
	}
	return recorder.Result(), nil
}

func (w *world) set(answer http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func serving(body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		_, _ = io.WriteString(w, body)
	}
}

func failing(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", issuerName+"/elsewhere")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "canary")
	}
}

// hanging answers when the request is given up.
func hanging(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// inWorld runs a test in virtual time, with a verifier that has made its first fetch.
func inWorld(t *testing.T, first http.HandlerFunc, test func(t *testing.T, w *world), change ...func(*bearer.Issuer)) {
	t.Helper()
	testKeys() // not in virtual time
	synctest.Test(t, func(t *testing.T) {
		w := &world{answer: first}
		issuer := bearer.Issuer{Issuer: issuerName, Audiences: []string{audience}, Algorithms: everyAlgorithm, JWKSURL: jwksURL}
		for _, c := range change {
			c(&issuer)
		}
		var err error
		w.Verifier, err = bearer.New(bearer.Config{Issuers: []bearer.Issuer{issuer}, Transport: w, Logger: slog.New(slog.NewTextHandler(&w.log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		test(t, w)
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if text := w.log.String(); strings.Contains(text, "canary") || strings.Contains(text, "eyJ") {
			t.Errorf("the log has what a server or a token said: %s", text)
		}
	})
}

func (w *world) wantFetches(t *testing.T, want int) {
	t.Helper()
	if got := int(w.fetches.Load()); got != want {
		t.Errorf("got %d fetches, want %d", got, want)
	}
}

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

// TestInterval: Cache-Control says when to come back, within bounds.
func TestInterval(t *testing.T) {
	tests := []struct {
		header string
		fixed  time.Duration
		want   time.Duration
	}{
		{"", 0, 5 * time.Minute},
		{"public, max-age=600", 0, 10 * time.Minute},
		{"Max-Age=\"600\"", 0, 10 * time.Minute},
		{"max-age=0", 0, time.Minute},
		{"no-store", 0, time.Minute},
		{"max-age=99999999999999", 0, time.Hour},
		{"max-age=99999999999999999999999", 0, 5 * time.Minute},
		{"max-age=-1", 0, 5 * time.Minute},
		{"max-age=3600", 2 * time.Minute, 2 * time.Minute},
	}
	for _, test := range tests {
		t.Run(test.header, func(t *testing.T) {
			inWorld(t, serving(jwkSet(t), "Cache-Control", test.header), func(t *testing.T, w *world) {
				time.Sleep(test.want*9/10 - time.Millisecond)
				w.wantFetches(t, 1)
				time.Sleep(test.want/10 + 2*time.Millisecond)
				w.wantFetches(t, 2)
				if generation := w.Status()[0].Generation; generation != 1 {
					t.Errorf("got generation %d of the same keys, want 1", generation)
				}
			}, func(i *bearer.Issuer) { i.RefreshInterval = test.fixed })
		})
	}
}

func TestDiscovery(t *testing.T) {
	document := func(issuer, uri string) string {
		return fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"token_endpoint":"https://canary.example"}`, issuer, uri)
	}
	tests := []struct {
		name, document string
		want           string // in the error; "" for a good one
	}{
		{"good", document(issuerName, jwksURL), ""},
		{"keys on another host", document(issuerName, "https://keys.example/keys"), ""},
		{"another issuer", document("https://canary.example", jwksURL), "issuer is not the configured one"},
		{"issuer with a slash more", document(issuerName+"/", jwksURL), "issuer is not the configured one"},
		{"no issuer", `{"jwks_uri":"` + jwksURL + `"}`, "issuer is not the configured one"},
		{"issuer twice", `{"issuer":"a","issuer":"` + issuerName + `"}`, "a member twice"},
		{"plain http", document(issuerName, "http://canary.example/keys"), "must be an https URL"},
		{"loopback", document(issuerName, "http://127.0.0.1/canary"), "must be an https URL"},
		{"a file", document(issuerName, "file:///etc/canary"), "not a URL with a host"},
		{"no keys", `{"issuer":"` + issuerName + `"}`, "not a URL with a host"},
		{"HTML", "<canary>", "is not JSON"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.String() {
				case issuerName + "/.well-known/openid-configuration":
					serving(test.document)(w, r)
				case jwksURL, "https://keys.example/keys":
					serving(jwkSet(t))(w, r)
				default:
					t.Errorf("asked for %s", r.URL)
				}
			}, func(t *testing.T, w *world) {
				if test.want == "" {
					wantGood(t, w.Verifier, goodToken(t))
					return
				}
				if refused := wantRefused(t, w.Verifier, goodToken(t), bearer.KeysUnavailable); !strings.Contains(refused.Error(), test.want) {
					t.Errorf("got %v, want %q in it", refused, test.want)
				}
			}, func(i *bearer.Issuer) { i.JWKSURL, i.Discovery = "", true })
		})
	}
}
