package client_test

import (
	"context"
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
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/client"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// proven is what a proof says once its signature was verified by the key in it.
type proven struct {
	Method string `json:"htm"`
	Target string `json:"htu"`
	Nonce  string `json:"nonce"`
	Hash   string `json:"ath"`
	ID     string `json:"jti"`
	Issued int64  `json:"iat"`

	thumbprint string
}

func prove(text string) (proven, error) {
	signed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.EdDSA, jose.PS256})
	if err != nil {
		return proven{}, err
	}
	header := signed.Signatures[0].Protected
	if header.JSONWebKey == nil || !header.JSONWebKey.IsPublic() || header.ExtraHeaders["typ"] != "dpop+jwt" {
		return proven{}, errors.New("the header is not a proof's")
	}
	payload, err := signed.Verify(header.JSONWebKey)
	if err != nil {
		return proven{}, err
	}
	var p proven
	if err := json.Unmarshal(payload, &p); err != nil {
		return proven{}, err
	}
	sum, err := header.JSONWebKey.Thumbprint(crypto.SHA256)
	p.thumbprint = base64.RawURLEncoding.EncodeToString(sum)
	return p, err
}

// boundBroker is a broker whose client is bound by DPoP at a server that wants nonces. It
// is a connection by itself, of which only GetToken is known.
type boundBroker struct {
	grpc.ClientConnInterface

	mu     sync.Mutex // guards what follows
	htu    string
	nonce  string // the one that is wanted; "" wants none
	fickle bool   // whatever nonce comes, another one is wanted
	fail   error  // is answered instead of a token
	calls  []string
	proofs map[string]bool // jti that were seen
}

func boundError(code codes.Code, reason client.Reason, metadata map[string]string) error {
	metadata["recovery"], metadata["request_id"] = "FIX_CALLER", "REQUEST-1"
	s, err := status.New(code, string(reason)).WithDetails(&errdetails.ErrorInfo{Reason: string(reason), Domain: "tokenbroker", Metadata: metadata})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func (b *boundBroker) Invoke(_ context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	request := args.(*pb.GetTokenRequest)
	told := map[string]string{"htu": b.htu}
	if request.GetDpopProof() == "" {
		b.calls = append(b.calls, "none")
		return boundError(codes.FailedPrecondition, client.ReasonDPoPProofRequired, told)
	}
	p, err := prove(request.GetDpopProof())
	if err != nil || p.Method != "POST" || p.Target != b.htu || p.ID == "" || b.proofs[p.ID] || time.Since(time.Unix(p.Issued, 0)) > time.Minute {
		b.calls = append(b.calls, "bad")
		return boundError(codes.InvalidArgument, client.ReasonDPoPProofInvalid, told)
	}
	b.proofs[p.ID] = true
	if p.Nonce != b.nonce || b.fickle {
		b.calls = append(b.calls, "nonce "+p.Nonce)
		told["dpop_nonce"] = b.nonce
		return boundError(codes.FailedPrecondition, client.ReasonDPoPNonceRequired, told)
	}
	b.calls = append(b.calls, "good")
	if b.fail != nil {
		return b.fail
	}
	now := time.Now()
	answer := reply.(*pb.GetTokenResponse)
	answer.AccessToken, answer.TokenType, answer.TokenId = "bound-token", "DPoP", "0123456789abcdef"
	answer.IssueTime, answer.ExpireTime = timestamppb.New(now), timestamppb.New(now.Add(time.Hour))
	return nil
}

func (b *boundBroker) seen() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := strings.Join(b.calls, ", ")
	b.calls = nil
	return all
}

func newBound(t *testing.T) (*boundBroker, *client.DPoPKey, *client.Client) {
	t.Helper()
	b := &boundBroker{htu: "https://as.example/token", nonce: "n1", proofs: map[string]bool{}}
	signer := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	key := must[*client.DPoPKey](t)(client.NewDPoPKey(signer))
	c := client.NewFromConn(b, client.WithDPoP(key))
	t.Cleanup(func() { _ = c.Close() })
	return b, key, c
}

