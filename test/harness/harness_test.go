package harness_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRootIsFoundFromAPackage(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "test", "harness", "harness.go")); err != nil {
		t.Errorf("got %s, which is not the checkout: %v", root, err)
	}
	t.Chdir(t.TempDir())
	if root, err := harness.Root(); err == nil {
		t.Errorf("outside of the checkout: got %s, want an error", root)
	}
}

func TestFirstLine(t *testing.T) {
	tests := []struct {
		name   string
		line   *harness.FirstLine
		writes []string
		want   string
	}{
		{"at once", harness.NewFirstLine(`{"a"`), []string{"{\"a\":1}\n"}, `{"a":1}`},
		{"in pieces", harness.NewFirstLine(`{"a"`), []string{"warn", "ing\n{\"", "a\":1}", "\nmore\n"}, `{"a":1}`},
		{"the first of two", harness.NewFirstLine(`{"a"`), []string{"{\"a\":1}\n{\"a\":2}\n"}, `{"a":1}`},
		{"no whole line", harness.NewFirstLine(`{"a"`), []string{"{\"a\":1}"}, ""},
		{"another line", harness.NewFirstLine(`{"a"`), []string{"started\n"}, ""},
		{"a line with", harness.NewLineWith("ready on"), []string{"12:00 start\n12:01 ready", " on 7\n12:02 ready on 8\n"}, "12:01 ready on 7"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, text := range test.writes {
				if _, err := io.WriteString(test.line, text); err != nil {
					t.Fatal(err)
				}
			}
			got := ""
			select {
			case got = <-test.line.C():
			default:
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestKillEndsAProcessAndKeepsItsOutput(t *testing.T) {
	ready := harness.NewFirstLine("ready")
	process, err := harness.StartProcess(exec.Command("sh", "-c", "echo ready; exec sleep 600"), ready)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ready.C():
	case <-process.Done():
		t.Fatalf("it ended: %v", process.Err())
	}
	process.Kill()
	process.Kill() // again: no error, no hang
	if got := fmt.Sprint(process.Err()); !strings.Contains(got, "killed") {
		t.Errorf("got %q, want that it was killed", got)
	}
	if got := process.Output(); got != "ready" {
		t.Errorf("got output %q, want %q", got, "ready")
	}
}

func TestOutputKeepsTheEnd(t *testing.T) {
	var all bytes.Buffer
	process, err := harness.StartProcess(exec.Command("seq", "100000"), &all)
	if err != nil {
		t.Fatal(err)
	}
	<-process.Done()
	got := process.Output()
	if len(got) > 8<<10 || !strings.HasSuffix(got, "\n99999\n100000") {
		t.Errorf("got %d bytes that end in %q, want at most 8 KiB that end in 100000", len(got), got[max(0, len(got)-20):])
	}
	if !strings.HasPrefix(all.String(), "1\n2\n") {
		t.Error("the writer has not got everything")
	}
}

func TestMissingProgramIsAnError(t *testing.T) {
	if _, err := harness.StartProcess(exec.Command(filepath.Join(t.TempDir(), "none"))); err == nil {
		t.Error("got no error for a program that is not there")
	}
}

func TestLockIsHeldByOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "lock")
	unlock, err := harness.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		unlockSecond, err := harness.Lock(path)
		if err == nil {
			unlockSecond()
		}
		second <- err
	}()
	select {
	case <-second:
		t.Error("a second caller has the lock while the first holds it")
	case <-time.After(50 * time.Millisecond): // the kernel's lock cannot be asked whether somebody waits
	}
	unlock()
	if err := <-second; err != nil {
		t.Errorf("after the first gave it back: %v", err)
	}
}

func TestAuthorityVouchesForLoopbackOnly(t *testing.T) {
	authority, err := harness.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, err := authority.Loopback("server")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"localhost": true, net.IPv4(127, 0, 0, 1).String(): true, "::1": true, "example.com": false} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: authority.Pool(), DNSName: name})
		if (err == nil) != want {
			t.Errorf("%s: got %v, want valid: %t", name, err, want)
		}
	}
	for _, file := range []string{keyFile, authority.CAFile} {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, want 0600", filepath.Base(file), info.Mode().Perm())
		}
	}
}

// TestUnusedAddress: nobody is met there, nobody else is given it, and who is told it can
// listen there.
func TestUnusedAddress(t *testing.T) {
	address := harness.UnusedAddress(t)
	if conn, err := net.Dial("tcp", address); err == nil {
		_ = conn.Close()
		t.Errorf("somebody listens at %s", address)
	}
	for range 20000 { // three times as many as there are to choose from
		other, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = other.Close()
		if other.Addr().String() == address {
			t.Fatalf("%s was given to somebody else", address)
		}
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
}
