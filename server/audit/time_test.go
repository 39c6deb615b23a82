package audit_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// TestIntervals: durable every second, a checkpoint every ten, an end at the end.
func TestIntervals(t *testing.T) {
	key, sink := newKey(t), &memory{}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
		time.Sleep(500 * time.Millisecond)
		appendEntry(t, l, 1)
		if lag := l.Status().Lag; lag < 400*time.Millisecond {
			t.Errorf("got lag %v, want the age of the start", lag)
		}
		time.Sleep(600 * time.Millisecond)
		if lag := l.Status().Lag; lag != 0 {
			t.Errorf("got lag %v after a sync, want none", lag)
		}
		time.Sleep(33*time.Second - 1100*time.Millisecond + time.Millisecond)
		if got := len(sink.synced()); got != 33 {
			t.Errorf("got %d syncs in 33 s", got)
		}
		for i, at := range sink.synced() {
			if got, want := at.Sub(begin), time.Duration(i+1)*time.Second; got != want {
				t.Errorf("sync %d came after %v, want %v", i, got, want)
			}
		}
		if got := strings.Count(sink.text(), `"checkpoint"`); got != 3 {
			t.Errorf("got %d checkpoints in 33 s, want 3", got)
		}
		if err := l.stop(); err != nil {
			t.Error(err)
		}
		if !sink.closed || !strings.Contains(sink.text(), `"type":"end"`) {
			t.Errorf("closed %v, the last lines are %s", sink.closed, sink.text())
		}
		if err := l.Append(entry(2)); !errors.Is(err, audit.ErrClosed) {
			t.Errorf("got %v after the end, want ErrClosed", err)
		}
	})
	wantSound(t, verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, sink.text()))
}

func TestSyncAlways(t *testing.T) {
	key, sink := newKey(t), &memory{}
	synctest.Test(t, func(t *testing.T) {
		l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}, SyncAlways: true})
		for n := range 3 {
			appendEntry(t, l, n)
		}
		if got := len(sink.synced()); got != 4 {
			t.Errorf("got %d syncs for a start and 3 entries", got)
		}
		if lag := l.Status().Lag; lag != 0 {
			t.Errorf("got lag %v, want none", lag)
		}
		sink.set(func(m *memory) { m.failSync = errFull })
		if err := l.Append(entry(3)); !errors.Is(err, audit.ErrAllSinksFailed) {
			t.Errorf("got %v for an entry that was not made durable, want ErrAllSinksFailed", err)
		}
		sink.set(func(m *memory) { m.failSync = nil })
		appendEntry(t, l, 4)
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	})
	// The refused entry is in the file: more is written than was done, never less.
	report := verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, sink.text())
	wantSound(t, report)
	if report.Entries() != 5 || len(report.Chains) != 2 {
		t.Errorf("got %s", report)
	}
}

// TestTroubleIsLoggedOnce: an operator is told when a sink begins to need one.
func TestTroubleIsLoggedOnce(t *testing.T) {
	log, logged := logger()
	sink := &memory{name: "m"}
	synctest.Test(t, func(t *testing.T) {
		l := run(t, audit.Config{Key: newKey(t), Sinks: []audit.Sink{sink}, Logger: log})
		appendEntry(t, l, 1)
		sink.set(func(m *memory) { m.failSync, m.trouble = errFull, errors.New("a reason") })
		time.Sleep(5500 * time.Millisecond)
		status := l.Status()
		if !status.Failing["memory m"] || status.Lag < 4*time.Second {
			t.Errorf("got status %+v", status)
		}
		sink.set(func(m *memory) { m.failSync, m.trouble = nil, nil })
		time.Sleep(5 * time.Second)
		if status := l.Status(); status.Failing["memory m"] || status.Lag != 0 {
			t.Errorf("got status %+v after it recovered", status)
		}
	})
	for _, operation := range []string{"sync", "check"} {
		for _, message := range []string{"fails", "works again"} {
			if got := strings.Count(logged(), `"audit sink `+message+`" sink="memory m" operation=`+operation); got != 1 {
				t.Errorf("%s %s: logged %d times, want once:\n%s", operation, message, got, logged())
			}
		}
	}
}
