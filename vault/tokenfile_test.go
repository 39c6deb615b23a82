package vault_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/realvault"
)

// logged makes the configuration log into what it returns.
func (c *corner) logged() *logBuffer {
	log := &logBuffer{}
	c.config.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return log
}

// times checks how often the log has text, waiting for it to come.
func times(t *testing.T, log *logBuffer, text string, want int) {
	t.Helper()
	within(t, 10*time.Second, text, func() error {
		if got := strings.Count(log.String(), text); got != want {
			return fmt.Errorf("logged %d times, want %d", got, want)
		}
		return nil
	})
}

// TestTokenFileReplaced: a new token is used before the old one dies; a bad one
// is logged once and leaves the old one in use.
func TestTokenFileReplaced(t *testing.T) {
	c := newCorner(t)
	c.useToken(c.newToken(nil))
	log := c.logged()
	var heard outcomes
	c.config.OnLogin = heard.add
	store := start(t, c.config)
	mustWrite(t, store, "meta", object(1), 0)
	times(t, log, "logged in to vault", 1)

	const unfit = "what is in it cannot be used"
	write(t, c.config.TokenFile, "canary-token")
	times(t, log, unfit, 1)
	write(t, c.config.TokenFile, "canary-token\n") // the same again
	powerless := c.newToken(map[string]any{"policies": []string{"nothing"}})
	wantRecord(t, store, "meta", object(1), 1)
	write(t, c.config.TokenFile, powerless)
	times(t, log, unfit, 2)
	wantRecord(t, store, "meta", object(1), 1)

	write(t, c.config.TokenFile, c.newToken(nil))
	times(t, log, "logged in to vault", 2)
	if strings.Contains(log.String(), "canary") || strings.Contains(log.String(), "token is dead") {
		t.Errorf("the log shows a token, or that one died:\n%s", log)
	}
	want := "token_file OK, token_file STORE_TOKEN_DEAD, token_file STORE_TOKEN_DEAD, token_file OK"
	if got := heard.String(); got != want {
		t.Errorf("OnLogin was told %s, want %s", got, want)
	}
}

const warning = "ends soon and cannot be renewed"

// TestTokenNearItsEnd warns once when a token that nobody renews has a day left.
func TestTokenNearItsEnd(t *testing.T) {
	c := newCorner(t)
	c.must("POST", "sys/auth/token/tune", map[string]any{"max_lease_ttl": "768h"})
	began := time.Now()
	c.useToken(c.newToken(map[string]any{"ttl": "86403s", "renewable": false}))
	log := c.logged()
	store := start(t, c.config)
	mustWrite(t, store, "meta", object(1), 0)
	if end, byItself := store.TokenExpiry(); byItself || time.Until(end) > 86403*time.Second || time.Until(end) < 86300*time.Second {
		t.Errorf("TokenExpiry() = %v, %v; want a day from now, not by itself", end, byItself)
	}
	if early := strings.Contains(log.String(), warning); early && time.Since(began) < 2*time.Second {
		t.Errorf("warned too early:\n%s", log)
	}
	times(t, log, warning, 1)
	if !strings.Contains(log.String(), c.config.TokenFile) {
		t.Errorf("the warning does not name %s:\n%s", c.config.TokenFile, log)
	}

	c.useToken(c.newToken(nil)) // renewed by the broker
	store = start(t, c.config)
	wantRecord(t, store, "meta", object(1), 1)
	if end, byItself := store.TokenExpiry(); !byItself || end.IsZero() {
		t.Errorf("TokenExpiry() of a renewable token = %v, %v", end, byItself)
	}
}

// TestTokenNearItsEndAgain crosses the last hour, which a new token of a real
// Vault cannot.
func TestTokenNearItsEndAgain(t *testing.T) {
	ends := time.Now().Add(time.Hour + 7*time.Second)
	fake := &fakeVault{records: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":{"keys":[]}}`) }}
	fake.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/auth/token/lookup-self" {
			fake.ServeHTTP(w, r)
			return
		}
		fmt.Fprintf(w, `{"data":{"ttl":%d,"creation_time":%d,"creation_ttl":2592000,"expire_time":%q,"renewable":false}}`,
			int(time.Until(ends).Seconds()), ends.Add(-30*24*time.Hour).Unix(), ends.Format(time.RFC3339))
	}))
	t.Cleanup(fake.Close)
	c := &corner{t: t, config: fake.config(t)}
	log := c.logged()
	if _, err := start(t, c.config).List(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	times(t, log, warning, 1)
	times(t, log, warning, 2)
}

