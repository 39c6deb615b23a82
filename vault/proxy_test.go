package vault_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// fault does something to one request instead of, before, or after forwarding it.
type fault func(w http.ResponseWriter, r *http.Request, forward http.Handler)

// proxy stands before a real Vault and plays what that cannot play on demand.
type proxy struct {
	*httptest.Server
	next atomic.Pointer[fault] // for the requests that match
	only string                // part of the paths that are concerned
	hits atomic.Int64          // requests that were concerned
	most atomic.Int64          // how many of them go wrong
}

// newProxy puts one before the corner's server, for requests to records alone.
func newProxy(t *testing.T, c *corner) *proxy {
	t.Helper()
	target, err := url.Parse(c.Addr())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport,
	}
	p := &proxy{only: "/v1/" + c.mount + "/data/"}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next := p.next.Load()
		if next == nil || !strings.HasPrefix(r.URL.Path, p.only) {
			forward.ServeHTTP(w, r)
			return
		}
		if p.hits.Add(1) > p.most.Load() {
			forward.ServeHTTP(w, r)
			return
		}
		(*next)(w, r, forward)
	}))
	t.Cleanup(func() { p.Close(); transport.CloseIdleConnections() })
	c.config.Address = p.URL
	return p
}

// inject makes the next requests to records go wrong, most of them at most.
func (p *proxy) inject(most int64, f fault) {
	p.hits.Store(0)
	p.most.Store(most)
	p.next.Store(&f)
}

// cut ends the connection without an answer.
func cut(http.ResponseWriter) { panic(http.ErrAbortHandler) }

func loseRequest(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cut(w) }

// loseAnswer lets the request take effect.
func loseAnswer(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	forward.ServeHTTP(httptest.NewRecorder(), r)
	cut(w)
}

// cutAnswer breaks off in the middle of the body.
func cutAnswer(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	recorded := httptest.NewRecorder()
	forward.ServeHTTP(recorded, r)
	w.Header().Set("Content-Length", "100000")
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(recorded.Body.Bytes()[:recorded.Body.Len()/2])
	cut(w)
}

// hang lets the request take effect and then says nothing for as long as the
// client waits.
func hang(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	waiting := r.Context()
	forward.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(waiting)))
	select {
	case <-waiting.Done():
	case <-time.After(10 * time.Second):
	}
	cut(w)
}

// refuse answers instead of Vault.
func refuse(status int, body string) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}
