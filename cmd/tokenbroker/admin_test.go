package main

import (
	"bytes"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/telemetry"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// listenOn occupies an address until the test ends.
func listenOn(t *testing.T, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// setupAdmin is setup with another line for the admin listener.
func setupAdmin(t *testing.T, line string) (path string) {
	t.Helper()

	path = setup(t, harness.UnusedAddress(t), false)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(content), "admin: {\"address\": off}\n", line, 1)
	if changed == string(content) {
		t.Fatal("setup has another line for the admin listener")
	}
	return write(t, "config.yaml", changed)
}

func TestAdminAddressThatIsTaken(t *testing.T) {
	path := setupAdmin(t, "admin: {\"address\": '"+listenOn(t, "127.0.0.1:0").Addr().String()+"'}\n")
	command(t, "serve", "--config", path).want(t, 1, "admin.address", "address already in use")
}

// TestDefaultAdminAddressThatIsTaken serves the API and says what is missing.
func TestDefaultAdminAddressThatIsTaken(t *testing.T) {
	if taken, err := net.Listen("tcp", defaultAdminAddress); err == nil { // else somebody else has taken it
		defer taken.Close()
	}
	path := setupAdmin(t, "")
	stop := serve(t, path)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got := command(t, "health", "--config", path)
		if got.err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(got.err)
		}
	}
	got := stop()
	got.want(t, 0)
	if !strings.Contains(got.stderr, `"level":"ERROR","msg":"no metrics are served: the default of admin.address is not free"`) {
		t.Errorf("the log does not say that no metrics are served: %s", got.stderr)
	}
}

// TestAdminListenerThatFails is logged at once.
func TestAdminListenerThatFails(t *testing.T) {
	var log bytes.Buffer
	s := &service{log: newLogger(logConfig{Level: "info", Format: "json"}, &log), metrics: telemetry.New("")}
	listener := listenOn(t, "127.0.0.1:0")
	_ = listener.Close()
	s.serveAdmin(t.Context(), listener)
	if !strings.Contains(log.String(), `"level":"ERROR","msg":"the admin listener failed`) {
		t.Errorf("the log is %q", log.String())
	}
}

func TestWarnings(t *testing.T) {
	caller := "callers: [{name: a, identity: 'spiffe://example.org/a', role: caller}]\n"
	tests := []struct {
		name, file string
		want       []string
	}{
		{"none", sound + caller, nil},
		{"nobody", sound, []string{"callers is empty"}},
		{"admin off", sound + caller + "admin: {address: off}\n", nil},
		{"admin on loopback", sound + caller + "admin: {address: '[::1]:9090'}\n", nil},
		{"admin everywhere", sound + caller + "admin: {address: ':9090'}\n", []string{"admin.address :9090 is not on loopback"}},
		{"admin on a network", sound + "admin: {address: '10.0.0.1:9090'}\n", []string{"callers is empty", "admin.address 10.0.0.1:9090 is not on loopback"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, "file", "")
			got := command(t, "check-config", "--config", write(t, "config.yaml", strings.ReplaceAll(test.file+"audit: {insecure_off: true}\n", "FILE", path)))
			got.want(t, 0)
			if n := strings.Count(got.stdout, "warning: "); n != len(test.want) {
				t.Errorf("%d warnings, want %d: %s", n, len(test.want), got.stdout)
			}
			for _, want := range test.want {
				if !strings.Contains(got.stdout, "warning: "+want) {
					t.Errorf("it printed %q, want %q in it", got.stdout, want)
				}
			}
		})
	}
}