// TestSecretIDWithUses: each token takes one use, failures of others take none;
// when none is left the error says what mends it, and the role is not locked out.
func TestSecretIDWithUses(t *testing.T) {
	c := ownCorner(t, realvault.InMemory())
	c.newSecretID(map[string]any{"num_uses": 2})
	store := start(t, c.config)
	mustWrite(t, store, "meta", object(1), 0)
	c.revokeAll()
	wantRecord(t, store, "meta", object(1), 1)
	c.revokeAll()
	wantAll(t, store, broker.ReasonStoreLoginFailed,
		"it was accepted before, so it has expired or is used up", "put a new secret id into "+c.config.AppRole.SecretIDFile)
	within(t, 10*time.Second, "the second try", func() error {
		if got := c.logins(); got != 4 {
			return fmt.Errorf("%d logins, want 2 that used it up and 2 that were refused", got)
		}
		return nil
	})
	c.newSecretID(nil)
	within(t, 5*time.Second, "after the file was replaced", func() error {
		_, err := store.Read(t.Context(), "meta")
		return err
	})
}

// TestWrappedSecretID: it is unwrapped once and kept; a used or substituted
// wrapping token is named as such.
func TestWrappedSecretID(t *testing.T) {
	c := ownCorner(t, realvault.InMemory())
	c.config.AppRole.SecretIDWrapped = true
	path := c.config.AppRole.SecretIDFile
	wrapped := func() string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.Addr()+"/v1/auth/approle/role/"+c.role+"/secret-id", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Vault-Token", c.RootToken())
		request.Header.Set("X-Vault-Wrap-TTL", "5m")
		return wrappingToken(t, request)
	}
	token := wrapped()
	write(t, path, token)
	store := start(t, c.config)
	mustWrite(t, store, "meta", object(1), 0)
	c.revokeAll()
	wantRecord(t, store, "meta", object(1), 1) // logged in again with the same secret id

	// Another process finds it used.
	wantAll(t, start(t, c.config), broker.ReasonStoreLoginFailed, "used already", "somebody took the secret id", path)

	// Taken out and wrapped again.
	_, answer := c.DoAs(wrapped(), "POST", "sys/wrapping/unwrap", map[string]any{})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.Addr()+"/v1/sys/wrapping/wrap",
		strings.NewReader(fmt.Sprintf(`{"secret_id":%q}`, answer["data"].(map[string]any)["secret_id"])))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Vault-Token", c.RootToken())
	request.Header.Set("X-Vault-Wrap-TTL", "5m")
	// A file of its own: each store that waits would unwrap what is put into a shared one.
	c.config.AppRole.SecretIDFile = file(t, wrappingToken(t, request))
	other := start(t, c.config)
	wantAll(t, other, broker.ReasonStoreLoginFailed, "not made by a role of auth/approle")
	write(t, c.config.AppRole.SecretIDFile, wrapped())
	recovers(t, other)
}

// wrappingToken sends a request whose answer is wrapped.
func wrappingToken(t *testing.T, request *http.Request) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var body struct {
		WrapInfo struct{ Token string } `json:"wrap_info"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&body); err != nil || body.WrapInfo.Token == "" {
		t.Fatalf("no wrapping token: %v", err)
	}
	return body.WrapInfo.Token
}

// TestPolicyPermitsWrappingLookup uses the printed policy.
func TestPolicyPermitsWrappingLookup(t *testing.T) {
	c := newCorner(t)
	_, answer := c.DoAs(c.newToken(nil), "POST", "sys/capabilities-self", map[string]any{"paths": []string{"sys/wrapping/lookup"}})
	data, _ := answer["data"].(map[string]any)
	if got := fmt.Sprint(data["sys/wrapping/lookup"]); got != "[update]" {
		t.Errorf("the printed policy grants %s on sys/wrapping/lookup, want [update]", got)
	}
}
