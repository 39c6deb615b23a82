// Package e2e_test runs Tokenbroker as its users do: the built binary as a process
// of its own, mutual TLS over real sockets, a real Vault under the policy that the
// binary prints, and real authorization servers. What it knows of the inside are
// the store's paths, because an operator may look there too.
//
// Without real servers its tests skip or fail as package harness decides; under
// -short they all skip but those of the documentation.
package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
	"github.com/tokenbroker/tokenbroker/test/realvault"
)

// Names of the roles' identities in every configuration of these tests.
const (
	callerIdentity   = "spiffe://example.org/crm"
	operatorIdentity = "spiffe://example.org/operator"
)

// built is the one binary that all tests of a run share.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// testsAtOnce is how many of these tests run at a time: most of them wait, for leases to end
// and for tokens to expire.
const testsAtOnce = 5

func TestMain(m *testing.M) {
	flag.Parse()
	if most := flag.Lookup("test.parallel"); most.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) { // nobody said otherwise
		_ = flag.Set(most.Name, strconv.Itoa(max(testsAtOnce, runtime.GOMAXPROCS(0))))
	}
	code := realvault.Closing(m).Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	tellRotationLoad(os.Stdout)
	tellRolling(os.Stdout)
	if !faults.tell(os.Stdout) && code == 0 {
		code = 1
	}
	os.Exit(code)
}

// needServers skips where no process is to be started.
func needServers(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no processes are started")
	}
	harness.SkipIfOff(t)
}

// program returns the path of the server's binary.
func program(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "tokenbroker-e2e-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "tokenbroker")
		args := []string{"build", "-o", built.path}
		if raceDetector {
			args = append(args, "-race")
		}
		built.err = goCommand(append(args, "./cmd/tokenbroker")...)
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// goCommand runs the go command at the checkout's root.
func goCommand(args ...string) error {
	root, err := harness.Root()
	if err != nil {
		return err
	}
	command := exec.Command("go", args...)
	command.Dir = root
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, output)
	}
	return nil
}

// environment is what the processes of these tests get: nothing of the
// developer's but PATH, and folders of their own. The race detector would else
// sleep for a second at each end.
func environment(dir string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "GORACE=atexit_sleep_ms=0"}
}

// output runs the binary to its end and returns what it printed, standard output
// apart from standard error, and its exit status.
func output(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program(t), args...)
	command.Env = environment(t.TempDir())
	var out, err logBuffer
	command.Stdout, command.Stderr = &out, &err
	runErr := command.Run()
	if command.ProcessState == nil {
		t.Fatalf("tokenbroker %v: %v", args, runErr)
	}
	return out.String(), err.String(), command.ProcessState.ExitCode()
}

// eventually polls until check returns nil: what processes do takes its time.
func eventually(t *testing.T, most time.Duration, what string, check func() error) {
	t.Helper()
	if err := within(most, check); err != nil {
		t.Fatalf("%s: not within %v: %v", what, most, err)
	}
}

// within returns the last error of check when it did not become nil in time.
func within(most time.Duration, check func() error) error {
	var err error
	for end := time.Now().Add(most); ; time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil || time.Now().After(end) {
			return err
		}
	}
}
