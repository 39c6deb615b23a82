package vault_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const mismatch = `{"errors":["check-and-set parameter did not match the current version"]}`

// TestLostWrites: the outcome is unknown, whether or not the write took effect,
// and nothing is sent twice.
func TestLostWrites(t *testing.T) {
	tests := []struct {
		name    string
		fault   fault
		applied bool
	}{
		{"request lost", loseRequest, false},
		{"answer lost", loseAnswer, true},
		{"answer cut in the middle", cutAnswer, true},
		{"answer too late", hang, true},
		{"gateway gave up", refuse(504, "<html>canary</html>"), false},
		{"internal error", refuse(500, `{"errors":["canary"]}`), false},
	}
	server := quickServer(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := cornerOf(t, server, server.NewKV(), "prod/eu")
			if c.config.Timeout = 10 * time.Second; test.name == "answer too late" {
				c.config.Timeout = time.Second
			}
			p := newProxy(t, c)
			store := start(t, c.config)
			mustWrite(t, store, "clients/a", object(1), 0)
			mustWrite(t, store, "secrets/a/u-1", object(1), 0)

			p.inject(1, test.fault)
			_, err := store.Write(t.Context(), "clients/a", object(2), 1)
			wantReason(t, "Write", err, broker.ReasonStoreAnswerLost, "the outcome is unknown")
			if got := p.hits.Load(); got != 1 {
				t.Errorf("a write was sent %d times", got)
			}
			want, version := object(1), uint64(1)
			if test.applied {
				want, version = object(2), 2
			}
			wantRecord(t, store, "clients/a", want, version)

			p.only = "/v1/" + c.mount + "/destroy/"
			p.inject(1, test.fault)
			wantReason(t, "Destroy", store.Destroy(t.Context(), "secrets/a/u-1"), broker.ReasonStoreAnswerLost, "the outcome is unknown")
			_, err = store.Read(t.Context(), "secrets/a/u-1")
			if gone := broker.ReasonOf(err) == broker.ReasonRecordDestroyed; gone != test.applied {
				t.Errorf("after a lost Destroy Read = %v, want destroyed: %t", err, test.applied)
			}
			if err := store.Destroy(t.Context(), "secrets/a/u-1"); err != nil {
				t.Errorf("Destroy again: %v", err)
			}
		})
	}
}

// TestReadsSurvive: a failure that passes is not seen by the caller.
func TestReadsSurvive(t *testing.T) {
	tests := []struct {
		name  string
		fault fault
	}{
		{"request lost", loseRequest},
		{"answer lost", loseAnswer},
		{"answer cut in the middle", cutAnswer},
		{"gateway gave up", refuse(502, "")},
		{"internal error", refuse(500, `{"errors":["x"]}`)},
		{"lagging standby", refuse(412, `{"errors":["x"]}`)},
		{"quota", refuse(429, `{"errors":["x"]}`)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCorner(t)
			p := newProxy(t, c)
			store := start(t, c.config)
			mustWrite(t, store, "clients/a", object(1), 0)
			p.inject(2, test.fault)
			wantRecord(t, store, "clients/a", object(1), 1)
			p.inject(1000, test.fault)
			if _, err := store.Read(t.Context(), "clients/a"); err == nil {
				t.Error("Read succeeded although every try failed")
			}
			// net/http repeats a GET by itself when a kept connection breaks.
			if got := p.hits.Load(); got < 3 || got > 6 {
				t.Errorf("a read was sent %d times, want 3 to 6", got)
			}
		})
	}
}

