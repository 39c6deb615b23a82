package oauth_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// serveRaw answers each TLS connection by what handle does to it.
func serveRaw(t *testing.T, handle func(net.Conn)) (*oauth.Client, string) {
	t.Helper()
	model := httptest.NewUnstartedServer(nil)
	model.StartTLS() // for its certificate
	model.Close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: model.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			handlers.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	roots := x509.NewCertPool()
	roots.AddCert(model.Certificate())
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true, RootCAs: roots, Timeout: 5 * time.Second})
	t.Cleanup(func() {
		client.Close()
		_ = listener.Close()
		handlers.Wait()
	})
	return client, "https://" + listener.Addr().String() + "/token"
}

// readRequest reads until the end of the request that these tests send.
func readRequest(conn net.Conn) string {
	buf := make([]byte, 4096)
	n, _ := conn.Read(buf)
	if text := string(buf[:n]); strings.HasSuffix(text, "client_credentials") {
		return text
	}
	m, _ := conn.Read(buf[n:])
	return string(buf[:n+m])
}

func TestBrokenExchanges(t *testing.T) {
	write := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, text)
		}
	}
	endless := func(start, piece string) func(net.Conn) {
		return func(conn net.Conn) {
			readRequest(conn)
			_, err := io.WriteString(conn, start)
			for err == nil {
				_, err = io.WriteString(conn, piece)
			}
		}
	}
	kilobyte := strings.Repeat("a", 1<<10)
	tests := []struct {
		name   string
		handle func(net.Conn)
		reason broker.Reason
		text   string
	}{
		{"closes at once", func(c net.Conn) { _ = c.(*tls.Conn).Handshake() }, broker.ReasonUpstreamConnect, "the connection broke"},
		{"closes after the request", write(""), broker.ReasonUpstreamConnect, "the connection broke"},
		{"echo instead of HTTP", func(c net.Conn) { _, _ = io.WriteString(c, readRequest(c)) }, broker.ReasonUpstreamMalformed, "not HTTP"},
		{"echo as a status", write("HTTP/1.1 canary-7f3a9c\r\n\r\n"), broker.ReasonUpstreamMalformed, "not HTTP"},
		{"echo as a header", write("HTTP/1.1 200 OK\r\ncanary-7f3a9c\r\n\r\n"), broker.ReasonUpstreamMalformed, "not HTTP"},
		{"echo as a reason phrase", write("HTTP/1.1 400 canary-7f3a9c\r\nContent-Length: 0\r\n\r\n"), broker.ReasonUpstreamRefused, "400 with an empty body"},
		{"closes in the headers", write("HTTP/1.1 200 OK\r\nX: y\r\n"), broker.ReasonUpstreamConnect, "the connection broke"},
		{"closes in the body", write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\":"), broker.ReasonUpstreamConnect, "while reading the answer"},
		{"closes in a chunk", write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{\"acc"), broker.ReasonUpstreamConnect, "while reading the answer"},
		{"closes in the body of a 503", write("HTTP/1.1 503 x\r\nRetry-After: 3\r\nContent-Length: 100\r\n\r\n{"), broker.ReasonUpstreamUnavailable, "a body that broke off"},
		{"closes in the body of a 400", write("HTTP/1.1 400 x\r\nContent-Length: 100\r\n\r\n{"), broker.ReasonUpstreamConnect, "the connection broke"},
		{"announces 10 GB", write("HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n{"), broker.ReasonUpstreamMalformed, "over 1 MiB"},
		{"sends 10 GB", endless("HTTP/1.1 200 OK\r\n\r\n", kilobyte), broker.ReasonUpstreamMalformed, "over 1 MiB"},
		{"sends 10 GB as 500", endless("HTTP/1.1 500 x\r\n\r\n", kilobyte), broker.ReasonUpstreamUnavailable, "over 1 MiB"},
		{"endless header", endless("HTTP/1.1 200 OK\r\nX: ", kilobyte), broker.ReasonUpstreamMalformed, "headers over 64 KiB"},
		{"endless headers", endless("HTTP/1.1 200 OK\r\n", "X: "+kilobyte+"\r\n"), broker.ReasonUpstreamMalformed, "headers over 64 KiB"},
		{"endless 103", endless("", "HTTP/1.1 103 Early Hints\r\n\r\n"), broker.ReasonUpstreamMalformed, "not HTTP"},
		{"switches protocols", write("HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), broker.ReasonUpstreamRefused, "101"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, endpoint := serveRaw(t, tt.handle)
			_, err := client.RequestToken(t.Context(), requestTo(endpoint))
			wantReason(t, err, tt.reason, tt.text)
		})
	}
}

