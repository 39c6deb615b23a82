package audit_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

func TestStream(t *testing.T) {
	key := newKey(t)
	var text bytes.Buffer
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{audit.NewStream("stdout", &text)}})
	for n := range 20 {
		appendEntry(t, l, n)
	}
	must(l.stop())
	wantSound(t, verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, text.String()))
	// As a container runtime keeps it.
	var logs strings.Builder
	for line := range strings.Lines(text.String()) {
		logs.WriteString("2026-01-02T03:04:05.678901234Z stdout F " + line)
	}
	wantSound(t, verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, logs.String()))
}

// TestStreamStuck: a reader that stops reading holds calls up once, for a second; the
// line that it has begun to read is not split when it reads on.
func TestStreamStuck(t *testing.T) {
	key := newKey(t)
	good := &memory{}
	var got bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe()
		one := make([]byte, 1)
		begun, goOn := make(chan struct{}), make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; ; i++ {
				if _, err := reader.Read(one); err != nil {
					return
				}
				got.Write(one)
				if i == 1000 {
					close(begun)
					<-goOn
				}
			}
		}()
		l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{audit.NewStream("stdout", writer), good}})
		stuck := 0
		for n := range 20 {
			before := time.Now()
			appendEntry(t, l, n)
			switch took := time.Since(before); {
			case took > time.Second:
				t.Errorf("entry %d took %v", n, took)
			case took > 0:
				stuck++
			}
		}
		<-begun
		if stuck != 1 {
			t.Errorf("%d entries had to wait, want one", stuck)
		}
		close(goOn)
		time.Sleep(time.Second)
		for n := range 5 {
			appendEntry(t, l, n)
		}
		must(l.stop())
		must(writer.Close())
		<-done
	})
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}}
	wantFinding(t, verify(t, cfg, got.String()), "missing before it")
	if report := verify(t, cfg, got.String()); len(report.Findings) != 1 {
		t.Errorf("got %s, want one gap", report)
	}
	wantSound(t, verify(t, cfg, got.String(), good.text()))
}

// shortWriter takes part of what it gets, when told to.
type shortWriter struct {
	text bytes.Buffer
	most int
}

func (w *shortWriter) Write(p []byte) (int, error) {
	if w.most < 0 {
		return w.text.Write(p)
	}
	n, _ := w.text.Write(p[:min(w.most, len(p))])
	return n, errFull
}

func TestStreamTorn(t *testing.T) {
	key := newKey(t)
	stream := &shortWriter{most: -1}
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{audit.NewStream("stdout", stream)}})
	appendEntry(t, l, 1)
	for _, most := range []int{0, 50, 0} {
		stream.most = most
		if err := l.Append(entry(2)); !errors.Is(err, audit.ErrAllSinksFailed) {
			t.Errorf("got %v, want ErrAllSinksFailed", err)
		}
	}
	stream.most = -1
	appendEntry(t, l, 3)
	must(l.stop())
	report := verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, stream.text.String())
	wantSound(t, report)
	if report.Entries() != 2 || len(report.Notes) != 1 {
		t.Errorf("got %s, want two entries and a part of a line", report)
	}
}
