package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// startsWithin bounds the start of a process; a loaded machine needs seconds.
const startsWithin = time.Minute

// logBuffer holds all that a process printed.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// process is a running binary. It is killed when the test ends.
type process struct {
	*harness.Process
	command *exec.Cmd
	log     *logBuffer // standard output and standard error
}

// start starts the binary in dir, which is also its home and the place of its
// temporary files.
func start(t testing.TB, path, dir string, environ []string, args ...string) *process {
	t.Helper()
	command := exec.Command(path, args...)
	command.Dir, command.Env = dir, append(environment(dir), environ...)
	p := &process{command: command, log: &logBuffer{}}
	running, err := harness.StartProcess(command, p.log)
	if err != nil {
		t.Fatal(err)
	}
	p.Process = running
	t.Cleanup(func() {
		p.Kill()
		text := p.log.String()
		if strings.Contains(text, "DATA RACE") || strings.Contains(text, "\npanic: ") || strings.Contains(text, "\nfatal error: ") || strings.Contains(text, "handler panicked") {
			t.Errorf("the process raced or panicked:\n%s", text)
		}
		if t.Failed() {
			t.Logf("the end of the log of %v:\n%s", args, last(text, 3<<10))
		}
	})
	return p
}

func last(text string, n int) string {
	if len(text) > n {
		return "… " + text[len(text)-n:]
	}
	return text
}

// pid is the process's number.
func (p *process) pid() int { return p.command.Process.Pid }

// end sends a signal and waits for the process to end by itself.
func (p *process) end(signal os.Signal, most time.Duration) error {
	if err := p.command.Process.Signal(signal); err != nil {
		return fmt.Errorf("send %v: %w", signal, err)
	}
	select {
	case <-p.Done():
	case <-time.After(most):
		return fmt.Errorf("still runs %v after %v", most, signal)
	}
	if status := p.command.ProcessState.ExitCode(); status != 0 {
		return fmt.Errorf("exit status %d after %v", status, signal)
	}
	return nil
}

// stop ends the process as an orchestrator does, and demands that it goes in peace.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.end(syscall.SIGTERM, 15*time.Second); err != nil {
		t.Error(err)
	}
}

// serving waits for the log line that says where the server listens.
func (p *process) serving() (address string, err error) {
	err = within(startsWithin, func() error {
		for line := range strings.Lines(p.log.String()) {
			var entry struct{ Msg, Address string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving" {
				address = entry.Address
				return nil
			}
		}
		select {
		case <-p.Done():
			return nil
		default:
			return errors.New("no log line \"serving\"")
		}
	})
	if address == "" && err == nil {
		err = fmt.Errorf("it ended: %v", p.Err())
	}
	if err != nil {
		err = fmt.Errorf("%w; its output:\n%s", err, last(p.log.String(), 4<<10))
	}
	return address, err
}
