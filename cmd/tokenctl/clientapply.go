package main

import (
	"context"
	"fmt"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

type clientApplyCommand struct {
	Filename string `required:"" short:"f" help:"Folder with a YAML file for each client." placeholder:"DIR" complete:"file"`
	Set      string `help:"Name of this set of clients; they are labelled apply-set=NAME." default:"default" placeholder:"NAME"`
	Prune    bool   `help:"Delete, softly, clients of this set that have no file any more; asks first."`
	Yes      bool   `help:"Do not ask."`
	DryRun   bool   `help:"Change nothing; show what would change."`
}

// Help implements kong.HelpProvider.
func (c *clientApplyCommand) Help() string {
	return `Everything is checked before anything is changed, and applying again changes nothing. Files name secrets by reference or bring a wrapping token; they never hold one. See docs/tokenctl.md.

Examples:

    tokenctl client apply -f clients --dry-run
    tokenctl client apply -f clients --set crm --prune --yes`
}

// Run implements the command.
func (c *clientApplyCommand) Run(ctx context.Context, s *session) error {
	files, err := s.readFolder(ctx, c.Filename)
	if err != nil {
		return err
	}
	if len(files) == 0 && !c.Prune {
		return usage("%s has no YAML file", c.Filename)
	}
	p := &plan{Set: c.Set, DryRun: c.DryRun, Clients: []*planned{}}
	return s.call(ctx, withoutEnd, func(ctx context.Context, b *services) error {
		if err := c.plan(ctx, s, b, p, files); err != nil {
			return err
		}
		if s.Output == outputText {
			p.show(s.stdout, s.colours())
		}
		err := c.do(ctx, s, b, p)
		if s.Output != outputText {
			if shown := s.write(s.stdout, p); err == nil {
				err = shown
			}
		}
		return err
	})
}

// plan finds out what is to be done, and what is wrong with any of it.
func (c *clientApplyCommand) plan(ctx context.Context, s *session, b *services, p *plan, files []*clientFile) error {
	line := newProgress(s)
	defer line.end()
	var first *problem
	for i, file := range files {
		line.transient(fmt.Sprintf("checking %d of %d: %s", i+1, len(files), file.client.GetName()))
		each, err := p.planFile(ctx, b, file)
		if err == nil {
			p.Clients = append(p.Clients, each)
			continue
		}
		found := *problemOf(ctx, err)
		if first == nil {
			first = &problem{Status: found.Status, Code: found.Code, Reason: found.Reason, Recovery: found.Recovery, RequestID: found.RequestID, Message: "nothing was changed", Hint: found.Hint, cause: err}
		}
		first.Message += "\n" + file.path + ": " + found.Message
		if found.Status == exitUnavailable || found.Status == exitUnknownCall || ctx.Err() != nil {
			break // which all others would say too
		}
	}
	if first != nil {
		return first
	}
	if c.Prune {
		return p.planPrune(ctx, b)
	}
	return nil
}

// do makes what was planned so, unless it is a dry run, or somebody says no.
func (c *clientApplyCommand) do(ctx context.Context, s *session, b *services, p *plan) error {
	doing := len(p.Clients) - p.count(actionNone)
	if c.DryRun || doing == 0 {
		return nil
	}
	if deletes := p.count(actionDelete); deletes > 0 && !c.Yes {
		sure, err := s.confirm(ctx, fmt.Sprintf("Delete %d clients? They can be undeleted.", deletes))
		if err != nil {
			return withHint(err, "nothing was changed; --yes does not ask")
		}
		if !sure {
			return &problem{Status: exitFailed, Message: "nothing was changed"}
		}
	}
	line := newProgress(s)
	defer line.end()
	done := 0
	for _, each := range p.Clients {
		if each.Action == actionNone {
			continue
		}
		line.transient(fmt.Sprintf("%d of %d: %s %s", done+1, doing, each.Action, each.Client))
		if err := each.do(ctx, b); err != nil {
			return withHint(err, "%d of %d were done, and %s was not; the same command goes on there", done, doing, each.Client)
		}
		each.Done = true
		done++
	}
	line.end()
	s.note("%d done", done)
	return nil
}

func (each *planned) do(ctx context.Context, b *services) error {
	var err error
	switch each.Action {
	case actionCreate:
		_, err = b.clients.CreateClient(ctx, &pb.CreateClientRequest{Client: each.file.client, Secret: each.file.secret, RequestId: newRequestID()})
	case actionUpdate:
		each.file.client.Etag = each.etag
		_, err = b.clients.UpdateClient(ctx, &pb.UpdateClientRequest{Client: each.file.client, UpdateMask: wholeClient(), Secret: each.file.secret})
	case actionDelete:
		_, err = b.clients.DeleteClient(ctx, &pb.DeleteClientRequest{Name: each.Client, Etag: each.etag})
	}
	return err
}
