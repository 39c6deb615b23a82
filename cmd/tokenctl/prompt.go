package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// mostSecretBytes is what the broker takes at most.
const mostSecretBytes = 64 << 10

// standardInput is the name of a file that means standard input.
const standardInput = "-"

// scrubber takes secrets out of text: a broker that fails may send back what it got.
type scrubber struct {
	known []secret.Value
}

// note makes a value known. Very short ones would tear ordinary words apart.
func (s *scrubber) note(v secret.Value) {
	if v.Len() >= 4 {
		s.known = append(s.known, v)
	}
}

func (s *scrubber) scrub(text string) string {
	for _, v := range s.known {
		text = strings.ReplaceAll(text, v.RevealString(), secret.Placeholder)
	}
	return text
}

// await returns what work returns, or the context's error when that ends first. A read
// from a terminal or a pipe cannot be called off: work then ends with the process.
func await[T any](ctx context.Context, work func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := work()
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// ask reads one line from the terminal without echo.
func (s *session) ask(ctx context.Context, what string) (secret.Value, error) {
	terminal := int(s.stdin.Fd())
	if !term.IsTerminal(terminal) {
		return secret.Value{}, usage("standard input is no terminal, so nobody can be asked (%s): name a file, or %q for standard input", what, standardInput)
	}
	before, err := term.GetState(terminal)
	if err != nil {
		return secret.Value{}, err
	}
	fmt.Fprintf(s.stderr, "%s: ", what)
	line, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(terminal) })
	fmt.Fprintln(s.stderr)
	if ctx.Err() != nil {
		_ = term.Restore(terminal, before) // else the shell would have no echo
	}
	if err != nil {
		return secret.Value{}, err
	}
	value := secret.New(line)
	clear(line)
	s.scrubber.note(value)
	return value, nil
}

// askTwice asks for what cannot be seen while it is typed.
func (s *session) askTwice(ctx context.Context, what string) (secret.Value, error) {
	first, err := s.ask(ctx, what)
	if err != nil {
		return secret.Value{}, err
	}
	if first.IsZero() {
		return secret.Value{}, usage("nothing was entered")
	}
	second, err := s.ask(ctx, what+" once more")
	if err != nil {
		return secret.Value{}, err
	}
	if !first.Equal(second) {
		return secret.Value{}, usage("the two are not the same; nothing was sent")
	}
	return first, nil
}

// readSecretFile reads a file, or standard input.
func (s *session) readSecretFile(ctx context.Context, path string) (secret.Value, error) {
	file, err := s.openSecretFile(path)
	if err != nil {
		return secret.Value{}, err
	}
	raw, err := await(ctx, func() ([]byte, error) {
		if path != standardInput {
			defer func() { _ = file.Close() }()
		}
		return io.ReadAll(io.LimitReader(file, mostSecretBytes+1)) // one more than allowed, so that it shows
	})
	if ctx.Err() != nil {
		return secret.Value{}, ctx.Err()
	}
	if err != nil {
		return secret.Value{}, usage("read %s: %w", shownPath(path), err)
	}
	value := secret.New(raw)
	clear(raw)
	if value.Len() > mostSecretBytes {
		return secret.Value{}, usage("%s holds more than %d bytes, which is no secret", shownPath(path), mostSecretBytes)
	}
	s.scrubber.note(value)
	s.scrubber.note(secret.NewString(strings.TrimSpace(value.RevealString())))
	return value, nil
}

// openSecretFile opens a file, or takes standard input, and looks at what it is.
func (s *session) openSecretFile(path string) (*os.File, error) {
	file := s.stdin
	if path == standardInput {
		if term.IsTerminal(int(file.Fd())) {
			return nil, usage("standard input is a terminal, which would show what you type: leave the flag out to be asked without echo")
		}
	} else {
		opened, err := os.Open(path)
		if err != nil {
			return nil, usage("%w", err)
		}
		file = opened
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		_ = file.Close()
		return nil, usage("%s is a folder", shownPath(path))
	}
	if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0 {
		s.note("%s can be read by everybody on this machine (mode %s)", shownPath(path), octal(info.Mode()))
	}
	return file, nil
}

func octal(mode fs.FileMode) string { return fmt.Sprintf("%04o", mode.Perm()) }

func shownPath(path string) string {
	if path == standardInput {
		return "standard input"
	}
	return path
}

// note tells people what is worth knowing; programs have it in the answer.
func (s *session) note(format string, args ...any) {
	if s.Output == outputText {
		fmt.Fprintln(s.stderr, clean("note: "+fmt.Sprintf(format, args...)))
	}
}
