package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// canAsk reports whether there is a person to be asked.
func (s *session) canAsk() bool { return term.IsTerminal(int(s.stdin.Fd())) }

// confirm asks a question at the terminal; anything but y and yes is no.
func (s *session) confirm(ctx context.Context, question string) (bool, error) {
	if !s.canAsk() {
		return false, usage("standard input is no terminal, so nobody can be asked (%s)", clean(question))
	}
	fmt.Fprintf(s.stderr, "%s [y/N] ", clean(question))
	answer, err := await(ctx, func() (string, error) { return bufio.NewReader(s.stdin).ReadString('\n') })
	if err != nil {
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

// colours reports whether standard output may have colours: at a terminal, for people,
// and unless they want none (no-color.org).
func (s *session) colours() bool {
	file, ok := s.stdout.(*os.File)
	return ok && s.Output == outputText && s.getenv("NO_COLOR") == "" && term.IsTerminal(int(file.Fd()))
}
