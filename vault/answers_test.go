package vault_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/vault"
)

// TestAnswers has one row for each kind of answer: what it means for a read, and
// what for a write, of which the outcome may be unknown.
func TestAnswers(t *testing.T) {
	vaultError := func(text string) string { return fmt.Sprintf(`{"errors":[%q]}`, text+" canary") }
	const (
		page   = "<html>canary</html>"
		lost   = broker.ReasonStoreAnswerLost
		failed = broker.ReasonStoreFailed
	)
	tests := []struct {
		name        string
		status      int
		body        string
		read, write broker.Reason
	}{
		{"sealed", 503, vaultError("Vault is sealed"), broker.ReasonStoreSealed, broker.ReasonStoreSealed},
		{"sealed OpenBao", 503, vaultError("OpenBao is sealed"), broker.ReasonStoreSealed, broker.ReasonStoreSealed},
		{"lagging standby", 412, vaultError("required index state not present"), broker.ReasonStoreStandby, broker.ReasonStoreStandby},
		{"recovery secondary", 472, ``, broker.ReasonStoreStandby, broker.ReasonStoreStandby},
		{"performance standby", 473, ``, broker.ReasonStoreStandby, broker.ReasonStoreStandby},
		{"standby without leader", 500, vaultError("local node not active but active cluster node not found"), broker.ReasonStoreStandby, broker.ReasonStoreStandby},
		{"standby", 503, vaultError("Vault is in standby mode"), broker.ReasonStoreStandby, broker.ReasonStoreStandby},
		{"engine that is being set up", 400, vaultError("Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly."), broker.ReasonStoreStandby, broker.ReasonStoreStandby},
		{"quota", 429, vaultError("rate limit quota exceeded"), broker.ReasonStoreRateLimited, broker.ReasonStoreRateLimited},
		{"no mount", 404, vaultError(`no handler for route "tokenbroker/data/a". route entry not found.`), broker.ReasonStoreMountMissing, broker.ReasonStoreMountMissing},
		{"another engine", 404, vaultError(`1 error occurred: * unsupported path`), broker.ReasonStoreNotKV2, broker.ReasonStoreNotKV2},
		{"another method", 405, vaultError(`unsupported operation`), broker.ReasonStoreNotKV2, broker.ReasonStoreNotKV2},
		{"proxy's 404", 404, page, failed, lost},
		{"another service's 404", 404, `{"message":"canary"}`, failed, lost},
		{"proxy's 403", 403, page, failed, lost},
		{"proxy that gave up", 408, page, failed, lost},
		{"bad request", 400, vaultError("invalid"), failed, failed},
		{"too large for a proxy", 413, page, failed, failed},
		{"internal error", 500, vaultError("internal error"), failed, lost},
		{"nobody behind the proxy", 502, page, broker.ReasonStoreUnreachable, lost},
		{"nobody behind the balancer", 503, page, broker.ReasonStoreUnreachable, lost},
		{"slow behind the proxy", 504, page, broker.ReasonStoreUnreachable, lost},
		{"Vault's own 503", 503, vaultError("something new"), failed, lost},
		{"success that is no JSON", 200, page, failed, lost},
		{"success of KV version 1", 200, `{"data":{"value":"canary"}}`, broker.ReasonStoreNotKV2, broker.ReasonStoreNotKV2},
		{"success without a word", 204, ``, broker.ReasonStoreNotKV2, broker.ReasonStoreNotKV2},
		{"record that is no object", 200, `{"data":{"data":null,"metadata":{"version":7}}}`, broker.ReasonRecordCorrupt, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake := newFakeVault(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			store := start(t, fake.config(t))
			_, err := store.Read(t.Context(), "clients/a")
			wantReason(t, "Read", err, test.read)
			_, err = store.List(t.Context(), "clients/")
			if test.status != 200 {
				wantReason(t, "List", err, test.read)
			}
			fake.requests()
			_, err = store.Write(t.Context(), "clients/a", object(1), 0)
			if test.write == "" {
				return
			}
			wantReason(t, "Write", err, test.write)
			if got := fake.requests(); len(got) != 1 {
				t.Errorf("a write caused %d requests: %q", len(got), got)
			}
		})
	}
}

