package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
)

// Process is a running server program. It is killed by Kill, and on Linux also when the test process dies, however it dies, so that
// no server outlives its test.
//
// It is safe for concurrent use.
type Process struct {
	command *exec.Cmd
	output  *tail
	done    chan struct{} // closed once the program has ended and its output is complete
}

// StartProcess starts the program. Its output, standard output and error together, goes to each of the writers and its end is kept
// for Output. Name and arguments are used as they are: no shell.
func StartProcess(command *exec.Cmd, writers ...io.Writer) (*Process, error) {
	p := &Process{command: command, output: &tail{}, done: make(chan struct{})}
	command.Stdout = io.MultiWriter(append([]io.Writer{p.output}, writers...)...)
	command.Stderr = command.Stdout
	dieWithParent(command)

	started := make(chan error)
	go func() {
		// Linux sends the parent-death signal when the *thread* that forked ends, so this goroutine keeps its thread until the
		// program is gone.
		runtime.LockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			_ = command.Wait()
		}
		close(p.done)
		runtime.UnlockOSThread()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", command.Path, err)
	}
	return p, nil
}

// Kill ends the program at once, as `kill -9` does, and waits until it is gone. A program that has ended already is no error.
func (p *Process) Kill() {
	_ = p.command.Process.Kill()
	<-p.done
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err names how the program ended. It may be called once Done is closed.
func (p *Process) Err() error { return errors.New(p.command.ProcessState.String()) }

// Output returns the last lines that the program printed.
func (p *Process) Output() string { return p.output.String() }

// keepOutput is how much of a program's output is kept for error messages.
const keepOutput = 8 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu    sync.Mutex // guards bytes
	bytes []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes = append(t.bytes, b...)
	if cut := len(t.bytes) - keepOutput; cut > 0 {
		t.bytes = append(t.bytes[:0], t.bytes[cut:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.bytes))
}

// FirstLine is a writer that hands out the first line that starts with a prefix, or has a text in it: the way a server tells that it
// is ready and where.
//
// It is safe for concurrent use.
type FirstLine struct {
	wanted func(line []byte) bool
	line   chan string

	mu    sync.Mutex // guards rest and found
	rest  []byte
	found bool
}

// NewFirstLine makes a writer that waits for a line with this prefix.
func NewFirstLine(prefix string) *FirstLine {
	return &FirstLine{wanted: func(line []byte) bool { return bytes.HasPrefix(line, []byte(prefix)) }, line: make(chan string, 1)}
}

// NewLineWith makes a writer that waits for a line with this text anywhere in it.
func NewLineWith(text string) *FirstLine {
	return &FirstLine{wanted: func(line []byte) bool { return bytes.Contains(line, []byte(text)) }, line: make(chan string, 1)}
}

// C delivers the line, once, without its line end.
func (f *FirstLine) C() <-chan string { return f.line }

// Write implements io.Writer.
func (f *FirstLine) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.found {
		return len(b), nil
	}
	f.rest = append(f.rest, b...)
	for {
		line, rest, whole := bytes.Cut(f.rest, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		f.rest = rest
		if f.wanted(line) {
			f.found, f.rest = true, nil
			f.line <- string(line)
			return len(b), nil
		}
	}
}
