package e2e_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// hostile is a token endpoint that does what none should.
type hostile struct {
	name   string
	serve  http.HandlerFunc // nil: see endpoint
	reason string
	detail string // in what an operator is told
	most   int64  // requests; 0 is 3
	// endpoint is a URL that the test's own server does not serve.
	endpoint func(t *testing.T) string
}

// flood is how much the endless answer offers.
const flood = 10 << 30

func hostiles(elsewhere string, sent *atomic.Int64) []hostile {
	const once = 1
	say := func(status int, kind, body string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	const asJSON = "application/json"
	return []hostile{
		{name: "hangs", serve: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, reason: "UPSTREAM_TIMEOUT", detail: "waiting for the answer"},
		{name: "drips", serve: drip, reason: "UPSTREAM_TIMEOUT", detail: "reading the answer"},
		{name: "silent", endpoint: func(t *testing.T) string { return raw(t, func(net.Conn) {}, false) }, reason: "UPSTREAM_TLS", detail: "too long"},
		{name: "plaintext", endpoint: func(t *testing.T) string {
			return raw(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-x\r\n") }, true)
		}, reason: "UPSTREAM_TLS", detail: "does not speak TLS"},
		{name: "refuses", endpoint: func(t *testing.T) string { return "https://" + harness.UnusedAddress(t) + "/token" }, reason: "UPSTREAM_CONNECT", detail: "refused"},
		{name: "stranger", endpoint: func(t *testing.T) string { return newUpstream(t).TokenEndpoint() }, reason: "UPSTREAM_TLS", detail: "unknown authority"},

		{name: "redirects-307", serve: say(307, "text/html", "", "Location", elsewhere+"/token"), reason: "UPSTREAM_REDIRECTED", detail: elsewhere, most: once},
		{name: "redirects-302", serve: say(302, "text/html", "", "Location", elsewhere+"/token"), reason: "UPSTREAM_REDIRECTED", detail: elsewhere, most: once},
		{name: "garbage", serve: func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			_, _ = io.WriteString(conn, "\x00\x01garbage\r\n\r\n")
			_ = conn.Close()
		}, reason: "UPSTREAM_MALFORMED"},
		{name: "page", serve: say(200, "text/html", "<html>Please log in</html>"), reason: "UPSTREAM_MALFORMED"},
		{name: "half", serve: say(200, asJSON, `{"access_token":"x`), reason: "UPSTREAM_MALFORMED"},
		{name: "without-token", serve: say(200, asJSON, `{"token_type":"Bearer"}`), reason: "UPSTREAM_MALFORMED"},
		{name: "huge-token", serve: say(200, asJSON, `{"token_type":"Bearer","access_token":"`+strings.Repeat("x", 100<<10)+`"}`), reason: "UPSTREAM_MALFORMED"},
		{name: "deep", serve: say(200, asJSON, strings.Repeat("[", 500<<10)), reason: "UPSTREAM_MALFORMED"},
		{name: "flood", serve: func(w http.ResponseWriter, _ *http.Request) { pour(w, sent) }, reason: "UPSTREAM_MALFORMED", detail: "1 MiB"},
		{name: "flood-of-headers", serve: say(200, asJSON, "{}", "X-Long", strings.Repeat("x", 1<<20)), reason: "UPSTREAM_MALFORMED"},
		{name: "breaks-off", serve: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"access_token":`)
			panic(http.ErrAbortHandler)
		}, reason: "UPSTREAM_CONNECT"},
		{name: "another-type", serve: say(200, asJSON, `{"access_token":"x","token_type":"mac","expires_in":60}`), reason: "TOKEN_TYPE_UNSUPPORTED", most: once},
		{name: "expired", serve: say(200, asJSON, `{"access_token":"e30.eyJleHAiOjF9.x","token_type":"Bearer"}`), reason: "TOKEN_EXPIRED", most: once},
		{name: "fails", serve: say(500, "text/plain", "stack trace"), reason: "UPSTREAM_UNAVAILABLE"},
		{name: "limits", serve: say(429, asJSON, `{"error":"invalid_client"}`, "Retry-After", "86400"), reason: "UPSTREAM_RATE_LIMITED", most: once},
		{name: "bare-403", serve: say(403, "text/plain", ""), reason: "UPSTREAM_REFUSED", most: once},
		{name: "echoes", serve: echo, reason: "REQUEST_REJECTED", detail: "invalid_request", most: once},
	}
}

// drip sends a byte every now and then.
func drip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "100000")
	for {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// pour sends until nobody takes any more.
func pour(w http.ResponseWriter, sent *atomic.Int64) {
	w.Header().Set("Content-Type", "application/json")
	chunk := make([]byte, 64<<10)
	for total := 0; total < flood; {
		n, err := w.Write(chunk)
		sent.Add(int64(n))
		total += n
		if err != nil {
			return
		}
	}
}

// echo quotes all that it was sent in its refusal, as some servers do.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("WWW-Authenticate", r.Header.Get("Authorization"))
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `{"error":"invalid_request","error_description":%q}`, "cannot use "+r.Header.Get("Authorization")+" "+string(body))
}

// raw listens without HTTP and returns the https URL; serve gets each connection,
// which is closed at once or when the test ends.
func raw(t *testing.T, serve func(net.Conn), closeAtOnce bool) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range open {
			_ = conn.Close()
		}
	})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			if closeAtOnce {
				_ = conn.(*net.TCPConn).CloseWrite()
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
		}
	}()
	return "https://" + listener.Addr().String() + "/token"
}

// TestHostileEndpoints registers a client for each and asks for its token, all at
// once: each caller is told what is wrong, in time; nobody else waits; the server
// keeps its memory, and its secrets to itself.
func TestHostileEndpoints(t *testing.T) {
	t.Parallel()
	needServers(t)
	up := newUpstream(t, firstSecret)
	var reached, sent atomic.Int64
	elsewhere := raw(t, func(net.Conn) { reached.Add(1) }, true)
	elsewhere = strings.TrimSuffix(elsewhere, "/token")
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	n := s.start(t, program(t))
	create := func(id, endpoint string) {
		if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient(id, endpoint), Secret: secretInput(firstSecret)}); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
	}
	create("healthy", up.TokenEndpoint())
	list := hostiles(elsewhere, &sent)
	requests := make([]atomic.Int64, len(list))
	for i, h := range list {
		endpoint := up.origin + "/" + h.name
		if h.endpoint != nil {
			endpoint = h.endpoint(t)
		} else {
			up.mux.HandleFunc("/"+h.name, func(w http.ResponseWriter, r *http.Request) {
				requests[i].Add(1)
				h.serve(w, r)
			})
		}
		create(h.name, endpoint)
	}
	var running sync.WaitGroup
	for i, h := range list {
		running.Go(func() {
			const within = 25 * time.Second
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			_, err := n.operator.tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + h.name})
			wantReason(t, h.name, err, h.reason, h.detail)
			if got, most := requests[i].Load(), cmp.Or(h.most, 3); got > most {
				t.Errorf("%s: %d requests, want at most %d", h.name, got, most)
			}
			if took := time.Since(began); took > within-time.Second {
				t.Errorf("%s: took %v", h.name, took)
			}
			// A day is more than the broker lets itself be told.
			if delay := retryDelay(err); h.name == "limits" && (delay < time.Minute || delay > time.Hour) {
				t.Errorf("%s: retry after %v, want a minute to an hour", h.name, delay)
			}
		})
	}
	// A caller in a hurry is let go, and a healthy client does not notice.
	running.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.token(ctx, "clients/hangs"); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("with a deadline of a second: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := n.token(ctx, "clients/healthy"); err != nil {
			t.Errorf("a healthy client beside hostile ones: %v", err)
		}
	})
	running.Wait()
	if reached.Load() != 0 {
		t.Errorf("the target of redirects was connected to %d times", reached.Load())
	}
	if got := sent.Load(); got > 100<<20 {
		t.Errorf("took %d MiB of the flood", got>>20)
	}
	if peak := peakMemory(t, n.pid()); peak > 600<<10 {
		t.Errorf("the server took %d MiB of memory", peak>>10)
	}
	for what, text := range map[string]string{"log": n.log.String(), "answers": s.heard.String()} {
		if strings.Contains(text, firstSecret) || strings.Contains(text, "Zmlyc3Qt") || strings.Contains(text, "stack trace") {
			t.Errorf("the %s hold the secret or an endpoint's own words", what)
		}
	}
	n.stop(t)
}

// retryDelay is RetryInfo's.
func retryDelay(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// peakMemory returns the most memory that a process ever had, in KiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	var peak int
	for line := range strings.Lines(string(content)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &peak); err == nil {
			return peak
		}
	}
	t.Fatal("no VmHWM in /proc/PID/status")
	return 0
}

// TestPrivateAddresses are refused unless the configuration allows them: when a
// client is registered, and later, when the configuration has changed.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	needServers(t)
	up := newUpstream(t, firstSecret)
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	n := s.start(t, program(t))
	if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("inside", up.TokenEndpoint()), Secret: secretInput(firstSecret)}); err != nil {
		t.Fatal(err)
	}
	n.stop(t)

	delete(s.config["upstream"].(map[string]any), "allowed_addresses")
	n = s.start(t, program(t))
	_, err := n.operator.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/inside"})
	wantReason(t, "GetToken from loopback", err, "UPSTREAM_ADDRESS_REFUSED", "loopback")
	if up.Requests() != 0 {
		t.Errorf("the refused address got %d requests", up.Requests())
	}
	for _, endpoint := range []string{
		up.TokenEndpoint(), "https://localhost/token", "https://10.1.2.3/token", "https://169.254.169.254/latest", "https://[::1]/token",
		"https://[::ffff:10.0.0.1]/token", "https://0x7f.1/token", "https://2130706433/token", "https://192.168.0.1:8443/token", "http://example.com/token",
	} {
		_, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("refused", endpoint), Secret: secretInput(firstSecret)})
		wantReason(t, endpoint, err, "UPSTREAM_ADDRESS_REFUSED")
	}
	n.stop(t)
}
