package audit_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// daemon is a syslog daemon on a UNIX datagram socket, which keeps what it gets as
// rsyslog does.
type daemon struct {
	path string
	conn *net.UnixConn
	done chan struct{}
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// socketPath is short: t.TempDir may be longer than a socket's name can be.
func socketPath(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "audit")
	must(err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return filepath.Join(folder, "log")
}

func (d *daemon) listen(t *testing.T, reads bool) {
	t.Helper()
	_ = os.Remove(d.path)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: d.path, Net: "unixgram"})
	must(err)
	d.conn, d.done = conn, make(chan struct{})
	go func() {
		defer close(d.done)
		for buffer := make([]byte, 1<<17); reads; {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			message, ok := strings.CutPrefix(string(buffer[:n]), "<86>")
			if !ok {
				t.Errorf("got message %q, want facility authpriv", buffer[:n])
			}
			stamp, tagged := message[:len(time.Stamp)], message[len(time.Stamp):]
			d.mu.Lock()
			d.text.WriteString(stamp + " host" + tagged)
			d.mu.Unlock()
		}
	}()
}

func (d *daemon) stop() {
	_ = d.conn.Close()
	<-d.done
}

// await returns what was got once that contains text.
func (d *daemon) await(t *testing.T, text string) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		d.mu.Lock()
		got := d.text.String()
		d.mu.Unlock()
		if strings.Contains(got, text) {
			return got
		}
	}
	t.Fatalf("%s did not come", text)
	return ""
}

func dialSyslog(t *testing.T, network, address string) *audit.Syslog {
	t.Helper()
	sink, err := audit.DialSyslog(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

func TestSyslog(t *testing.T) {
	key := newKey(t)
	d := &daemon{path: socketPath(t)}
	d.listen(t, true)
	sink := dialSyslog(t, "unixgram", d.path)
	sink.SetPatience(10 * time.Second) // which its reader here needs on a loaded machine
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() { appendEntry(t, l, n) })
	}
	wg.Wait()
	d.await(t, `"seq":50,`) // what the kernel has taken goes with the daemon
	d.stop()
	d.listen(t, true) // a daemon that was restarted is connected to at once
	appendEntry(t, l, 51)
	must(l.stop())
	text := d.await(t, `"type":"end"`)
	d.stop()
	report := verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, text)
	wantSound(t, report)
	if report.Entries() != 51 {
		t.Errorf("got %s, want 51 entries", report)
	}
	lines := strings.SplitAfter(text, "\n")
	for _, change := range []string{strings.Replace(lines[3], "tokenbroker[", "tokenbroken[", 1), strings.Replace(lines[3], `"crm"`, `"hrm"`, 1), ""} {
		lines[3] = change
		if verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, strings.Join(lines, "")).Sound() {
			t.Errorf("%q is not found", change)
		}
	}
}

// TestSyslogStuck: a daemon that does not read holds calls up once.
func TestSyslogStuck(t *testing.T) {
	d := &daemon{path: socketPath(t)}
	d.listen(t, false)
	defer d.stop()
	file := &memory{}
	log, logged := logger()
	l := run(t, audit.Config{Key: newKey(t), Sinks: []audit.Sink{dialSyslog(t, "unixgram", d.path), file}, Logger: log})
	slow := 0
	for n := 0; slow == 0 && n < 100_000; n++ {
		before := time.Now()
		appendEntry(t, l, n)
		if time.Since(before) > 150*time.Millisecond {
			slow++
		}
	}
	before := time.Now()
	for n := range 100 {
		appendEntry(t, l, n)
	}
	if took := time.Since(before); slow == 0 || took > 150*time.Millisecond && !raceEnabled {
		t.Errorf("%d were slow, then 100 entries took %v", slow, took)
	}
	must(l.stop())
	if !strings.Contains(logged(), "audit sink fails") {
		t.Errorf("got log %s", logged())
	}
}

// TestSyslogOverTCP: a daemon behind a network is connected to again by Check, because
// that takes time.
func TestSyslogOverTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	conns := make(chan net.Conn)
	go func() {
		defer close(conns)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns <- conn
		}
	}()
	sink := dialSyslog(t, "tcp", listener.Addr().String())
	first := <-conns
	line := []byte(`{"chain":"abcdefghijklmnopqrstuvwxyz"}` + "\n")
	must(sink.Write(line))
	got := make([]byte, 1000)
	n, err := first.Read(got)
	if err != nil || !strings.HasSuffix(string(got[:n]), "]: "+string(line)) || !strings.HasPrefix(string(got[:n]), "<86>") {
		t.Errorf("got %q, %v", got[:n], err)
	}
	must(first.Close())
	for sink.Write(line) == nil { // the kernel takes some before it knows
	}
	if err := sink.Write(line); err == nil {
		t.Error("got no error without a connection")
	}
	go func() { must(sink.Check()) }()
	second := <-conns
	for sink.Write(line) != nil { // until Check has kept the connection
		time.Sleep(time.Millisecond)
	}
	must(listener.Close())
	for range conns {
	}
	must(second.Close())
	must(sink.Close())
	if _, err := audit.DialSyslog("tcp", listener.Addr().String()); err == nil {
		t.Error("got no error where nobody listens")
	}
}