// TestTries counts the requests behind one call.
func TestTries(t *testing.T) {
	tests := []struct {
		name    string
		status  int
		body    string
		header  string // Retry-After
		want    int    // requests of one read
		longest time.Duration
	}{
		{"internal error", 500, `{"errors":["x"]}`, "", 3, 2 * time.Second},
		{"bad gateway", 502, ``, "", 3, 2 * time.Second},
		{"lagging standby", 412, `{"errors":[]}`, "", 3, 2 * time.Second},
		{"quota", 429, `{"errors":["x"]}`, "", 3, 2 * time.Second},
		{"quota for a moment", 429, `{"errors":["x"]}`, "1", 2, 3 * time.Second},
		{"quota for long", 429, `{"errors":["x"]}`, "30", 1, 2 * time.Second},
		{"sealed", 503, `{"errors":["Vault is sealed"]}`, "", 1, 2 * time.Second},
		{"bad request", 400, `{"errors":["x"]}`, "", 1, 2 * time.Second},
		{"absent", 404, `{"errors":[]}`, "", 1, 2 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake := newFakeVault(t, func(w http.ResponseWriter, _ *http.Request) {
				if test.header != "" {
					w.Header().Set("Retry-After", test.header)
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			store := start(t, fake.config(t))
			_, _ = store.List(t.Context(), "") // waits for the session
			fake.requests()
			began := time.Now()
			_, err := store.Read(t.Context(), "meta")
			if err == nil {
				t.Fatal("Read succeeded")
			}
			if got := len(fake.requests()); got != test.want {
				t.Errorf("a read caused %d requests, want %d", got, test.want)
			}
			if took := time.Since(began); took > test.longest {
				t.Errorf("a read took %v, want at most %v", took, test.longest)
			}
			_, err = store.Write(t.Context(), "meta", object(1), 0)
			if err == nil {
				t.Fatal("Write succeeded")
			}
			if got := len(fake.requests()); got != 1 {
				t.Errorf("a write caused %d requests, want 1", got)
			}
		})
	}
}

func TestRetryAfterIsPassedOn(t *testing.T) {
	fake := newFakeVault(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"errors":["rate limit quota exceeded"]}`)
	})
	store := start(t, fake.config(t))
	_, err := store.Write(t.Context(), "meta", object(1), 0)
	if got, want := wantReason(t, "Write", err, broker.ReasonStoreRateLimited).RetryAfter, 30*time.Second; got != want {
		t.Errorf("RetryAfter = %v, want %v", got, want)
	}
}

// TestRedirects has a standby that sends everybody elsewhere. The other host
// must not see a token, a record or an AppRole's secret id.
func TestRedirects(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the redirect was followed: %s %s with token %q", r.Method, r.URL, r.Header.Get("X-Vault-Token"))
	}))
	t.Cleanup(elsewhere.Close)
	redirect := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, status)
		}
	}
	for _, status := range []int{301, 302, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			fake := newFakeVault(t, redirect(status))
			store := start(t, fake.config(t))
			_, err := store.Read(t.Context(), "meta")
			wantReason(t, "Read", err, broker.ReasonStoreStandby, "redirect")
			_, err = store.Write(t.Context(), "meta", object(1), 0)
			wantReason(t, "Write", err, broker.ReasonStoreStandby, "redirect")

			standby := httptest.NewServer(redirect(status))
			t.Cleanup(standby.Close)
			config := fake.config(t)
			config.Address, config.TokenFile = standby.URL, ""
			config.AppRole.RoleIDFile, config.AppRole.SecretIDFile = file(t, "role-canary"), file(t, "secret-canary")
			_, err = start(t, config).Read(t.Context(), "meta")
			wantReason(t, "login", err, broker.ReasonStoreStandby, "redirect")
		})
	}
}

// TestStrayVariables sets all variables that Vault's library reads. None may
// reach a request; one that cannot be parsed is an error that names it.
func TestStrayVariables(t *testing.T) {
	var headers []http.Header
	fake := newFakeVault(t, func(w http.ResponseWriter, r *http.Request) {
		headers = append(headers, r.Header)
		fmt.Fprint(w, `{"data":{"data":{},"metadata":{"version":1}}}`)
	})
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("went elsewhere: %s %s", r.Method, r.URL)
	}))
	t.Cleanup(elsewhere.Close)
	for name, value := range map[string]string{
		"VAULT_ADDR": elsewhere.URL, "VAULT_AGENT_ADDR": elsewhere.URL, "VAULT_PROXY_ADDR": elsewhere.URL,
		"VAULT_HTTP_PROXY": elsewhere.URL, "HTTP_PROXY": elsewhere.URL, "HTTPS_PROXY": elsewhere.URL,
		"VAULT_TOKEN": "stray", "VAULT_NAMESPACE": "stray", "VAULT_HEADERS": `{"Stray":"stray"}`, "VAULT_WRAP_TTL": "5m",
		"VAULT_SKIP_VERIFY": "true", "VAULT_MAX_RETRIES": "9", "VAULT_CLIENT_TIMEOUT": "1ns", "VAULT_RATE_LIMIT": "0.0001:1",
		"VAULT_SRV_LOOKUP": "true", "VAULT_TLS_SERVER_NAME": "stray", "VAULT_MFA": "stray", "VAULT_DISABLE_REDIRECTS": "false",
	} {
		t.Setenv(name, value)
	}
	config := fake.config(t)
	store := start(t, config)
	if _, err := store.Read(t.Context(), "meta"); err != nil {
		t.Fatalf("Read: %v", err)
	}
	for _, h := range headers {
		want := map[string]string{"X-Vault-Token": "s.canary-token", "X-Vault-Request": "true", "X-Vault-Namespace": "", "X-Vault-Wrap-Ttl": "", "X-Vault-Mfa": "", "Stray": ""}
		for name, value := range want {
			if got := h.Get(name); got != value {
				t.Errorf("header %s = %q, want %q", name, got, value)
			}
		}
	}
	for name, value := range map[string]string{"VAULT_MAX_RETRIES": "canary", "VAULT_PROXY_ADDR": "http://u:canary@%", "VAULT_CACERT": "/canary"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			_, err := vault.New(config)
			if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "canary") {
				t.Errorf("New() = %v, want an error that names %s and not its value", err, name)
			}
		})
	}
}

// TestNotVault has a web server behind the address that answers everything.
func TestNotVault(t *testing.T) {
	for _, status := range []int{200, 403, 404, 502} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				fmt.Fprint(w, "<html>canary</html>")
			}))
			t.Cleanup(server.Close)
			want, detail := broker.ReasonStoreFailed, "not Vault"
			if status == 502 {
				want, detail = broker.ReasonStoreUnreachable, "in front of Vault"
			}
			config := vault.Config{Address: server.URL, TokenFile: file(t, "canary"), Timeout: time.Second}
			_, err := start(t, config).Read(t.Context(), "meta")
			wantReason(t, "Read after login by token file", err, want, detail)
			config.TokenFile = ""
			config.AppRole = vault.AppRole{RoleIDFile: file(t, "canary"), SecretIDFile: file(t, "canary")}
			_, err = start(t, config).Read(t.Context(), "meta")
			wantReason(t, "Read after login by AppRole", err, want, detail)
		})
	}
}

// TestIndexIsCarried: a performance standby is told of our last write.
func TestIndexIsCarried(t *testing.T) {
	index := base64.StdEncoding.EncodeToString([]byte("v1:cluster:7:0:mac"))
	var seen []string
	fake := newFakeVault(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("X-Vault-Index"))
		for _, name := range []string{"X-Vault-Forward", "X-Vault-Inconsistent"} {
			if got := r.Header.Get(name); got != "" {
				t.Errorf("header %s = %q, which community Vault refuses", name, got)
			}
		}
		if r.Method == http.MethodPut {
			w.Header().Set("X-Vault-Index", index)
			fmt.Fprint(w, `{"data":{"version":1}}`)
			return
		}
		fmt.Fprint(w, `{"data":{"data":{},"metadata":{"version":1}}}`)
	})
	store := start(t, fake.config(t))
	mustWrite(t, store, "meta", object(1), 0)
	wantRecord(t, store, "meta", secret.NewString(`{}`), 1)
	if len(seen) != 2 || seen[0] != "" || seen[1] != index {
		t.Errorf("indexes sent = %q, want none with the write and %q with the read", seen, index)
	}
}
