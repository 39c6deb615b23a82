package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/bearer"
)

const issuerName = "https://issuer.example.org"

// issuer signs tokens and serves its keys through an http.RoundTripper.
type issuer struct {
	t   *testing.T
	key *ecdsa.PrivateKey

	mu      sync.Mutex // guards the rest
	keys    jose.JSONWebKeySet
	fetches int
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, key: newKey(t)}
	i.keys.Keys = []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}
	return i
}

// RoundTrip implements http.RoundTripper.
func (i *issuer) RoundTrip(request *http.Request) (*http.Response, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fetches++
	body, err := json.Marshal(i.keys)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(body))), Request: request}, err
}

// withdraw takes all keys out of the set.
func (i *issuer) withdraw() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys.Keys = []jose.JSONWebKey{}
}

// fetched returns how often the keys were asked for.
func (i *issuer) fetched() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// verifier trusts the issuer; it runs until the test ends, and has the keys.
func (i *issuer) verifier() *bearer.Verifier {
	i.t.Helper()
	v, err := bearer.New(bearer.Config{Transport: i, Issuers: []bearer.Issuer{{
		Issuer: issuerName, Audiences: []string{"tokenbroker"}, Algorithms: []string{"ES256"}, JWKSURL: issuerName + "/keys",
	}}})
	must(i.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = v.Run(ctx) }()
	i.t.Cleanup(func() { cancel(); <-ended })
	for v.Status()[0].Keys == 0 { // Run begins in its own time
		time.Sleep(time.Millisecond)
	}
	return v
}

// token signs one for subject; edit may change its claims.
func (i *issuer) token(subject string, edit func(map[string]any)) string {
	i.t.Helper()
	claims := map[string]any{"iss": issuerName, "aud": "tokenbroker", "sub": subject, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	if edit != nil {
		edit(claims)
	}
	payload, err := json.Marshal(claims)
	must(i.t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "k1"))
	must(i.t, err)
	signed, err := signer.Sign(payload)
	must(i.t, err)
	compact, err := signed.CompactSerialize()
	must(i.t, err)
	return compact
}

// withBearer returns a context whose calls carry token.
func withBearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// callersTable has a job that a token names, by itself or over the CRM's connection.
const callersTable = `callers:
  - {name: crm, identities: ["` + callerIdentity + `"]}
  - {name: alone, identities: ["jwt:` + issuerName + `#alone"]}
  - {name: job, identities: ["jwt:` + issuerName + `#job"], requires: ["` + callerIdentity + `"]}
rules:
  - {callers: ["*"], permissions: [client.read], clients: ["*"]}
...
`

func tableOf(t *testing.T, text string) *access.Reloader {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.yaml")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	table, err := access.NewReloader(path, nil)
	must(t, err)
	return table
}

func TestBearerTokens(t *testing.T) {
	i, a := newIssuer(t), newAuthority(t)
	files := a.serverFiles(t)
	w := newWorld(t, setup{tls: &files, access: tableOf(t, callersTable), bearer: i.verifier()})
	certificates := map[string]*tls.Certificate{"": nil, "crm": a.caller(t, callerIdentity), "stranger": a.caller(t, "spiffe://example.org/x")}
	expired := i.token("alone", func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() })
	foreign := newIssuer(t).token("alone", nil)
	for _, test := range []struct {
		name, certificate string
		authorization     []string
		want              string // the caller; "" for nobody
		cause             string
	}{
		{"token alone", "", []string{"Bearer " + i.token("alone", nil)}, "alone", ""},
		{"scheme in capitals", "", []string{"BEARER " + i.token("alone", nil)}, "alone", ""},
		{"certificate alone", "crm", nil, "crm", ""},
		{"token of nobody", "", []string{"Bearer " + i.token("nobody", nil)}, "", "CALLER_UNAUTHENTICATED"},
		{"token of nobody, certificate of somebody", "crm", []string{"Bearer " + i.token("nobody", nil)}, "crm", ""},
		{"token of somebody, certificate of nobody", "stranger", []string{"Bearer " + i.token("alone", nil)}, "alone", ""},
		{"two callers", "crm", []string{"Bearer " + i.token("alone", nil)}, "", "CALLER_UNAUTHENTICATED"},
		{"job over the connection it requires", "crm", []string{"Bearer " + i.token("job", nil)}, "job", ""},
		{"job over another connection", "stranger", []string{"Bearer " + i.token("job", nil)}, "", "CALLER_UNAUTHENTICATED"},
		{"job over no connection of its own", "", []string{"Bearer " + i.token("job", nil)}, "", "CALLER_UNAUTHENTICATED"},
		{"good certificate, expired token", "crm", []string{"Bearer " + expired}, "", "expired"},
		{"good certificate, forged token", "crm", []string{"Bearer " + foreign}, "", "bad_signature"},
		{"wrong audience", "", []string{"Bearer " + i.token("alone", func(c map[string]any) { c["aud"] = "other" })}, "", "wrong_audience"},
		{"not yet", "", []string{"Bearer " + i.token("alone", func(c map[string]any) { c["nbf"] = time.Now().Add(time.Hour).Unix() })}, "", "not_yet_valid"},
		{"other issuer", "", []string{"Bearer " + i.token("alone", func(c map[string]any) { c["iss"] = "https://evil.example" })}, "", "unknown_issuer"},
		{"two tokens", "", []string{"Bearer " + i.token("alone", nil), "Bearer " + i.token("alone", nil)}, "", "more than one authorization"},
		{"another scheme", "crm", []string{"Basic Y3JtOmNybQ=="}, "", "no bearer token"},
		{"no scheme", "", []string{i.token("alone", nil)}, "", "no bearer token"},
		{"empty", "crm", []string{"Bearer "}, "", "malformed"},
		{"too large", "", []string{"Bearer " + strings.Repeat("a", 14<<10)}, "", "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := w.connectTLS(t, a, certificates[test.certificate])
			ctx := t.Context()
			for _, value := range test.authorization {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", value)
			}
			_, err := p.clients.GetClient(ctx, &pb.GetClientRequest{Name: "clients/nobody"})
			if line := w.logs.last(t); test.want == "" {
				requireProblem(t, err, codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
				if line["caller"] != nil || !strings.Contains(fmt.Sprint(line["cause"]), test.cause) {
					t.Errorf("got the log line %v, want the cause %s and nobody", line, test.cause)
				}
			} else {
				requireProblem(t, err, codes.NotFound, broker.ReasonClientNotFound)
				if line["caller"] != test.want {
					t.Errorf("got the caller %v, want %s", line["caller"], test.want)
				}
			}
			entries := w.audit.entries(t)
			if entry := entries[len(entries)-1]; (test.want != "") != (entry["caller"] == test.want) {
				t.Errorf("got the entry %v, want the caller %q", entry, test.want)
			}
			// Health takes anybody, also with a credential that does not hold.
			_, err = p.health.Check(ctx, &healthpb.HealthCheckRequest{})
			must(t, err)
			for _, text := range []string{w.logs.String(), w.audit.String()} {
				for _, value := range test.authorization {
					if _, token, _ := strings.Cut(value, " "); len(token) > 20 && strings.Contains(text, token[len(token)-20:]) {
						t.Error("the token stands in the log or the audit")
					}
				}
			}
		})
	}
}

