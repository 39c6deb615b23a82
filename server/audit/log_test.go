package audit_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// TestWrittenBeforeAppendReturns has many append at once: each finds its own entry in
// the sink as soon as Append has returned, and the chain holds.
func TestWrittenBeforeAppendReturns(t *testing.T) {
	const appenders, each = 64, 200
	key, sink := newKey(t), &memory{}
	log := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
	var wg sync.WaitGroup
	for a := range appenders {
		wg.Go(func() {
			for n := range each {
				e := entry(a*each + n)
				if err := log.Append(e); err != nil {
					t.Errorf("append: %v", err)
					return
				}
				if n%20 == 0 && !sink.has(`"request_id":"`+e.RequestID+`"`) {
					t.Errorf("%s was not written when Append returned", e.RequestID)
				}
			}
		})
	}
	wg.Wait()
	if err := log.stop(); err != nil {
		t.Fatal(err)
	}
	report := verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, sink.text())
	wantSound(t, report)
	if report.Entries() != appenders*each {
		t.Errorf("got %d entries, want %d", report.Entries(), appenders*each)
	}
	if len(requests(t, sink.text())) != appenders*each {
		t.Errorf("got %d requests, want %d", len(requests(t, sink.text())), appenders*each)
	}
	t.Logf("%d entries in %d writes", appenders*each, sink.groups)
}

// blocked lets an append wait in the sink, has others wait behind it, and returns their
// errors after the sink has gone on.
func blocked(t *testing.T, l *running, sink *memory, followers int) (others []error, first error) {
	t.Helper()
	writing, release := make(chan struct{}), make(chan struct{})
	sink.set(func(m *memory) {
		m.onWrite = sync.OnceFunc(func() {
			close(writing)
			<-release
		})
		m.groups = 0
	})
	var wg sync.WaitGroup
	wg.Go(func() { first = l.Append(entry(0)) })
	<-writing
	others = make([]error, followers)
	for n := range followers {
		wg.Go(func() { others[n] = l.Append(entry(n + 1)) })
	}
	for l.Waiting() < followers {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	return others, first
}

// TestGroup: those who come while a write is under way share the next one.
func TestGroup(t *testing.T) {
	sink := &memory{}
	l := run(t, audit.Config{Key: newKey(t), Sinks: []audit.Sink{sink}})
	others, first := blocked(t, l, sink, 20)
	if err := errors.Join(append(others, first)...); err != nil {
		t.Error(err)
	}
	if sink.groups != 2 {
		t.Errorf("got %d writes, want 2", sink.groups)
	}
}

// TestGroupBehindAFailure: lines that wait while no sink takes those before them hang
// on them, so they fail too.
func TestGroupBehindAFailure(t *testing.T) {
	key, sink := newKey(t), &memory{}
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
	appendEntry(t, l, 1)
	sink.set(func(m *memory) { m.fails = 1 })
	others, first := blocked(t, l, sink, 20)
	if !errors.Is(first, audit.ErrAllSinksFailed) {
		t.Errorf("got %v, want ErrAllSinksFailed", first)
	}
	accepted := uint64(1)
	for _, err := range others {
		switch {
		case err == nil: // it came too late to wait
			accepted++
		case !errors.Is(err, audit.ErrAllSinksFailed):
			t.Errorf("got %v, want ErrAllSinksFailed", err)
		}
	}
	must(l.stop())
	report := verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, sink.text())
	wantSound(t, report)
	if report.Entries() != accepted {
		t.Errorf("got %s, want %d entries", report, accepted)
	}
}

// TestCloseWhileAppending: what was accepted is written, what was not says so, and the
// end comes last.
func TestCloseWhileAppending(t *testing.T) {
	for range 20 {
		key, sink := newKey(t), &memory{}
		log := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
		var accepted atomic.Int64
		var wg sync.WaitGroup
		for a := range 16 {
			wg.Go(func() {
				for {
					err := log.Append(entry(a))
					if errors.Is(err, audit.ErrClosed) {
						return
					}
					if err != nil {
						t.Errorf("append: %v", err)
						return
					}
					accepted.Add(1)
				}
			})
		}
		for accepted.Load() < 100 {
			runtime.Gosched()
		}
		if err := log.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		wg.Wait()
		report := verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, sink.text())
		wantSound(t, report)
		if got, want := report.Entries(), uint64(accepted.Load()); got != want {
			t.Fatalf("got %d entries, want %d", got, want)
		}
		if report.Chains[0].Ending != audit.Closed {
			t.Errorf("got ending %q, want closed", report.Chains[0].Ending)
		}
	}
}

