package e2e_test

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// tap is an HTTP proxy between a server and its Vault, which counts the writes
// about one client and makes something happen at one of them.
type tap struct {
	*httptest.Server
	vault  string
	client *http.Client

	mu     sync.Mutex // guards the rest, and what it points to
	faults map[string]*fault
	apart  partition
	healed chan struct{} // closed when a silent partition ends
}

// fault is what happens at the n-th write about one client.
type fault struct {
	nth  int // from 1; 0 only counts
	kind faultKind
	hit  func() // nil: nothing but the kind

	writes int           // seen so far
	struck bool          // the n-th write was seen
	status int           // what Vault answered to a held n-th write; 0 before that
	next   chan struct{} // closed by the write after the n-th
	landed chan struct{} // closed when a late or held n-th write has reached Vault
}

type faultKind string

const (
	// seen: nothing happens to the write but hit, before its answer comes back.
	seen faultKind = "nothing"
	// before: the write does not reach Vault.
	before faultKind = "before Vault has it"
	// after: Vault has taken the write, its answer does not come back.
	after faultKind = "after Vault has it"
	// blind is after, and then nothing about this client comes back until disarm.
	blind faultKind = "after Vault has it, and no way to find out"
	// late: the write reaches Vault when its sender has given up and tries again.
	late faultKind = "after the sender gave up"
	// held: the write reaches Vault when hit returns, and its answer does not come back.
	held faultKind = "held on its way"
)

// partition is what becomes of all requests.
type partition int32

const (
	whole   partition = iota // they reach Vault
	refused                  // their connections break at once
	silent                   // nothing comes back until the partition ends
)

// newTap proxies to a Vault that speaks plain HTTP.
func newTap(t testing.TB, vault string) *tap {
	t.Helper()
	p := &tap{vault: vault, client: &http.Client{Timeout: 30 * time.Second}, faults: map[string]*fault{}, healed: make(chan struct{})}
	p.Server = httptest.NewUnstartedServer(p)
	p.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Server.Start()
	t.Cleanup(func() {
		p.part(whole)
		p.CloseClientConnections()
		p.Close()
		p.client.CloseIdleConnections()
	})
	return p
}

// arm makes f happen to what is about a client ("meta" and "feed" stand for the store's
// own records), in place of what was armed for it.
func (p *tap) arm(id string, f *fault) {
	f.next, f.landed = make(chan struct{}), make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults[id] = f
}

// disarm returns how many writes were seen, and whether the n-th was among them; of
// what was never armed, none.
func (p *tap) disarm(id string) (writes int, struck bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, armed := p.faults[id]
	if !armed {
		return 0, false
	}
	delete(p.faults, id)
	return f.writes, f.struck
}

// part begins a partition, or ends it.
func (p *tap) part(kind partition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.healed)
	p.apart, p.healed = kind, make(chan struct{})
}

// stuck breaks or keeps a request during a partition, and reports whether there is one.
func (p *tap) stuck(w http.ResponseWriter) bool {
	p.mu.Lock()
	apart, healed := p.apart, p.healed
	p.mu.Unlock()
	if apart == silent {
		<-healed
	}
	if apart != whole {
		cut(w)
	}
	return apart != whole
}

// ServeHTTP implements http.Handler.
func (p *tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		cut(w)
		return
	}
	if p.stuck(w) {
		return
	}
	kind, f := p.count(r)
	switch kind {
	case held:
		f.run()
		if answer, err := p.forward(r, body); err == nil {
			p.mu.Lock()
			f.status = answer.StatusCode
			p.mu.Unlock()
		}
		close(f.landed)
		cut(w)
		return
	case before:
		f.run()
		cut(w)
		return
	case late:
		select {
		case <-f.next:
		case <-time.After(10 * time.Second):
		}
		_, _ = p.forward(r, body)
		close(f.landed)
		cut(w)
		return
	}
	answer, err := p.forward(r, body)
	if kind == seen || kind == after || kind == blind {
		f.run()
	}
	if err != nil || kind != "" && kind != seen {
		cut(w)
		return
	}
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	content, _ := io.ReadAll(answer.Body)
	_, _ = w.Write(content)
}

func (f *fault) run() {
	if f.hit != nil {
		f.hit()
	}
}

// count returns what is to happen to a request; "" is nothing.
func (p *tap) count(r *http.Request) (faultKind, *fault) {
	write := r.Method != http.MethodGet && (strings.Contains(r.URL.Path, "/data/") || strings.Contains(r.URL.Path, "/destroy/"))
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, f := range p.faults {
		if !strings.Contains(r.URL.Path+"/", "/"+id+"/") {
			continue
		}
		if !write {
			if f.struck && f.kind == blind {
				return before, &fault{}
			}
			return "", nil
		}
		f.writes++
		switch {
		case f.writes == f.nth:
			f.struck = true
			return f.kind, f
		case f.struck && f.kind == blind:
			return before, &fault{}
		case f.kind == late && f.writes == f.nth+1:
			close(f.next)
			p.mu.Unlock()
			<-f.landed
			p.mu.Lock()
		}
		return "", nil
	}
	return "", nil
}

// forward sends the request to Vault, whatever has become of its sender.
func (p *tap) forward(r *http.Request, body []byte) (*http.Response, error) {
	out, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, p.vault+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header = r.Header.Clone()
	answer, err := p.client.Do(out)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	answer.Body = io.NopCloser(bytes.NewReader(content))
	return answer, err
}

// cut breaks the connection without an answer.
func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}