func TestSlow(t *testing.T) {
	server := quickServer(t)
	c := cornerOf(t, server, server.KV(), "")
	c.config.Timeout = time.Second
	p := newProxy(t, c)
	store := start(t, c.config)
	mustWrite(t, store, "clients/a", object(1), 0)
	p.inject(1000, hang)
	began := time.Now()
	_, err := store.Read(t.Context(), "clients/a")
	wantReason(t, "Read", err, broker.ReasonStoreUnreachable, "no answer in time")
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("Read took %v, want about twice the timeout", took)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("our timeout passes for the caller's deadline: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = store.Write(ctx, "clients/a", object(2), 1)
	wantReason(t, "Write with a dead context", err, broker.ReasonDeadlineExceeded, "before there was a connection")

	ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = store.Read(ctx, "clients/a")
	wantReason(t, "Read", err, broker.ReasonStoreUnreachable, "the caller gave up")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Read = %v, want %v within it", err, context.DeadlineExceeded)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel)
	_, err = store.Write(ctx, "clients/a", object(2), 1)
	wantReason(t, "Write", err, broker.ReasonStoreAnswerLost, "the outcome is unknown", "the caller gave up")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Write = %v, want %v within it", err, context.Canceled)
	}
}

// TestMismatch tells a race from a standby that has not heard of our version.
func TestMismatch(t *testing.T) {
	c := newCorner(t)
	p := newProxy(t, c)
	store := start(t, c.config)
	mustWrite(t, store, "clients/a", object(1), 0)
	p.inject(1, refuse(400, mismatch))
	_, err := store.Write(t.Context(), "clients/a", object(2), 1)
	wantReason(t, "Write that a lagging node refuses", err, broker.ReasonStoreStandby, "does not know of version 1 yet")
	p.inject(1, refuse(400, mismatch))
	_, err = store.Write(t.Context(), "clients/b", object(2), 0)
	wantReason(t, "create that a lagging node refuses", err, broker.ReasonStoreStandby)
	p.inject(0, loseRequest)
	_, err = store.Write(t.Context(), "clients/a", object(2), 0)
	wantReason(t, "create of what is there", err, broker.ReasonStoreConflict, c.path("data", "clients/a"))
	_, err = store.Write(t.Context(), "clients/a", object(2), 7)
	wantReason(t, "Write of a version to come", err, broker.ReasonStoreConflict)

	// If the metadata cannot be read, it is what it looks like.
	c.PutPolicy(c.role, strings.Replace(c.policy(), `"list", "read"`, `"list"`, 1))
	p.inject(1, refuse(400, mismatch))
	_, err = store.Write(t.Context(), "clients/a", object(2), 1)
	wantReason(t, "Write that is refused", err, broker.ReasonStoreConflict)
}

// TestQuota uses Vault's own.
func TestQuota(t *testing.T) {
	c := newCorner(t)
	store := start(t, c.config)
	mustWrite(t, store, "clients/a", object(1), 0)
	quota := "sys/quotas/rate-limit/" + c.mount
	c.must("POST", quota, map[string]any{"path": c.mount, "rate": 1, "interval": "60s"})
	t.Cleanup(func() { c.must("DELETE", quota, nil) })
	_, _ = store.Read(t.Context(), "clients/a")
	wantAll(t, store, broker.ReasonStoreRateLimited, "quota")
}

// TestWriterFindsOut runs every kind of loss under a writer that does as
// package broker does: no write may be taken for another's.
func TestWriterFindsOut(t *testing.T) {
	server := quickServer(t)
	c := cornerOf(t, server, server.KV(), "")
	c.config.Timeout = 3 * time.Second
	p := newProxy(t, c)
	store := start(t, c.config)
	version := mustWrite(t, store, "clients/a", object(0), 0)
	for n, f := range []fault{loseRequest, loseAnswer, cutAnswer, hang, loseAnswer, loseRequest} {
		p.inject(1, f)
		next, err := store.Write(t.Context(), "clients/a", object(n+1), version)
		for broker.ReasonOf(err) == broker.ReasonStoreAnswerLost {
			record, readErr := store.Read(t.Context(), "clients/a")
			if readErr != nil {
				t.Fatalf("Read: %v", readErr)
			}
			if next, err = record.Version, nil; record.Version == version {
				next, err = store.Write(t.Context(), "clients/a", object(n+1), version)
			}
		}
		if err != nil || next != version+1 {
			t.Fatalf("write %d = version %d, %v; want version %d", n, next, err, version+1)
		}
		version = next
	}
}