func TestOneSinkFails(t *testing.T) {
	key := newKey(t)
	log, logged := logger()
	good, bad := &memory{name: "good"}, &memory{name: "bad"}
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{bad, good}, Logger: log})
	for n := range 30 {
		switch n {
		case 10:
			bad.set(func(m *memory) { m.fail = errFull })
		case 20:
			if failing := l.Status().Failing; !failing["memory bad"] || failing["memory good"] {
				t.Errorf("got status %v, want that bad fails", failing)
			}
			bad.set(func(m *memory) { m.fail = nil })
		}
		appendEntry(t, l, n)
	}
	if l.Status().Failing["memory bad"] {
		t.Error("the recovered sink still counts as failing")
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"audit sink fails", "audit sink works again"} {
		if got := strings.Count(logged(), want); got != 1 {
			t.Errorf("%q was logged %d times, want once:\n%s", want, got, logged())
		}
	}
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}}
	wantSound(t, verify(t, cfg, good.text()))
	wantFinding(t, verify(t, cfg, bad.text()), "lines 11 to 20 of chain")
	wantSound(t, verify(t, cfg, bad.text(), good.text()))
	wantSound(t, verify(t, cfg, good.text(), bad.text()))
}

// TestSinksFailInTurn: no sink has all, both together have.
func TestSinksFailInTurn(t *testing.T) {
	key := newKey(t)
	a, b := &memory{name: "a"}, &memory{name: "b"}
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{a, b}})
	for n := range 40 {
		a.set(func(m *memory) { m.fail = map[bool]error{true: errFull}[n%4 == 1] })
		b.set(func(m *memory) { m.fail = map[bool]error{true: errFull}[n%4 == 3] })
		appendEntry(t, l, n)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]audit.VerifyConfig{"key": {Keys: []audit.Key{key}}, "public": {PublicKeys: []audit.PublicKey{key.Public()}}} {
		t.Run(name, func(t *testing.T) {
			wantFinding(t, verify(t, cfg, a.text()), "missing")
			wantFinding(t, verify(t, cfg, b.text()), "missing")
			wantSound(t, verify(t, cfg, a.text(), b.text()))
			// What is changed in one of them is found, and the other one stands for it.
			lines := strings.SplitAfter(a.text(), "\n")
			lines[7] = strings.Replace(lines[7], `"crm"`, `"hrm"`, 1)
			wantFinding(t, verify(t, cfg, strings.Join(lines, ""), b.text()), "differs from the same line at ")
			if report := verify(t, cfg, strings.Join(lines, ""), b.text()); cfg.Keys != nil && len(report.Findings) != 1 {
				t.Errorf("got %s, want one finding", report)
			}
		})
	}
}

// TestAllSinksFail: the calls are refused, and those that come later are on a chain
// that does not hang on lines which nobody has.
func TestAllSinksFail(t *testing.T) {
	key := newKey(t)
	sink := &memory{}
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
	appendEntry(t, l, 1)
	sink.set(func(m *memory) { m.fail = errFull })
	for n := range 3 {
		if err := l.Append(entry(10 + n)); !errors.Is(err, audit.ErrAllSinksFailed) {
			t.Errorf("got %v, want ErrAllSinksFailed", err)
		}
	}
	sink.set(func(m *memory) { m.fail = nil })
	appendEntry(t, l, 2)
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	report := verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, sink.text())
	wantSound(t, report)
	if report.Entries() != 2 || len(report.Chains) != 2 || report.Chains[0].Ending != audit.SinksFailed || report.Chains[1].Ending != audit.Closed {
		t.Errorf("got %s, want two chains with an entry each", report)
	}
	if want := report.Chains[0].ID + "/1"; len(report.Chains[1].After) != 1 || report.Chains[1].After[0] != want {
		t.Errorf("got the second chain after %v, want %s", report.Chains[1].After, want)
	}
}