func TestTimeouts(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // net/http notices that the client is gone only then
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // an answer might win the race against the client's leaving
	}
	drip := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", "1000000")
		for range 1000 {
			_, _ = io.WriteString(w, " ")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		text    string
		http2   bool
	}{
		"hangs":          {hang, "waiting for the answer", false},
		"drips":          {drip, "reading the answer", false},
		"hangs (HTTP/2)": {hang, "waiting for the answer", true},
		"drips (HTTP/2)": {drip, "reading the answer", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, server := serve(t, tt.handler, timeout(2*time.Second), func(s *httptest.Server, _ *oauth.Config) { s.EnableHTTP2 = tt.http2 })
			start := time.Now()
			_, err := client.RequestToken(t.Context(), tokenRequest(server))
			wantReason(t, err, broker.ReasonUpstreamTimeout, tt.text)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error = %v, does not wrap DeadlineExceeded", err)
			}
			if took := time.Since(start); took > 6*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	client, server := serve(t, hang)
	t.Run("the caller's deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := client.RequestToken(ctx, tokenRequest(server))
		wantReason(t, err, broker.ReasonUpstreamTimeout, "no answer within ")
		if err == nil || strings.Contains(err.Error(), "within 5s") { // the client's own
			t.Errorf("error = %v, want the caller's bound in it", err)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v, does not wrap DeadlineExceeded", err)
		}
	})
	t.Run("the caller leaves", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		_, err := client.RequestToken(ctx, tokenRequest(server))
		wantReason(t, err, broker.ReasonDeadlineExceeded, "given up")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, does not wrap Canceled", err)
		}
	})
	t.Run("TLS handshake", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		client := oauth.New(oauth.Config{AllowHTTPLoopback: true, Timeout: 2 * time.Second})
		_, err = client.RequestToken(t.Context(), requestTo("https://"+listener.Addr().String()+"/token"))
		wantReason(t, err, broker.ReasonUpstreamTLS, "took too long")
	})
}

func TestRedirectsAreRefused(t *testing.T) {
	var reached sync.Map
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached.Store(r.URL.Path, true) }))
	defer target.Close()
	tests := []struct {
		location, text string
	}{
		{target.URL + "/canary-7f3a9c?secret=canary-7f3a9c#canary", "a redirect to " + target.URL},
		{"https://user:canary-7f3a9c@elsewhere.example:443/x", "a redirect to https://elsewhere.example"},
		{"https://canary-7f3a9c.example/x", "withheld"},
		{"/login", "a redirect to https://127.0.0.1:"},
		{"myapp://x", "an unnamed origin"},
		{"%zz", "no readable target"},
		{"", "no readable target"},
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, tt := range tests {
			t.Run(fmt.Sprint(status, tt.location), func(t *testing.T) {
				client, server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header()["Location"] = []string{tt.location}
					w.WriteHeader(status)
					_, _ = io.WriteString(w, `{"access_token":"canary-7f3a9c"}`)
				})
				_, err := client.RequestToken(t.Context(), tokenRequest(server))
				wantReason(t, err, broker.ReasonUpstreamRedirected, fmt.Sprintf("answered %d, ", status))
				wantReason(t, err, broker.ReasonUpstreamRedirected, tt.text)
			})
		}
	}
	reached.Range(func(path, _ any) bool {
		t.Errorf("the target was asked for %v", path)
		return true
	})
}

func TestNoConnection(t *testing.T) {
	address := harness.UnusedAddress(t)
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true, Timeout: 2 * time.Second})
	for _, scheme := range []string{"http://", "https://"} {
		_, err := client.RequestToken(t.Context(), requestTo(scheme+address+"/token"))
		wantReason(t, err, broker.ReasonUpstreamConnect, "connect to "+address+": connection refused")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("error = %v, does not wrap ECONNREFUSED", err)
		}
	}
	_, err := client.RequestToken(t.Context(), requestTo("https://no-such-host.invalid/token"))
	wantReason(t, err, broker.ReasonUpstreamDNS, "https://no-such-host.invalid: the ")
}

func TestConnectionsAreReused(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex // guards connections, protocols
			connections, protocols := 0, map[string]int{}
			client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				protocols[r.Proto]++
				n := protocols[r.Proto]
				mu.Unlock()
				if n%2 == 0 { // errors must not cost the connection either
					answer(400, `{"error":"invalid_scope"}`)(w, r)
					return
				}
				answer(200, `{"access_token":"at"}`)(w, r)
			}, func(s *httptest.Server, _ *oauth.Config) {
				s.EnableHTTP2 = http2
				s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
					if state == http.StateNew {
						mu.Lock()
						connections++
						mu.Unlock()
					}
				}
			})
			for range 6 {
				_, _ = client.RequestToken(t.Context(), tokenRequest(server))
			}
			mu.Lock()
			defer mu.Unlock()
			if connections != 1 {
				t.Errorf("%d connections for 6 requests, want 1", connections)
			}
			want := "HTTP/1.1"
			if http2 {
				want = "HTTP/2.0"
			}
			if protocols[want] != 6 {
				t.Errorf("protocols = %v, want 6 of %s", protocols, want)
			}
		})
	}
}

func TestBrokenHTTP2(t *testing.T) {
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		reason  broker.Reason
	}{
		"reset before the answer": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, broker.ReasonUpstreamConnect},
		"reset in the body": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, broker.ReasonUpstreamConnect},
		"large headers": {answer(200, `{"access_token":"at"}`, "X-A", strings.Repeat("canary-7f3a9c", 4<<10), "X-B", strings.Repeat("canary-7f3a9c", 4<<10)), broker.ReasonUpstreamMalformed},
		// net/http ends the connection before it would call the header the answer's.
		"huge header": {answer(200, `{"access_token":"at"}`, "X-Canary", strings.Repeat("canary-7f3a9c", 10<<10)), broker.ReasonUpstreamConnect},
		"huge body":   {answer(200, strings.Repeat("a", 2<<20)), broker.ReasonUpstreamMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := serve(t, tt.handler, func(s *httptest.Server, _ *oauth.Config) { s.EnableHTTP2 = true })
			_, err := client.RequestToken(t.Context(), tokenRequest(server))
			wantReason(t, err, tt.reason, "")
		})
	}
}

func TestConcurrentRequests(t *testing.T) {
	client, server := serve(t, answer(200, `{"access_token":"at","expires_in":60}`))
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := client.RequestToken(t.Context(), tokenRequest(server)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
