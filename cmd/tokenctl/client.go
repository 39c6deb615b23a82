package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// clientCommand registers clients and keeps their settings.
type clientCommand struct {
	Create   clientCreateCommand   `cmd:"" help:"Register a client from a file."`
	Get      clientGetCommand      `cmd:"" help:"Show a client."`
	List     clientListCommand     `cmd:"" help:"List clients."`
	Edit     clientEditCommand     `cmd:"" help:"Change a client's settings in your editor."`
	Delete   clientDeleteCommand   `cmd:"" help:"Delete a client softly: no more tokens, everything kept."`
	Undelete clientUndeleteCommand `cmd:"" help:"Bring a deleted client back."`
	Disable  clientDisableCommand  `cmd:"" help:"Stop handing out tokens of a client."`
	Enable   clientEnableCommand   `cmd:"" help:"Undo disable."`
	Apply    clientApplyCommand    `cmd:"" help:"Make clients as the files of a folder say."`
	Import   clientImportCommand   `cmd:"" help:"Create or update many clients from a file of JSON lines."`
}

type clientCreateCommand struct {
	Filename string `required:"" short:"f" help:"Client as YAML; - is standard input. See docs/tokenctl.md." placeholder:"FILE" complete:"file"`
	Prompt   bool   `help:"Ask for its secret at the terminal." xor:"source" group:"The new secret:"`
	sourceFlags
	requestFlags
	DryRun bool `help:"Check everything and store nothing."`
}

// Help implements kong.HelpProvider.
func (c *clientCreateCommand) Help() string {
	return `What the file leaves out is filled by the provider's profile and the issuer's metadata. Without a secret the client gives no token until one was staged and promoted.

Examples:

    tokenctl client create -f acme-crm.yaml --prompt
    tokenctl client create -f acme-crm.yaml --reference secret/crm/oauth#client_secret --dry-run`
}

// Run implements the command.
func (c *clientCreateCommand) Run(ctx context.Context, s *session) error {
	file, err := s.readClientFile(ctx, c.Filename)
	if err != nil {
		return err
	}
	request := &pb.CreateClientRequest{Client: file.client, Secret: file.secret, ValidateOnly: c.DryRun}
	switch {
	case c.Prompt || c.given():
		if request.Secret != nil {
			return usage("%s says where the secret is already", shownPath(c.Filename))
		}
		if request.Secret, err = c.read(ctx, s); err != nil {
			return err
		}
	case c.detailed():
		return usage("a flag says how the secret is, and none says where: add --prompt or one of the others")
	}
	request.RequestId = c.use(s, dryRun{DryRun: c.DryRun})
	return c.repeat(s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		created, err := b.clients.CreateClient(ctx, request)
		if err != nil {
			return err
		}
		if err := believe(c.DryRun, created.GetClient()); err != nil {
			return err
		}
		return s.show(created, func(w io.Writer) {
			if c.DryRun {
				fmt.Fprintln(w, "nothing was stored; this would be:")
			}
			describeClient(w, time.Now(), created.GetClient())
		})
	}))
}

// believe refuses the answer to a dry run that shows that it was none: what was only
// validated has no uid.
func believe(dry bool, created *pb.Client) error {
	if dry && created.GetUid() != "" {
		return &problem{Status: exitUnknownCall, Message: "the broker is older than tokenctl, knows no dry run of this, and has created " + created.GetName(), Hint: "look with `tokenctl client get`"}
	}
	return nil
}

type clientGetCommand struct{ clientArg }

// Help implements kong.HelpProvider.
func (c *clientGetCommand) Help() string {
	return `Example:

    tokenctl client get acme-crm`
}

// Run implements the command.
func (c *clientGetCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		found, err := b.clients.GetClient(ctx, &pb.GetClientRequest{Name: c.name()})
		if err != nil {
			return err
		}
		return s.show(found, func(w io.Writer) { describeClient(w, time.Now(), found.GetClient()) })
	})
}

func describeClient(w io.Writer, now time.Time, c *pb.Client) {
	var l listing
	l.addIf("client", c.GetName())
	l.addIf("state", word(c.GetState().String(), "CLIENT_STATE_"))
	for _, f := range flatten(c) {
		l.addIf(f.path, f.value)
	}
	l.addIf("created", when(now, c.GetCreateTime()))
	l.addIf("changed", when(now, c.GetUpdateTime()))
	l.addIf("deleted", when(now, c.GetDeleteTime()))
	l.write(w, "")
	if len(c.GetSecretVersions()) > 0 {
		fmt.Fprintln(w)
		versionTable(w, now, c.GetSecretVersions())
	}
}

type clientListCommand struct {
	Filter  string `help:"Conditions joined by AND: labels.team=crm, state=deleted, prefix=acme-, secret_expires_before=720h." placeholder:"FILTER"`
	Deleted bool   `help:"List deleted clients only."`
}