// TestHeadersOfAMegabyte never get as far as a handler.
func TestHeadersOfAMegabyte(t *testing.T) {
	i, a := newIssuer(t), newAuthority(t)
	files := a.serverFiles(t)
	w := newWorld(t, setup{tls: &files, access: tableOf(t, callersTable), bearer: i.verifier()})
	p := w.connectTLS(t, a, nil)
	if _, err := p.clients.GetClient(withBearer(t.Context(), strings.Repeat("a", 1<<20)), &pb.GetClientRequest{Name: "clients/a"}); err == nil {
		t.Error("a header of 1 MiB was let in")
	}
	_, err := p.clients.GetClient(withBearer(t.Context(), i.token("alone", nil)), &pb.GetClientRequest{Name: "clients/a"})
	requireProblem(t, err, codes.NotFound, broker.ReasonClientNotFound)
}

// TestWithoutIssuersTokensAreNotLookedAt: an operator may have a proxy that adds some.
func TestWithoutIssuersTokensAreNotLookedAt(t *testing.T) {
	w := newWorld(t, setup{})
	_, err := w.clients.GetClient(withBearer(t.Context(), "nonsense"), &pb.GetClientRequest{Name: "clients/a"})
	requireProblem(t, err, codes.NotFound, broker.ReasonClientNotFound)
}

// TestForgedTokens floods the server: no fetch of keys comes of it, good tokens go on
// working, and stop when their key is withdrawn.
func TestForgedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		w := newWorld(t, setup{access: tableOf(t, callersTable), bearer: i.verifier()})
		synctest.Wait()
		before := i.fetched()
		good, forged := i.token("alone", nil), newIssuer(t).token("alone", nil)
		ask := func(token string) error {
			_, err := w.clients.GetClient(withBearer(t.Context(), token), &pb.GetClientRequest{Name: "clients/a"})
			return err
		}
		head, _, _ := cutLast(forged, ".")
		for n := range 10_000 {
			token := forged
			if n > 0 { // another signature for each
				token = fmt.Sprintf("%s.%s%06d", head, strings.Repeat("A", 80), n)
			}
			if err := ask(token); problemOf(err).code != codes.Unauthenticated {
				t.Fatalf("forged token %d: %v", n, err)
			}
		}
		requireProblem(t, ask(good), codes.NotFound, broker.ReasonClientNotFound)
		if got := i.fetched(); got != before {
			t.Errorf("the flood made %d fetches of keys", got-before)
		}
		i.withdraw()
		time.Sleep(10 * time.Minute) // the keys are fetched again
		requireProblem(t, ask(good), codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
	})
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// TestKeysThatCannotBeHad: the caller may be who it says, so it is told to try again.
func TestKeysThatCannotBeHad(t *testing.T) {
	i := newIssuer(t)
	v, err := bearer.New(bearer.Config{Transport: i, Issuers: []bearer.Issuer{{
		Issuer: issuerName, Audiences: []string{"tokenbroker"}, Algorithms: []string{"ES256"}, JWKSURL: issuerName + "/keys",
	}}})
	must(t, err) // it never runs
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{access: tableOf(t, callersTable), bearer: v})
		_, err := w.clients.GetClient(withBearer(t.Context(), i.token("alone", nil)), &pb.GetClientRequest{Name: "clients/a"}, grpc.WaitForReady(true))
		requireProblem(t, err, codes.Unavailable, broker.ReasonCallerKeysUnavailable)
	})
}
