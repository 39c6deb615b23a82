package notify_test

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/server/notify"
)

// listen serves r over HTTPS on loopback with a certificate of an authority, whose file
// it returns.
func listen(t *testing.T, r http.Handler, host string) (url, caFile string) {
	t.Helper()
	authority, err := devpki.New("receivers")
	if err != nil {
		t.Fatal(err)
	}
	certificate, private, err := authority.Server(host)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, private)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(r)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of refused certificates
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, authority.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return server.URL, caFile
}

// eventually waits for what happens on the network.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(end) {
			t.Fatalf("it did not come to this: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestOverHTTPS is a real receiver: one that fails and then does not, one that redirects,
// and those that must not be sent anything.
func TestOverHTTPS(t *testing.T) {
	loopback := []string{"127.0.0.0/8"}
	hook := func(t *testing.T, url, caFile string, allowed []string) notify.Config {
		return notify.Config{Webhooks: []notify.Webhook{{
			Name: "pager", URL: url + "/canary-path", SecretFile: secretFile(t, key), CAFile: caFile, AllowedAddresses: allowed,
		}}}
	}
	t.Run("500 and then 200", func(t *testing.T) {
		r := &receiver{answer: status(500)}
		url, caFile := listen(t, r, "127.0.0.1")
		n := run(t, hook(t, url, caFile, loopback))
		n.Notify(event("e1"))
		eventually(t, "a try failed", func() bool { return n.counts()[notify.Failed] == 1 })
		r.set(nil)
		eventually(t, "delivered", func() bool { return n.counts()[notify.Delivered] == 1 })
		all := r.all()
		if len(all) < 2 || all[0].header.Get(notify.EventIDHeader) != "e1" || all[0].body != all[1].body {
			t.Errorf("received %+v", all)
		}
		n.stop()
		wantNothingTold(t, n)
	})
	t.Run("a redirect", func(t *testing.T) {
		elsewhere := &receiver{}
		other, _ := listen(t, elsewhere, "127.0.0.1")
		r := &receiver{}
		r.set(func(w http.ResponseWriter, request *http.Request) {
			http.Redirect(w, request, other, http.StatusTemporaryRedirect)
		})
		url, caFile := listen(t, r, "127.0.0.1")
		n := run(t, hook(t, url, caFile, loopback))
		n.Notify(event("e1"))
		eventually(t, "a try failed", func() bool { return n.counts()[notify.Failed] == 1 })
		n.stop()
		if got := len(elsewhere.all()); got != 0 {
			t.Errorf("the redirect was followed %d times", got)
		}
	})
	refused := []struct {
		name, host string
		ca, allow  bool
		want       string
	}{
		{"another authority", "127.0.0.1", false, true, "certificate is not good"},
		{"another name", "hooks.example.org", true, true, "certificate is not good"},
	}
	for _, test := range refused {
		t.Run(test.name, func(t *testing.T) {
			r := &receiver{}
			url, caFile := listen(t, r, test.host)
			if !test.ca {
				_, caFile = listen(t, r, test.host)
			}
			n := run(t, hook(t, url, caFile, loopback))
			n.Notify(event("e1"))
			eventually(t, "a try failed", func() bool { return n.counts()[notify.Failed] == 1 })
			n.stop()
			if text := n.log.String(); !strings.Contains(text, test.want) {
				t.Errorf("log %s, want %q in it", text, test.want)
			}
			if got := len(r.all()); got != 0 {
				t.Errorf("%d requests arrived", got)
			}
			wantNothingTold(t, n)
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		url, caFile := listen(t, &receiver{}, "127.0.0.1")
		n := run(t, hook(t, url[:strings.LastIndex(url, ":")]+":1", caFile, loopback))
		n.Notify(event("e1"))
		eventually(t, "a try failed", func() bool { return n.counts()[notify.Failed] == 1 })
		n.stop()
		if text := n.log.String(); !strings.Contains(text, "cannot be connected to") {
			t.Errorf("log %s", text)
		}
		wantNothingTold(t, n)
	})
	t.Run("a name of a private address", func(t *testing.T) {
		r := &receiver{}
		url, caFile := listen(t, r, "127.0.0.1")
		name, err := os.Hostname()
		if err != nil {
			t.Skip(err)
		}
		port := url[strings.LastIndex(url, ":"):]
		n := run(t, hook(t, "https://"+name+port, caFile, nil))
		n.Notify(event("e1"))
		eventually(t, "a try failed", func() bool { return n.counts()[notify.Failed] == 1 })
		n.stop()
		if got := len(r.all()); got != 0 {
			t.Errorf("%d requests arrived at an address that is not public", got)
		}
	})
	t.Run("plain http on loopback", func(t *testing.T) {
		r := &receiver{}
		server := httptest.NewServer(r)
		defer server.Close()
		n := run(t, notify.Config{Webhooks: []notify.Webhook{{Name: "a", URL: server.URL, SecretFile: secretFile(t, key), InsecureHTTPLoopback: true}}})
		n.Notify(event("e1"))
		eventually(t, "delivered", func() bool { return n.counts()[notify.Delivered] == 1 })
		n.stop()
	})
}