// TestFaultsUnderLoad lets two sinks fail at random while many append: what was
// accepted is in one of them, and both together are sound.
func TestFaultsUnderLoad(t *testing.T) {
	key := newKey(t)
	a, b := &memory{name: "a"}, &memory{name: "b"}
	for _, m := range []*memory{a, b} {
		m.onWrite = func() { // with the lock held
			m.fail = nil
			if rand.IntN(3) == 0 {
				m.fail = errFull
			}
		}
	}
	var l *running
	for l == nil { // the start may fail, too
		if log, err := audit.New(audit.Config{Key: key, Sinks: []audit.Sink{a, b}}); err == nil {
			l = &running{Log: log}
		}
	}
	var accepted sync.Map // :: request id → struct{}
	var count, refused atomic.Int64
	var wg sync.WaitGroup
	try := func(n int) {
		e := entry(n)
		switch err := l.Append(e); {
		case err == nil:
			accepted.Store(e.RequestID, struct{}{})
			count.Add(1)
		case errors.Is(err, audit.ErrAllSinksFailed):
			refused.Add(1)
		default:
			t.Errorf("append: %v", err)
		}
	}
	for i := range 32 {
		wg.Go(func() {
			for n := range 100 {
				try(i*100 + n)
			}
		})
	}
	wg.Wait()
	for n := 32 * 100; count.Load() == 0 || refused.Load() == 0; n++ {
		try(n) // a ninth of the writes fails
	}
	written := requests(t, a.text()+b.text())
	accepted.Range(func(id, _ any) bool {
		if !written[id.(string)] {
			t.Errorf("%s was accepted and is nowhere", id)
		}
		return true
	})
	// Of its last lines nobody says that they are the last: it was not closed.
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}}
	report := verify(t, cfg, a.text(), b.text())
	wantSound(t, report)
	if got := int64(report.Entries()); got != count.Load() {
		t.Errorf("got %d entries, want %d", got, count.Load())
	}
	t.Logf("%d accepted, %d refused, %d chains", count.Load(), refused.Load(), len(report.Chains))
}

// TestPanic: a sink that panics takes its group with it, and no more.
func TestPanic(t *testing.T) {
	key, sink := newKey(t), &memory{}
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
	recovered := func(f func()) (panicked bool) {
		defer func() { panicked = recover() != nil }()
		f()
		return false
	}
	if !recovered(func() { _ = l.Append(nil) }) {
		t.Error("no panic for no entry")
	}
	appendEntry(t, l, 1)
	sink.set(func(m *memory) { m.onWrite = func() { panic("a bug") } })
	if !recovered(func() { _ = l.Append(entry(2)) }) {
		t.Error("no panic")
	}
	sink.set(func(m *memory) { m.onWrite = nil })
	appendEntry(t, l, 3)
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	wantSound(t, verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, sink.text()))
}

func TestNewRefuses(t *testing.T) {
	key := newKey(t)
	for name, cfg := range map[string]audit.Config{
		"no sink":            {Key: key},
		"no key":             {Sinks: []audit.Sink{&memory{}}},
		"no sink that works": {Key: key, Sinks: []audit.Sink{&memory{fail: errFull}, &memory{fail: errFull}}},
		"no sink that syncs": {Key: key, Sinks: []audit.Sink{&memory{failSync: errFull}}, SyncAlways: true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := audit.New(cfg); err == nil {
				t.Error("got no error")
			}
		})
	}
}

// TestAppendAllocates at most once.
func TestAppendAllocates(t *testing.T) {
	l := run(t, audit.Config{Key: newKey(t), Sinks: []audit.Sink{&discard{}}})
	e := entry(1)
	e.Time = time.Now()
	if got := testing.AllocsPerRun(1000, func() {
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}); got > 1 && !raceEnabled {
		t.Errorf("got %v allocations, want at most 1", got)
	}
}

// discard is a sink that forgets.
type discard struct{ memory }

func (*discard) Write([]byte) error { return nil }

// requests returns the request ids in lines.
func requests(t *testing.T, text string) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for line := range strings.Lines(text) {
		var decoded struct {
			RequestID string `json:"request_id"`
			Seq       uint64 `json:"seq"`
		}
		if err := json.Unmarshal([]byte(line), &decoded); err != nil {
			t.Fatalf("line %s: %v", strconv.Quote(line), err)
		}
		if decoded.RequestID != "" {
			ids[decoded.RequestID] = true
		}
	}
	return ids
}
