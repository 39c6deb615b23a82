package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// update rewrites the golden files.
var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outcome is what came of one command line.
type outcome struct {
	stdout, stderr string
	err            error
	// status is the exit status that main makes of err.
	status int
}

// command runs a command line in an environment without our variables.
func command(t *testing.T, args ...string) outcome {
	t.Helper()
	return commandIn(t.Context(), nil, args...)
}

func commandIn(ctx context.Context, environ []string, args ...string) outcome {
	var stdout, stderr buffer
	err := run(ctx, args, environ, &stdout, &stderr)
	o := outcome{stdout: stdout.String(), stderr: stderr.String(), err: err}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		o.status = 2
	case err != nil:
		o.status = 1
	}
	return o
}

// want checks an exit status and what the error says.
func (o outcome) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	said := ""
	if o.err != nil {
		said = o.err.Error()
	}
	if o.status != status {
		t.Errorf("status %d, want %d: %s", o.status, status, said)
	}
	for _, text := range texts {
		if !strings.Contains(said, text) {
			t.Errorf("error %q, want %q in it", said, text)
		}
	}
}

// buffer is a bytes.Buffer that a server may write to while a test reads.
type buffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// write writes a file into a folder of the test's own and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
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
		t.Errorf("the output differs from %s; if that is meant, run `go test ./cmd/tokenbroker -update`:\n%s", path, text)
	}
}
