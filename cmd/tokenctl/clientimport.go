package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

type clientImportCommand struct {
	Filename string `required:"" short:"f" help:"File with a client as JSON on each line; - is standard input." placeholder:"FILE" complete:"file"`
	Update   bool   `help:"Change clients that are there; else they are left as they are, which counts as a failure."`
	DryRun   bool   `help:"Check everything and store nothing."`
}

// Help implements kong.HelpProvider.
func (c *clientImportCommand) Help() string {
	return `Each line is what a file of "client apply" has, as JSON; its secret may also be {"client_secret": "..."} or {"private_key": "..."}: guard such a file, and destroy it afterwards. A line that fails does not stop the others. Repeating an import changes nothing.

Examples:

    tokenctl client import -f fleet.ndjson --dry-run
    tokenctl client import -f fleet.ndjson --update`
}

// Run implements the command.
func (c *clientImportCommand) Run(ctx context.Context, s *session) error {
	file, err := s.openSecretFile(c.Filename)
	if err != nil {
		return err
	}
	if c.Filename != standardInput {
		defer func() { _ = file.Close() }()
	}
	t := &tally{session: s, progress: newProgress(s), lines: make(chan int, mostUnanswered)}
	err = s.call(ctx, withoutEnd, func(ctx context.Context, b *services) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := b.clients.ImportClients(ctx)
		if err != nil {
			return err
		}
		sent := make(chan error, 1)
		go func() { sent <- c.send(ctx, stream, t, file) }() // ends with the file, or with the stream
		for {
			answer, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return <-sent
			}
			if err != nil {
				select {
				case wrong := <-sent: // says more, if it is why the stream ended
					if wrong != nil {
						return wrong
					}
				default:
				}
				return err
			}
			if err := t.take(answer); err != nil {
				return err
			}
		}
	})
	t.progress.end()
	if err != nil {
		return withHint(err, "%d lines were answered; the same command with --update goes on where it stopped", t.answered)
	}
	return t.verdict(c.DryRun)
}

// mostUnanswered is how many lines are read ahead of their answers.
const mostUnanswered = 1024

// importStream is what send writes to.
type importStream interface {
	Send(*pb.ImportClientsRequest) error
	CloseSend() error
}

// send sends a request for each line. A line that is malformed ends it, because what
// follows is then not to be trusted either.
func (c *clientImportCommand) send(ctx context.Context, stream importStream, t *tally, file io.Reader) error {
	defer func() { _ = stream.CloseSend() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, mostClientFileBytes)
	for number := 1; lines.Scan(); number++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		r := &clientReader{path: c.Filename, line: number, plainSecrets: true, scrubber: &scrubber{}}
		client := r.read(lines.Bytes())
		if err := r.err(); err != nil {
			return err
		}
		select {
		case t.lines <- number:
		case <-ctx.Done():
			return nil // Recv knows why
		}
		if stream.Send(&pb.ImportClientsRequest{Client: client.client, Secret: client.secret, Update: c.Update, ValidateOnly: c.DryRun}) != nil {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return usage("read %s: %w", shownPath(c.Filename), err)
	}
	return nil
}

// tally counts what became of an import.
type tally struct {
	session  *session
	progress progress
	// lines are the numbers of those that were sent and not answered.
	lines                               chan int
	answered                            int
	created, updated, unchanged, failed int
	first                               string // reason of the first failure
}

// take counts an answer, and prints it: all for programs, failures for people.
func (t *tally) take(answer *pb.ImportClientsResponse) error {
	line := <-t.lines
	t.answered++
	switch answer.GetOutcome() {
	case pb.ImportOutcome_IMPORT_OUTCOME_CREATED:
		t.created++
	case pb.ImportOutcome_IMPORT_OUTCOME_UPDATED:
		t.updated++
	case pb.ImportOutcome_IMPORT_OUTCOME_UNCHANGED:
		t.unchanged++
	default:
		t.failed++
		t.first = orElse(t.first, answer.GetReason())
	}
	if t.session.Output != outputText {
		return t.session.showLine(answer)
	}
	if answer.GetReason() != "" {
		t.progress.line(clean(fmt.Sprintf("line %d: %s: %s: %s", line, answer.GetName(), answer.GetReason(), joined(answer.GetProblems()))))
	}
	t.progress.transient(fmt.Sprintf("%d done, %d of them failed", t.answered, t.failed))
	return nil
}

func joined(problems []string) string {
	var b bytes.Buffer
	for i, p := range problems {
		b.WriteString(yes(i > 0, "; ") + p)
	}
	return b.String()
}

// verdict sums up; failures end the command with a status of their own.
func (t *tally) verdict(dry bool) error {
	if t.session.Output == outputText {
		_, err := fmt.Fprintf(t.session.stdout, "%s%d created, %d updated, %d unchanged, %d failed\n", yes(dry, "nothing was stored; this would be: "), t.created, t.updated, t.unchanged, t.failed)
		if err != nil {
			return err
		}
	}
	if t.failed > 0 {
		return &problem{Status: exitFailed, Reason: t.first, Message: fmt.Sprintf("%d of %d clients failed, the first one with %s", t.failed, t.answered, t.first)}
	}
	return nil
}
