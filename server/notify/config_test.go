package notify_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokenbroker/tokenbroker/server/notify"
)

// TestValidate names everything that is wrong by its key.
func TestValidate(t *testing.T) {
	good := secretFile(t, key)
	short := secretFile(t, "canary-short")
	blank := secretFile(t, strings.Repeat(" ", 40))
	open := secretFile(t, key)
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	hook := func(edit func(*notify.Webhook)) []notify.Webhook {
		w := notify.Webhook{Name: "pager", URL: "https://hooks.example.org/x", SecretFile: good}
		edit(&w)
		return []notify.Webhook{w}
	}
	tests := []struct {
		name     string
		webhooks []notify.Webhook
		want     []string // nil is sound
	}{
		{"none", nil, nil},
		{"sound", hook(func(*notify.Webhook) {}), nil},
		{"on loopback", hook(func(w *notify.Webhook) { w.URL, w.InsecureHTTPLoopback = "http://127.0.0.1:8080/", true }), nil},
		{"private and allowed", hook(func(w *notify.Webhook) { w.URL, w.AllowedAddresses = "https://10.0.0.1/", []string{"10.0.0.0/8"} }), nil},
		{"empty", []notify.Webhook{{}}, []string{"webhooks[0].name: is", "webhooks[0].url: is required", "webhooks[0].secret_file: is required"}},
		{"name", hook(func(w *notify.Webhook) { w.Name = "Pager 1" }), []string{"webhooks[0].name: is \"Pager 1\""}},
		{"plain http", hook(func(w *notify.Webhook) { w.URL = "http://hooks.example.org/" }), []string{"webhooks[0].url: http://hooks.example.org is plain http"}},
		{"http on loopback without the flag", hook(func(w *notify.Webhook) { w.URL = "http://127.0.0.1:8080/" }), []string{"only https is spoken"}},
		{"private", hook(func(w *notify.Webhook) { w.URL = "https://10.0.0.1/" }), []string{"webhooks[0].url: 10.0.0.1 is private"}},
		{"cloud metadata", hook(func(w *notify.Webhook) { w.URL = "https://169.254.169.254/" }), []string{"link-local"}},
		{"user in the URL", hook(func(w *notify.Webhook) { w.URL = "https://u:canary@hooks.example.org/" }), []string{"the URL has a user or password"}},
		{"range", hook(func(w *notify.Webhook) { w.AllowedAddresses = []string{"10.0.0.1"} }), []string{"webhooks[0].allowed_addresses[0]: is \"10.0.0.1\""}},
		{"event", hook(func(w *notify.Webhook) { w.Events = []string{"rotation_failed", "rotation"} }), []string{"webhooks[0].events[1]: is \"rotation\"; known are [rotation_failed"}},
		{"no secret", hook(func(w *notify.Webhook) { w.SecretFile = filepath.Join(t.TempDir(), "none") }), []string{"webhooks[0].secret_file: open "}},
		{"short secret", hook(func(w *notify.Webhook) { w.SecretFile = short }), []string{"webhooks[0].secret_file: holds 12 bytes; it must hold 32"}},
		{"blank secret", hook(func(w *notify.Webhook) { w.SecretFile = blank }), []string{"nothing but white space"}},
		{"secret of others", hook(func(w *notify.Webhook) { w.SecretFile = open }), []string{"has mode 0640, so that others than its owner may use it; chmod it to 0600"}},
		{"secret is a folder", hook(func(w *notify.Webhook) { w.SecretFile = t.TempDir() }), []string{"is not a regular file"}},
		{"no authorities", hook(func(w *notify.Webhook) { w.CAFile = good }), []string{"webhooks[0].ca_file: holds no PEM certificate"}},
		{"twice", append(hook(func(*notify.Webhook) {}), hook(func(*notify.Webhook) {})...), []string{"webhooks[1].name: is \"pager\", as another one's"}},
		{"too many", make([]notify.Webhook, 21), []string{"webhooks: has 21 webhooks; at most 20"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := notify.Config{Webhooks: test.webhooks}
			err := cfg.Validate()
			if (err == nil) != (test.want == nil) {
				t.Fatalf("Validate = %v, want %q", err, test.want)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Validate = %v, want %q in it", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("Validate = %v, which quotes a secret", err)
			}
			if _, newErr := notify.New(cfg); (newErr == nil) != (err == nil) {
				t.Errorf("New = %v, Validate = %v", newErr, err)
			}
		})
	}
}

// TestTheSecretIsReadAgain when it changes; one that cannot be read changes nothing.
func TestTheSecretIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		file := secretFile(t, key)
		n := virtual(t, r, func(w *notify.Webhook) { w.SecretFile = file })
		send := func() string {
			n.Notify(event("e1"))
			synctest.Wait()
			all := r.all()
			return all[len(all)-1].header.Get(notify.SignatureHeader)
		}
		first := send()
		if err := os.WriteFile(file, []byte("canary"), 0o600); err != nil {
			t.Fatal(err)
		}
		if again := send() + send(); again != first+first {
			t.Errorf("with a bad file it is %s, want %s: no time has gone", again, first)
		}
		if err := os.WriteFile(file, []byte(key+key), 0o600); err != nil {
			t.Fatal(err)
		}
		if changed := send(); changed == first {
			t.Errorf("the new secret is not used")
		}
		n.stop()
		wantNothingTold(t, n)
		if got := strings.Count(n.log.String(), "secret of a webhook not read again"); got != 1 {
			t.Errorf("%d lines of a file that cannot be read, want 1", got)
		}
	})
}
