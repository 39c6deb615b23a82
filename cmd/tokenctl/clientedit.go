package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

type clientEditCommand struct{ clientArg }

// Help implements kong.HelpProvider.
func (c *clientEditCommand) Help() string {
	return `Opens the client's settings as YAML in $VISUAL, else $EDITOR, else vi. What you take out is filled by the provider's profile again, or is no more. If somebody else changes the client meanwhile, nothing is changed. It has no secret and takes none but by reference.

Example:

    tokenctl client edit acme-crm`
}

// Run implements the command.
func (c *clientEditCommand) Run(ctx context.Context, s *session) error {
	var present *pb.Client
	err := s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		found, err := b.clients.GetClient(ctx, &pb.GetClientRequest{Name: c.name()})
		present = found.GetClient()
		return err
	})
	if err != nil {
		return err
	}
	edited, path, err := c.edit(ctx, s, present)
	if err != nil || edited == nil {
		return err
	}
	if edited.client.GetName() != present.GetName() {
		return kept(usage("the name cannot be changed; create another client"), path)
	}
	changes := compare(present, edited.client)
	if len(changes) == 0 && edited.secret == nil {
		_ = os.Remove(path)
		s.note("nothing was changed")
		return nil
	}
	edited.client.Etag = present.GetEtag()
	err = s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		updated, err := b.clients.UpdateClient(ctx, &pb.UpdateClientRequest{Client: edited.client, UpdateMask: wholeClient(), Secret: edited.secret})
		if err != nil {
			return err
		}
		return s.show(updated, func(w io.Writer) {
			fmt.Fprintf(w, "%s is changed\n", c.name())
			writeChanges(w, compare(present, updated.GetClient()), s.colours())
		})
	})
	if err == nil {
		_ = os.Remove(path)
	}
	return kept(err, path)
}

// wholeClient is the mask of all settings.
func wholeClient() *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: []string{"*"}} }

// kept says where the work of a person is that came to nothing.
func kept(err error, path string) error { return withHint(err, "your text is kept in %s", path) }

// edit has a person edit the settings until they can be read, or until nothing was
// changed, which is nil. The file at path is the caller's to remove.
func (c *clientEditCommand) edit(ctx context.Context, s *session, present *pb.Client) (*clientFile, string, error) {
	settings, err := settingsYAML(present)
	if err != nil {
		return nil, "", err
	}
	file, err := os.CreateTemp("", "tokenctl-*.yaml")
	if err != nil {
		return nil, "", err
	}
	path := file.Name()
	text := append([]byte("# "+clean(present.GetName())+": lines that begin with # mean nothing; save nothing new to change nothing.\n"), settings...)
	_, err = file.Write(text)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, path, err
	}
	before := text
	for {
		if err := s.openEditor(ctx, path); err != nil {
			return nil, path, kept(err, path)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, path, err
		}
		if bytes.Equal(content, text) {
			_ = os.Remove(path)
			s.note("nothing was changed")
			return nil, path, nil
		}
		r := &clientReader{path: path, line: 1, scrubber: &s.scrubber}
		edited := r.read(content)
		if err = r.err(); err == nil {
			return edited, path, nil
		}
		if bytes.Equal(content, before) || !s.canAsk() { // who changed nothing gives up
			return nil, path, kept(err, path)
		}
		before = content
		s.report(problemOf(ctx, err))
		if again, asked := s.confirm(ctx, "Edit it again?"); asked != nil || !again {
			return nil, path, kept(err, path)
		}
	}
}

// openEditor runs a person's editor, in the foreground.
func (s *session) openEditor(ctx context.Context, path string) error {
	words := strings.Fields(orElse(s.getenv("VISUAL"), orElse(s.getenv("EDITOR"), "vi")))
	if len(words) == 0 {
		words = []string{"vi"}
	}
	editor := exec.CommandContext(ctx, words[0], append(words[1:], path)...)
	editor.Stdin, editor.Stdout, editor.Stderr = s.stdin, s.stdout, s.stderr
	editor.WaitDelay = time.Second
	if err := editor.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &problem{Status: exitFailed, Message: fmt.Sprintf("the editor %s failed: %v", words[0], err), cause: err}
	}
	return nil
}