// Help implements kong.HelpProvider.
func (c *clientListCommand) Help() string {
	return `Examples:

    tokenctl client list
    tokenctl client list --filter labels.team=crm`
}

// Run implements the command.
func (c *clientListCommand) Run(ctx context.Context, s *session) error {
	filter := c.Filter
	if c.Deleted {
		filter = strings.TrimPrefix(filter+" AND state=deleted", " AND ")
	}
	return s.call(ctx, withoutEnd, func(ctx context.Context, b *services) error {
		found, err := listClients(ctx, b, filter)
		if err != nil {
			return err
		}
		return s.show(found, func(w io.Writer) {
			var rows [][]string
			for _, each := range found.GetClients() {
				var labels []string
				for _, f := range flatten(&pb.Client{Labels: each.GetLabels()}) {
					labels = append(labels, strings.TrimPrefix(f.path, "labels.")+"="+f.value)
				}
				rows = append(rows, []string{
					strings.TrimPrefix(each.GetName(), clientPrefix), word(each.GetState().String(), "CLIENT_STATE_"), each.GetProvider(),
					enumWord(each.GetGrantType().Descriptor(), each.GetGrantType().Number()), each.GetTokenEndpoint(), strings.Join(labels, " "),
				})
			}
			table(w, []string{"CLIENT", "STATE", "PROVIDER", "GRANT", "TOKEN ENDPOINT", "LABELS"}, rows)
			for _, each := range found.GetUnreadable() {
				fmt.Fprintln(w, clean("warning: "+each.GetName()+" cannot be read: "+each.GetReason()))
			}
		})
	})
}

// listClients returns all pages as one.
func listClients(ctx context.Context, b *services, filter string) (*pb.ListClientsResponse, error) {
	all := &pb.ListClientsResponse{}
	for request := (&pb.ListClientsRequest{Filter: filter, PageSize: 1000}); ; {
		page, err := b.clients.ListClients(ctx, request)
		if err != nil {
			return nil, err
		}
		all.Clients, all.Unreadable = append(all.Clients, page.GetClients()...), append(all.Unreadable, page.GetUnreadable()...)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return all, nil
		}
	}
}

type clientDeleteCommand struct {
	clientArg
	Etag string `help:"Delete only if this is its present etag." placeholder:"ETAG"`
}

// Help implements kong.HelpProvider.
func (c *clientDeleteCommand) Help() string {
	return `Its name stays taken and undelete brings it back, until it is purged.

Example:

    tokenctl client delete acme-crm`
}

// Run implements the command.
func (c *clientDeleteCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		done, err := b.clients.DeleteClient(ctx, &pb.DeleteClientRequest{Name: c.name(), Etag: c.Etag})
		if err != nil {
			return err
		}
		return s.show(done, func(w io.Writer) {
			fmt.Fprintf(w, "%s is deleted\nto bring it back: %s\n", c.name(), s.again("client undelete "+c.id()))
		})
	})
}

type clientUndeleteCommand struct{ clientArg }

// Help implements kong.HelpProvider.
func (c *clientUndeleteCommand) Help() string {
	return `Example:

    tokenctl client undelete acme-crm`
}

// Run implements the command.
func (c *clientUndeleteCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		done, err := b.clients.UndeleteClient(ctx, &pb.UndeleteClientRequest{Name: c.name()})
		if err != nil {
			return err
		}
		return s.show(done, func(w io.Writer) { fmt.Fprintf(w, "%s is back\n", c.name()) })
	})
}

type clientDisableCommand struct{ clientArg }

// Help implements kong.HelpProvider.
func (c *clientDisableCommand) Help() string {
	return `Tokens in memory are not handed out either. Those that are with callers live on: tokenctl rotate --compromised ends them too.

Example:

    tokenctl client disable acme-crm`
}

// Run implements the command.
func (c *clientDisableCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		done, err := b.clients.DisableClient(ctx, &pb.DisableClientRequest{Name: c.name()})
		if err != nil {
			return err
		}
		return s.show(done, func(w io.Writer) { fmt.Fprintf(w, "%s gives no tokens\n", c.name()) })
	})
}

type clientEnableCommand struct{ clientArg }

// Help implements kong.HelpProvider.
func (c *clientEnableCommand) Help() string {
	return `Example:

    tokenctl client enable acme-crm`
}

// Run implements the command.
func (c *clientEnableCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		done, err := b.clients.EnableClient(ctx, &pb.EnableClientRequest{Name: c.name()})
		if err != nil {
			return err
		}
		return s.show(done, func(w io.Writer) { fmt.Fprintf(w, "%s gives tokens\n", c.name()) })
	})
}

// newRequestID makes a repetition of one call harmless within one command.
func newRequestID() string { return rand.Text() }
