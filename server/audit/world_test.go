package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

var errFull = errors.New("no space left")

// memory is a sink in memory that can be told to fail.
type memory struct {
	name string
	last string

	mu       sync.Mutex // guards the rest
	written  bytes.Buffer
	groups   int
	syncs    []time.Time
	fail     error // of Write
	fails    int   // how many times Write fails yet
	failSync error
	trouble  error // of Check
	closed   bool
	onWrite  func()
}

func (m *memory) Name() string { return "memory " + m.name }
func (m *memory) Last() string { return m.last }

func (m *memory) Write(lines []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.onWrite != nil {
		m.onWrite()
	}
	if m.closed {
		panic("write after close")
	}
	if m.fail != nil {
		return m.fail
	}
	if m.fails > 0 {
		m.fails--
		return errFull
	}
	m.groups++
	m.written.Write(lines)
	return nil
}

func (m *memory) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs = append(m.syncs, time.Now())
	return m.failSync
}

func (m *memory) Check() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trouble
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (m *memory) set(change func(*memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *memory) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.written.String()
}

// has reports whether text was written.
func (m *memory) has(text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Contains(m.written.Bytes(), []byte(text))
}

// synced returns when Sync was called.
func (m *memory) synced() []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.syncs)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func newKey(t testing.TB) audit.Key {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.key")
	if err := audit.CreateKey(path); err != nil {
		t.Fatal(err)
	}
	return loadKey(t, path)
}

func loadKey(t testing.TB, path string) audit.Key {
	t.Helper()
	key, err := audit.LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// running is a log and its Run.
type running struct {
	*audit.Log
	stop func() error
}

// run makes a log and runs it until stop, or until the test ends.
func run(t testing.TB, cfg audit.Config) *running {
	t.Helper()
	log, err := audit.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- log.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-result
	})
	t.Cleanup(func() { _ = stop() })
	return &running{log, stop}
}

func entry(n int) *audit.Entry {
	return &audit.Entry{
		RequestID: fmt.Sprintf("request-%d", n), Caller: "crm", Method: "/tokenbroker.v1.TokenService/GetToken",
		Client: "clients/acme-crm", Outcome: audit.Allowed, Scopes: []string{"contacts.read"}, TokenID: "0123456789abcdef", SecretVersion: 3,
	}
}

func appendEntry(t testing.TB, log interface{ Append(*audit.Entry) error }, n int) {
	t.Helper()
	if err := log.Append(entry(n)); err != nil {
		t.Fatalf("entry %d: %v", n, err)
	}
}

// journal writes entries, one a second of a fake clock, to sinks, and returns the time
// afterwards. Each step is called before the entry of that number. The log is left
// open if killed, that is, only its sinks' content counts.
func journal(t *testing.T, key audit.Key, entries int, killed bool, step func(n int), sinks ...audit.Sink) (end time.Time) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// All fake clocks start at the same time; runs must not.
		time.Sleep(time.Duration(clock) * time.Second)
		log := run(t, audit.Config{Key: key, Sinks: sinks})
		time.Sleep(time.Second / 2) // so that no entry comes at the same time as a checkpoint
		for n := range entries {
			if step != nil {
				step(n)
			}
			// Whether a sink takes it is the caller's affair.
			_ = log.Append(entry(n))
			time.Sleep(time.Second)
		}
		end = time.Now()
		if killed {
			for _, sink := range sinks {
				if m, ok := sink.(*memory); ok {
					m.set(func(m *memory) { m.fail = errFull })
				}
			}
		}
		_ = log.stop()
	})
	clock += entries + 2
	return end
}

// clock is how many seconds of fake time were used by journals so far.
var clock int

// verify verifies texts as files of the names 0, 1, …
func verify(t testing.TB, cfg audit.VerifyConfig, texts ...string) audit.Report {
	t.Helper()
	var sources []audit.Source
	for i, text := range texts {
		sources = append(sources, audit.Source{Name: fmt.Sprint(i), Reader: strings.NewReader(text)})
	}
	report, err := audit.Verify(cfg, sources...)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func wantSound(t testing.TB, report audit.Report) {
	t.Helper()
	if !report.Sound() {
		t.Errorf("got\n%swant it sound", report)
	}
}

// wantFinding wants a finding with each of the texts.
func wantFinding(t testing.TB, report audit.Report, texts ...string) {
	t.Helper()
	if report.Sound() {
		t.Errorf("got\n%swant it not sound", report)
	}
	for _, text := range texts {
		found := false
		for _, finding := range report.Findings {
			found = found || strings.Contains(finding.String(), text)
		}
		if !found {
			t.Errorf("got\n%swant a finding with %q", report, text)
		}
	}
}

// logger returns a logger and what it wrote.
func logger() (*slog.Logger, func() string) {
	var mu sync.Mutex
	var text bytes.Buffer
	handler := slog.NewTextHandler(lockedWriter{&mu, &text}, nil)
	return slog.New(handler), func() string {
		mu.Lock()
		defer mu.Unlock()
		return text.String()
	}
}

type lockedWriter struct {
	mu   *sync.Mutex
	text *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}
