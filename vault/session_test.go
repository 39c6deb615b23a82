package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/realvault"
	"github.com/tokenbroker/tokenbroker/vault"
)

// traffic calls the store from several goroutines until stop is called, which
// returns how many calls there were and the errors.
func traffic(t *testing.T, store *vault.Store) (stop func() (int, []error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	var (
		mu    sync.Mutex
		calls int
		errs  []error
		wait  sync.WaitGroup
	)
	count := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, key := range []string{"clients/w1", "clients/w2", "clients/w3", "clients/w4"} {
		wait.Go(func() {
			var version uint64
			for ctx.Err() == nil {
				next, err := store.Write(context.Background(), key, object(1), version)
				count(err)
				if err == nil {
					version = next
				}
				_, err = store.Read(context.Background(), key)
				count(err)
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return func() (int, []error) {
		cancel()
		wait.Wait()
		return calls, errs
	}
}

// TestShortLivedTokens: calls go on while tokens are renewed, reach their
// maximum, and are replaced; none may fail.
func TestShortLivedTokens(t *testing.T) {
	t.Parallel()
	server := quickServer(t)
	var replacements, deaths atomic.Int64
	t.Cleanup(func() {
		// On a busy machine one may be replaced too late, which no call notices.
		if deaths.Load()*2 > replacements.Load() {
			t.Errorf("%d of %d tokens died before they were replaced", deaths.Load(), replacements.Load())
		}
	})
	tests := []struct {
		name   string
		role   map[string]any
		logins int // at least
	}{
		{"renewed", map[string]any{"token_ttl": "3s", "token_max_ttl": "1h"}, 1},
		{"maximum reached", map[string]any{"token_ttl": "4s", "token_max_ttl": "6s"}, 2},
		{"never renewed", map[string]any{"token_ttl": "4s", "token_max_ttl": "4s"}, 2},
		{"periodic", map[string]any{"token_period": "3s"}, 1},
		{"batch", map[string]any{"token_ttl": "4s", "token_type": "batch"}, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := cornerOf(t, server, server.NewKV(), "prod/eu")
			c.setRole(test.role)
			log := &logBuffer{}
			c.config.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			store := start(t, c.config)
			stop := traffic(t, store)
			time.Sleep(10 * time.Second) // several lifetimes of a real token on Vault's own clock
			calls, errs := stop()
			if len(errs) > 0 {
				t.Errorf("%d of %d calls failed, first: %v", len(errs), calls, errs[0])
			}
			logins, renewals := strings.Count(log.String(), "logged in to vault"), strings.Count(log.String(), "vault token renewed")
			died := strings.Count(log.String(), "token is dead")
			t.Logf("%d calls, %d logins, %d renewals, %d tokens died", calls, logins, renewals, died)
			if logins < test.logins || test.logins == 1 && (logins-1 > died || renewals == 0) {
				t.Errorf("%d logins, want at least %d; just 1 and renewals, if no token dies", logins, test.logins)
			}
			replacements.Add(int64(logins - 1))
			deaths.Add(int64(min(died, logins-1)))
		})
	}
}

// logBuffer is a writer for several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns what was written.
func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestRevokedUnderway: many callers find the token dead; there is one login and
// all calls succeed, writes too.
func TestRevokedUnderway(t *testing.T) {
	c := ownCorner(t, realvault.InMemory())
	store := start(t, c.config)
	mustWrite(t, store, "clients/w0", object(1), 0)
	for round := range 2 {
		before := c.logins()
		c.revokeAll()
		var wait sync.WaitGroup
		errs := make([]error, 32)
		for n := range errs {
			wait.Go(func() {
				if n%2 == 0 {
					_, errs[n] = store.Read(t.Context(), "clients/w0")
				} else {
					_, errs[n] = store.Write(t.Context(), fmt.Sprintf("clients/r%d-%d", round, n), object(n), 0)
				}
			})
		}
		wait.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Errorf("calls after the token was revoked: %v", err)
		}
		if got := c.logins() - before; got != 1 {
			t.Errorf("%d logins for one revoked token, want 1", got)
		}
	}
}

func TestSecretIDUsedUp(t *testing.T) {
	c := ownCorner(t, realvault.InMemory())
	c.newSecretID(map[string]any{"num_uses": 1})
	store := start(t, c.config)
	mustWrite(t, store, "meta", object(1), 0)
	c.revokeAll()
	wantAll(t, store, broker.ReasonStoreLoginFailed, "auth/approle/login", "refused")
	before := c.logins()
	for range 50 {
		_, err := store.Read(t.Context(), "meta")
		wantReason(t, "Read", err, broker.ReasonStoreLoginFailed)
	}
	if got := c.logins() - before; got > 1 {
		t.Errorf("50 calls caused %d logins: Vault locks a role out after 5 refusals", got)
	}
	c.newSecretID(nil)
	recovers(t, store)
	mustWrite(t, store, "meta", object(2), 1)
}

func TestLoginFails(t *testing.T) {
	tests := []struct {
		name   string
		change func(c *vault.Config)
		want   string
	}{
		{"wrong secret id", func(c *vault.Config) { c.AppRole.SecretIDFile = file(t, "canary") }, "auth/approle/login: role id or secret id refused"},
		{"wrong role id", func(c *vault.Config) { c.AppRole.RoleIDFile = file(t, "canary") }, "auth/approle/login: role id or secret id refused"},
		{"no auth mount", func(c *vault.Config) { c.AppRole.Mount = "nothere" }, "auth/nothere/login: no auth method is mounted there (approle.mount) (HTTP 403)"},
		{"no file", func(c *vault.Config) { c.AppRole.SecretIDFile = "/nonexistent/secret" }, "approle.secret_id_file: open /nonexistent/secret"},
		{"empty file", func(c *vault.Config) { c.AppRole.RoleIDFile = os.DevNull }, "approle.role_id_file: /dev/null is empty"},
		{"two lines", func(c *vault.Config) { c.AppRole.SecretIDFile = file(t, "canary\ncanary") }, "holds more than one word"},
		{"no token file", func(c *vault.Config) { c.AppRole, c.TokenFile = vault.AppRole{}, "/nonexistent/token" }, "token_file: open /nonexistent/token"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCorner(t)
			test.change(&c.config)
			wantAll(t, start(t, c.config), broker.ReasonStoreLoginFailed, test.want)
		})
	}
}

func TestTokenFile(t *testing.T) {
	c := newCorner(t)
	first := c.newToken(nil)
	c.useToken(first)
	store := start(t, c.config)
	mustWrite(t, store, "meta", object(1), 0)

	// Replaced in time: nobody notices.
	second := c.newToken(nil)
	write(t, c.config.TokenFile, second+"\n")
	c.revoke(first)
	wantRecord(t, store, "meta", object(1), 1)

	// Too late: an error that says so, until there is a new one.
	c.revoke(second)
	wantAll(t, store, broker.ReasonStoreTokenDead, c.config.TokenFile)
	write(t, c.config.TokenFile, c.newToken(nil))
	recovers(t, store)
	mustWrite(t, store, "meta", object(2), 1)
}

// TestTokenFileKeptFresh does what Vault Agent does: it writes a new token before
// the old one dies, which is never renewed.
func TestTokenFileKeptFresh(t *testing.T) {
	t.Parallel()
	server := quickServer(t)
	c := cornerOf(t, server, server.KV(), "")
	short := map[string]any{"ttl": "4s", "explicit_max_ttl": "4s"}
	c.useToken(c.newToken(short))
	stop := traffic(t, start(t, c.config))
	for range 10 {
		time.Sleep(time.Second)
		write(t, c.config.TokenFile, c.newToken(short))
	}
	if calls, errs := stop(); len(errs) > 0 {
		t.Errorf("%d of %d calls failed, first: %v", len(errs), calls, errs[0])
	}
}

// TestTokenThatDiesAtOnce must not make logins as fast as Vault can answer.
func TestTokenThatDiesAtOnce(t *testing.T) {
	c := ownCorner(t, realvault.InMemory())
	c.setRole(map[string]any{"token_num_uses": 4}) // the preflight takes three of them
	store := start(t, c.config)
	stop := traffic(t, store)
	time.Sleep(2 * time.Second)
	_, errs := stop()
	if got := c.logins(); got > 8 {
		t.Errorf("%d logins in 2 s", got)
	}
	if len(errs) == 0 {
		t.Fatal("all calls succeeded")
	}
	wantReason(t, "call", errs[len(errs)-1], broker.ReasonStoreTokenDead, "died again")
}

func TestCallBeforeRunEndsByItself(t *testing.T) {
	c := newCorner(t)
	c.config.Timeout = 100 * time.Millisecond
	store, err := vault.New(c.config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Read(t.Context(), "meta")
	wantReason(t, "Read without Run", err, broker.ReasonStoreLoginFailed, "Run was not called")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = store.Read(ctx, "meta")
	wantReason(t, "Read with a dead context", err, broker.ReasonDeadlineExceeded)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Read with a dead context = %v, want %v", err, context.Canceled)
	}
	if err := store.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
	if err := store.Run(ctx); err == nil {
		t.Error("Run may be called twice")
	}
	_, err = store.Read(t.Context(), "meta")
	wantReason(t, "Read after Run", err, broker.ReasonStoreTokenDead, "stopping")
}

// TestAfterRun: what is under way at shutdown may still use the token.
func TestAfterRun(t *testing.T) {
	c := newCorner(t)
	store, err := vault.New(c.config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- store.Run(ctx) }()
	version := mustWrite(t, store, "meta", object(1), 0)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
	mustWrite(t, store, "meta", object(2), version)
	if err := store.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// TestLogHoldsNoCredentials looks through everything that is logged over the
// life of a session.
func TestLogHoldsNoCredentials(t *testing.T) {
	c := ownCorner(t, realvault.InMemory())
	log := &logBuffer{}
	c.config.Logger = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store := start(t, c.config)
	const content = 471147114711471147 // no time and no port is that long
	mustWrite(t, store, "meta", object(content), 0)
	c.revokeAll()
	_, _ = store.Read(t.Context(), "meta")
	c.Seal()
	_, _ = store.Read(t.Context(), "meta")
	c.Unseal()
	role, err := os.ReadFile(c.config.AppRole.RoleIDFile)
	if err != nil {
		t.Fatal(err)
	}
	secretID, err := os.ReadFile(c.config.AppRole.SecretIDFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, forbidden := range []string{"hvs.", strconv.Itoa(content), strings.TrimSpace(string(role)), strings.TrimSpace(string(secretID))} {
		if strings.Contains(log.String(), forbidden) {
			t.Errorf("the log holds %s:\n%s", forbidden, log.String())
		}
	}
	if !strings.Contains(log.String(), "logged in to vault") {
		t.Errorf("the log says nothing: %s", log.String())
	}
}
