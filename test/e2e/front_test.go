package e2e_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// front passes the requests of a server on to a real authorization server, and remembers
// what is sent and answered. It is safe for concurrent use.
type front struct {
	origin string // of what it stands for
	base   string // URL that stands for it
	path   string // of base
	client *http.Client

	mu sync.Mutex // guards the rest
	// used :: refresh token → how often it was sent
	used map[string]int
	// last is the refresh token that was given last, last of all.
	last string
	// now and most are how many refreshes are under way, and were at most.
	now, most int
	// given are the refresh tokens, codes, verifiers, device codes and access tokens that passed.
	given map[string]string // value → what it is
	polls []time.Time       // of devices
	// hold is called around a use of a refresh token, if it is not nil.
	hold func(acted bool)
	// slow is how many polls of devices are answered with slow_down.
	slow int
}

// newFront makes one below /name of an upstream, for the server at issuer, whose certificate
// an authority of ca (PEM) issued.
func newFront(t testing.TB, up *upstream, name, issuer string, ca []byte) *front {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("no authority of the authorization server")
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	f := &front{origin: issuer, base: up.origin + "/" + name, path: "/" + name, client: &http.Client{Transport: transport}, used: map[string]int{}, given: map[string]string{}}
	up.mux.Handle(f.path+"/", f)
	return f
}

// of has a client's server be asked through it.
func (f *front) of(client *pb.Client) *pb.Client {
	client.TokenEndpoint, client.RevocationEndpoint = f.base+"/token", f.base+"/token/revocation"
	return client
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		cut(w)
		return
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		cut(w)
		return
	}
	hold, slowDown := f.enter(form)
	if slowDown {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"slow_down"}`))
		return
	}
	if hold != nil {
		hold(false)
	}
	answer, status, header, err := f.forward(r, body)
	if hold != nil {
		hold(true)
	}
	f.leave(form, answer)
	if err != nil {
		cut(w)
		return
	}
	for _, name := range []string{"Content-Type", "WWW-Authenticate", "Cache-Control"} {
		w.Header()[name] = header[name]
	}
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// forward sends the request on, whatever has become of its sender.
func (f *front) forward(r *http.Request, body []byte) (answer []byte, status int, header http.Header, err error) {
	out, err := http.NewRequest(r.Method, f.origin+strings.TrimPrefix(r.URL.Path, f.path), bytes.NewReader(body))
	if err != nil {
		return nil, 0, nil, err
	}
	for _, name := range []string{"Authorization", "Content-Type", "Accept"} {
		out.Header[name] = r.Header[name]
	}
	response, err := f.client.Do(out)
	if err != nil {
		return nil, 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return answer, response.StatusCode, response.Header, err
}

func (f *front) enter(form url.Values) (hold func(bool), slowDown bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range []string{"code", "code_verifier", "device_code", "refresh_token", "password", "subject_token"} {
		if value := form.Get(name); value != "" {
			f.given[value] = name
		}
	}
	switch form.Get("grant_type") {
	case "refresh_token":
		f.used[form.Get("refresh_token")]++
		f.now++
		f.most = max(f.most, f.now)
		return f.hold, false
	case "urn:ietf:params:oauth:grant-type:device_code":
		f.polls = append(f.polls, time.Now())
		if f.slow > 0 {
			f.slow--
			return nil, true
		}
	}
	return nil, false
}

func (f *front) leave(form url.Values, answer []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if form.Get("grant_type") == "refresh_token" {
		f.now--
	}
	var granted map[string]any
	if json.Unmarshal(answer, &granted) != nil {
		return
	}
	for _, name := range []string{"access_token", "refresh_token", "id_token", "device_code"} {
		if value, _ := granted[name].(string); value != "" {
			f.given[value] = name
			if name == "refresh_token" {
				f.last = value
			}
		}
	}
}

// held makes the next use of a refresh token wait, once the provider has acted on it or
// before. Reached is closed when it does; letGo ends it.
func (f *front) held(acted bool) (reached <-chan struct{}, letGo func()) {
	at, gone := make(chan struct{}), make(chan struct{})
	var once, end sync.Once
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold = func(has bool) {
		if has == acted {
			once.Do(func() {
				close(at)
				<-gone
			})
		}
	}
	return at, func() { end.Do(func() { close(gone) }) }
}

// refreshes returns how many uses of refresh tokens there were, and what was wrong with
// them: two at a time, or one of the same token twice.
func (f *front) refreshes() (uses int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, times := range f.used {
		uses += times
		if times > 1 {
			err = errors.Join(err, fmt.Errorf("a refresh token was sent %d times", times))
		}
	}
	if f.most > 1 {
		err = errors.Join(err, fmt.Errorf("%d refreshes were under way at a time", f.most))
	}
	return uses, err
}

// lastRefresh is the refresh token that was given last.
func (f *front) lastRefresh() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// pauses are those between the polls of devices.
func (f *front) pauses() (pauses []time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := 1; i < len(f.polls); i++ {
		pauses = append(pauses, f.polls[i].Sub(f.polls[i-1]))
	}
	return pauses
}