func TestProofsForTheBroker(t *testing.T) {
	b, _, c := newBound(t)
	ask := func() error {
		_, err := c.Token(t.Context(), client.Request{Client: "clients/acme"})
		return err
	}
	steps := []struct {
		name   string
		change func()
		want   string
	}{
		{"cold", func() {}, "none, nonce , good"},
		{"warm", func() {}, "good"},
		{"a new nonce", func() { b.nonce = "n2" }, "nonce n1, good"},
		{"another endpoint", func() { b.htu = "https://other.example/token" }, "bad, nonce , good"},
		{"no nonce", func() { b.htu, b.nonce = "https://third.example/token", "" }, "bad, good"},
	}
	for _, step := range steps {
		b.mu.Lock()
		step.change()
		b.mu.Unlock()
		if err := ask(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := b.seen(); got != step.want {
			t.Errorf("%s: the broker saw %q, want %q", step.name, got, step.want)
		}
	}
	b.mu.Lock()
	b.fail = boundError(codes.Unavailable, client.ReasonUpstreamUnavailable, map[string]string{})
	b.mu.Unlock()
	var e *client.Error
	if err := ask(); !errors.As(err, &e) || e.Reason != client.ReasonUpstreamUnavailable {
		t.Errorf("error = %v", err)
	}
	if got := b.seen(); got != "good" {
		t.Errorf("the broker saw %q, want one proof", got)
	}
}

// TestProofsThatCannotHelp end after the tries that could.
func TestProofsThatCannotHelp(t *testing.T) {
	b, _, c := newBound(t)
	for _, tt := range []struct {
		name   string
		change func()
		reason client.Reason
	}{
		{"no endpoint", func() { b.htu = "" }, client.ReasonDPoPProofRequired},
		{"always another nonce", func() { b.htu, b.fickle = "https://as.example/token", true }, client.ReasonDPoPNonceRequired},
	} {
		b.mu.Lock()
		tt.change()
		b.mu.Unlock()
		_, err := c.Token(t.Context(), client.Request{Client: "clients/acme"})
		var e *client.Error
		if !errors.As(err, &e) || e.Reason != tt.reason || e.Metadata["request_id"] != "REQUEST-1" {
			t.Errorf("%s: error = %v, want %s", tt.name, err, tt.reason)
		}
		if got := strings.Count(b.seen(), ","); got > 2 {
			t.Errorf("%s: %d calls, want 3 at most", tt.name, got+1)
		}
	}
}

// TestUnprovenErrorsHaveMetadata, for callers with keys of their own.
func TestUnprovenErrorsHaveMetadata(t *testing.T) {
	b, _, _ := newBound(t)
	c := client.NewFromConn(b)
	defer func() { _ = c.Close() }()
	_, err := c.Token(t.Context(), client.Request{Client: "clients/acme"})
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != client.ReasonDPoPProofRequired || e.Metadata["htu"] != b.htu || b.seen() != "none" {
		t.Errorf("error = %+v", e)
	}
}

// boundAPI checks what RFC 9449 §4.3 has it check.
type boundAPI struct {
	t     *testing.T
	nonce string // wanted; "" wants none
	mode  string // what else it does
	mu    sync.Mutex
	saw   []string
	used  map[string]bool
}

func (a *boundAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	p, err := prove(r.Header.Get("DPoP"))
	token, bound := strings.CutPrefix(r.Header.Get("Authorization"), "DPoP ")
	sum := sha256.Sum256([]byte(token))
	switch {
	case err != nil, !bound, token != "bound-token", p.Hash != base64.RawURLEncoding.EncodeToString(sum[:]), a.used[p.ID],
		p.Method != r.Method, p.Target != "http://"+r.Host+"/orders":
		a.t.Errorf("%s %s with proof %+v, %v, of a token %q", r.Method, r.URL, p, err, r.Header.Get("Authorization"))
	}
	a.used[p.ID] = true
	a.saw = append(a.saw, p.Nonce+":"+string(body))
	if p.Nonce != a.nonce {
		w.Header().Set("DPoP-Nonce", a.nonce)
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce", error_description="nonce"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if a.mode == "next nonce" {
		a.nonce = "n-next"
		w.Header().Set("DPoP-Nonce", a.nonce)
	}
	_, _ = io.WriteString(w, "orders")
}

func TestProofsForAPIs(t *testing.T) {
	_, _, c := newBound(t)
	api := &boundAPI{t: t, used: map[string]bool{}}
	server := httptest.NewServer(api)
	defer server.Close()
	rt := must[*client.RoundTripper](t)(c.Source(client.Request{Client: "clients/acme"}).RoundTripper(server.Client().Transport, server.URL))
	steps := []struct {
		name, nonce, mode, body, want string
		stream                        bool // the body cannot be sent again
		status                        int
	}{
		{"plain", "", "", "", ":", false, 200},
		{"nonce", "a", "", "x", ":x a:x", false, 200},
		{"known nonce", "a", "next nonce", "x", "a:x", false, 200},
		{"nonce for the next", "n-next", "", "", "n-next:", false, 200},
		{"body gone", "b", "", "x", "n-next:x", true, 401},
		{"nonce learned from it", "b", "", "x", "b:x", true, 200},
	}
	for _, step := range steps {
		api.mu.Lock()
		api.nonce, api.mode, api.saw = step.nonce, step.mode, nil
		api.mu.Unlock()
		var body io.Reader = strings.NewReader(step.body)
		if step.stream {
			body = io.NopCloser(body)
		}
		request := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/orders?page=1", body))
		response, err := rt.RoundTrip(request)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if got := strings.Join(api.saw, " "); got != step.want || response.StatusCode != step.status {
			t.Errorf("%s: the API saw %q and answered %d, want %q and %d", step.name, got, response.StatusCode, step.want, step.status)
		}
		if request.Header.Get("DPoP") != "" || request.Header.Get("Authorization") != "" {
			t.Errorf("%s: the caller's request was changed", step.name)
		}
	}
}

func TestDPoPKeys(t *testing.T) {
	weak := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024))
	small := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	for name, key := range map[string]crypto.Signer{"RSA 1024": weak, "P-224": small, "none": nil} {
		if _, err := client.NewDPoPKey(key); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, signer := range map[string]crypto.Signer{
		"Ed25519": edwards, "RSA": must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)),
		"P-521": must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)),
	} {
		key, err := client.NewDPoPKey(signer)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := "client.DPoPKey(" + key.Thumbprint() + ")"; fmt.Sprintf("%+v", key) != want || len(key.Thumbprint()) != 43 {
			t.Errorf("%s prints as %+v, want %s", name, key, want)
		}
	}
}
