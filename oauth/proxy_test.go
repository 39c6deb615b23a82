package oauth_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// connectProxy answers CONNECT with status; with 200 it connects to target,
// whatever it was asked for, and remembers that.
type connectProxy struct {
	status int
	target string

	mu    sync.Mutex // guards asked
	asked []string
}

func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, fmt.Sprint(r.Method, " ", r.Host, " ", r.Header.Get("Proxy-Authorization"), r.Header.Get("Authorization")))
	p.mu.Unlock()
	if p.status != http.StatusOK {
		http.Error(w, "canary-7f3a9c", p.status)
		return
	}
	upstream, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer upstream.Close()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(upstream, conn)
		_ = upstream.Close()
	}()
	_, _ = io.Copy(conn, upstream)
	_ = conn.Close()
	<-done
}

func through(proxy string) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		if r.Header != nil || r.Body != nil {
			return nil, errors.New("the proxy function sees the request")
		}
		return url.Parse(proxy)
	}
}

func TestProxies(t *testing.T) {
	certificate := func(s *httptest.Server, cfg *oauth.Config) { cfg.AllowHTTPLoopback = false }
	for name, secured := range map[string]bool{"http proxy": false, "https proxy": true} {
		t.Run(name, func(t *testing.T) {
			proxy := &connectProxy{status: http.StatusOK}
			front := httptest.NewUnstartedServer(proxy)
			if secured {
				front.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
				front.StartTLS()
			} else {
				front.Start()
			}
			defer front.Close()
			client, server := serve(t, answer(200, `{"access_token":"at"}`), certificate, func(_ *httptest.Server, cfg *oauth.Config) {
				cfg.Proxy = through(strings.Replace(front.URL, "://", "://user:pass@", 1))
			})
			proxy.target = server.Listener.Addr().String()
			// The name resolves nowhere but at the proxy; the certificate is good for it.
			if _, err := client.RequestToken(t.Context(), requestTo("https://example.com/token")); err != nil {
				t.Fatal(err)
			}
			proxy.mu.Lock()
			if got, want := fmt.Sprint(proxy.asked), "[CONNECT example.com:443 Basic dXNlcjpwYXNz]"; got != want {
				t.Errorf("proxy was asked %s, want %s", got, want)
			}
			proxy.asked = nil
			proxy.mu.Unlock()
			// What stands in the URL is refused without asking the proxy.
			for _, endpoint := range []string{"https://127.0.0.1/token", "https://169.254.169.254/token", "https://localhost/token", "https://2130706433/token"} {
				_, err := client.RequestToken(t.Context(), requestTo(endpoint))
				wantReason(t, err, broker.ReasonUpstreamAddressRefused, "")
			}
			if len(proxy.asked) > 0 {
				t.Errorf("proxy was asked %s", proxy.asked)
			}
			// A certificate for another name is the endpoint's fault, not the proxy's.
			_, err := client.RequestToken(t.Context(), requestTo("https://other.example/token"))
			wantReason(t, err, broker.ReasonUpstreamTLS, "another name")
			client.Close()
		})
	}
}

func TestProxyFailures(t *testing.T) {
	request := func(t *testing.T, proxy string) error {
		t.Helper()
		client := oauth.New(oauth.Config{Proxy: through(proxy), Timeout: 2 * time.Second})
		defer client.Close()
		_, err := client.RequestToken(t.Context(), requestTo("https://example.com/token"))
		return err
	}
	for _, status := range []int{302, 403, 407, 502} {
		proxy := httptest.NewServer(&connectProxy{status: status})
		err := request(t, proxy.URL)
		wantReason(t, err, broker.ReasonUpstreamProxy, fmt.Sprintf("the proxy answered %d %s", status, http.StatusText(status)))
		proxy.Close()
	}
	gone := harness.UnusedAddress(t)
	wantReason(t, request(t, "http://user:canary-7f3a9c@"+gone), broker.ReasonUpstreamProxy, "could not be connected to: connect to 127.0.0.1")
	wantReason(t, request(t, "socks5://"+gone), broker.ReasonUpstreamProxy, "could not be connected to")
	wantReason(t, request(t, "http://no-such-host.invalid:3128"), broker.ReasonUpstreamProxy, "could not be connected to: the ")
	wantReason(t, request(t, "http://user:canary-7f3a9c@%zz"), broker.ReasonUpstreamProxy, "not a usable URL")

	closing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closing.Close()
	go func() {
		for {
			conn, err := closing.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1024))
			_, _ = io.WriteString(conn, "canary-7f3a9c\r\n\r\n")
			_ = conn.Close()
		}
	}()
	for _, scheme := range []string{"http", "https", "socks5"} {
		wantReason(t, request(t, scheme+"://"+closing.Addr().String()), broker.ReasonUpstreamProxy, "")
	}
}

// TestProxiesSeeNoCertificate: it is for the server behind them.
func TestProxiesSeeNoCertificate(t *testing.T) {
	for name, secured := range map[string]bool{"http proxy": false, "https proxy": true} {
		t.Run(name, func(t *testing.T) {
			proxy := &connectProxy{status: http.StatusOK}
			front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
					t.Error("the proxy was shown the certificate")
				}
				proxy.ServeHTTP(w, r)
			}))
			if !secured {
				front.Start()
			} else {
				front.TLS = &tls.Config{NextProtos: []string{"http/1.1"}, ClientAuth: tls.RequestClientCert}
				front.StartTLS()
			}
			defer front.Close()
			client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if len(r.TLS.PeerCertificates) != 1 {
					t.Error("the server was not shown the certificate")
				}
				answer(200, `{"access_token":"at"}`)(w, r)
			}, func(s *httptest.Server, cfg *oauth.Config) {
				s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
				cfg.Proxy = through(front.URL)
			})
			proxy.target = server.Listener.Addr().String()
			req := requestTo("https://example.com/token")
			req.Authentication.Method, req.Secret = broker.SelfSignedTLSClientAuth, secret.NewString(clientPEM(t))
			if _, err := client.RequestToken(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			req.Endpoint, req.Destinations = "https://other.example/token", []string{"https://other.example"}
			_, err := client.RequestToken(t.Context(), req)
			wantReason(t, err, broker.ReasonUpstreamTLS, "another name")
		})
	}
}

func TestProxySettingThatVanishes(t *testing.T) {
	calls := 0
	client := oauth.New(oauth.Config{Proxy: func(*http.Request) (*url.URL, error) {
		if calls++; calls == 1 {
			return url.Parse("http://127.0.0.1:1")
		}
		return nil, nil
	}})
	defer client.Close()
	_, err := client.RequestToken(t.Context(), requestTo("https://example.com/token"))
	wantReason(t, err, broker.ReasonUpstreamProxy, "the proxy did not make the connection")
}

func TestPlainHTTPIsNotProxied(t *testing.T) {
	server := httptest.NewServer(answer(200, `{"access_token":"at"}`))
	defer server.Close()
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true, Proxy: func(*http.Request) (*url.URL, error) {
		t.Error("the proxy function was asked")
		return nil, nil
	}})
	defer client.Close()
	if _, err := client.RequestToken(t.Context(), tokenRequest(server)); err != nil {
		t.Error(err)
	}
}
