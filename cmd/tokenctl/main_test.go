package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// update rewrites the golden files and the generated tables of docs/tokenctl.md.
var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// operator is a person with a home folder of their own, at a machine without our
// variables.
type operator struct {
	t       *testing.T
	home    string
	environ []string
	// stdin is what they type or pipe; an empty file by default.
	stdin *os.File
	// output and errors may take the place of the buffers for what is printed.
	output, errors *buffer
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	home := t.TempDir()
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close() })
	return &operator{t: t, home: home, environ: []string{"HOME=" + home, "PATH=/bin"}, stdin: stdin}
}

// outcome is what came of one command line.
type outcome struct {
	t              *testing.T
	stdout, stderr string
	status         int
}

// run runs a command line.
func (o *operator) run(args ...string) outcome {
	o.t.Helper()
	return o.runIn(o.t.Context(), args...)
}

func (o *operator) runIn(ctx context.Context, args ...string) outcome {
	stdout, stderr := &buffer{}, &buffer{}
	if o.output != nil {
		stdout = o.output
	}
	if o.errors != nil {
		stderr = o.errors
	}
	status := run(ctx, args, o.environ, o.stdin, stdout, stderr)
	return outcome{o.t, stdout.String(), stderr.String(), status}
}

// pipe makes text what comes from standard input.
func (o *operator) pipe(text string) *operator {
	o.t.Helper()
	file, err := os.Open(o.write("stdin", text))
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = file.Close() })
	piped := *o
	piped.stdin = file
	return &piped
}

// write writes a private file and returns its path.
func (o *operator) write(name, content string) string {
	o.t.Helper()
	path := filepath.Join(o.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		o.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		o.t.Fatal(err)
	}
	return path
}

// want checks an exit status, and that each of texts was printed on either output.
func (o outcome) want(status int, texts ...string) outcome {
	o.t.Helper()
	if o.status != status {
		o.t.Errorf("status %d, want %d\n%s%s", o.status, status, o.stdout, o.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(o.stdout+o.stderr, text) {
			o.t.Errorf("%q is not in the output:\n%s%s", text, o.stdout, o.stderr)
		}
	}
	return o
}

// without checks that none of texts was printed.
func (o outcome) without(texts ...string) outcome {
	o.t.Helper()
	for _, text := range texts {
		if strings.Contains(o.stdout+o.stderr, text) {
			o.t.Errorf("%q is in the output:\n%s%s", text, o.stdout, o.stderr)
		}
	}
	return o
}

// buffer is a bytes.Buffer that a command may write to while a test reads.
type buffer struct {
	mu  sync.Mutex // guards the rest
	buf bytes.Buffer
	// wrote, if set, is called with all that was written, after each write.
	wrote func(all string)
}

// Write implements io.Writer.
func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.buf.Write(p)
	if b.wrote != nil {
		b.wrote(b.buf.String())
	}
	return n, err
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// golden compares text with a file of testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("the output differs from %s; if that is meant, run `go test ./cmd/tokenctl -update`:\n%s", path, text)
	}
}
