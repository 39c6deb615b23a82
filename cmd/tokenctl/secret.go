package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// secretCommand changes a secret step by step.
type secretCommand struct {
	Stage    stageCommand    `cmd:"" help:"Store a new secret as the pending version."`
	Verify   verifyCommand   `cmd:"" help:"Get tokens with the pending secret, and throw them away."`
	Promote  promoteCommand  `cmd:"" help:"Make the pending secret the current one."`
	Rollback rollbackCommand `cmd:"" help:"Make the previous secret the current one again."`
	Retire   retireCommand   `cmd:"" help:"Destroy the value of a version for good; never the current one."`
	Adopt    adoptCommand    `cmd:"" help:"Make pending what somebody wrote into the store by hand."`
	Versions versionsCommand `cmd:"" help:"List the versions, without their values."`
}

// requestFlags make a repetition harmless.
type requestFlags struct {
	RequestID string `help:"Repeat an earlier command with its id: it is done once at most. By default a new one, which is printed." placeholder:"ID"`
}

// use returns the id of this command and prints one that was made. A dry run needs none.
func (f *requestFlags) use(s *session, dry dryRun) string {
	if f.RequestID == "" && !dry.DryRun {
		f.RequestID = rand.Text()
		s.note("request id %s; a repetition with --request-id %[1]s is done once at most", f.RequestID)
	}
	return f.RequestID
}

// repeat says how to go on when it is not known what became of a call.
func (f *requestFlags) repeat(err error) error {
	if err == nil || f.RequestID == "" {
		return err
	}
	p := problemOf(context.Background(), err)
	if strings.HasPrefix(p.Reason, "RECORD_") || strings.HasPrefix(p.Reason, "SECRET_") {
		return p // nothing was done, and a repetition does nothing either
	}
	switch p.Status {
	case exitUnavailable, exitDeadline, exitInterrupted, exitFailed:
		return withHint(p, "it is not known what became of it; the same command with --request-id %s does it once at most", f.RequestID)
	}
	return p
}

// dryRun is the flag of what can be asked without doing it.
type dryRun struct {
	DryRun bool `help:"Change nothing; say what would happen, and who used the client lately."`
}

// show prints the plan of a dry run.
func (d dryRun) show(s *session, plan *pb.RotationPlan, answer proto.Message) error {
	if plan == nil {
		return &problem{Status: exitUnknownCall, Message: "the broker's answer has no plan: it is older than tokenctl, knows no dry run, and may have done it", Hint: "look with `tokenctl secret versions`"}
	}
	return s.show(answer, func(w io.Writer) { describePlan(w, time.Now(), plan) })
}

type stageCommand struct {
	clientArg
	sourceFlags
	requestFlags
	dryRun
}

// Help implements kong.HelpProvider.
func (c *stageCommand) Help() string {
	return `You are asked for the new secret twice, without echo, unless a flag names another source. Tokens go on with the current secret until the new one is promoted.

Examples:

    tokenctl secret stage acme-crm
    tokenctl secret stage acme-crm --file new-secret --trim-newline
    pass show acme/crm | tokenctl secret stage acme-crm --file - --trim-newline
    tokenctl secret stage acme-crm --private-key-file key.pem
    tokenctl secret stage acme-crm --wrapping-token-file token
    tokenctl secret stage acme-crm --reference secret/crm/oauth#client_secret`
}

// Run implements the command.
func (c *stageCommand) Run(ctx context.Context, s *session) error {
	input, err := c.read(ctx, s)
	if err != nil {
		return err
	}
	request := &pb.StageSecretRequest{Client: c.name(), Secret: input, RequestId: c.use(s, c.dryRun), ValidateOnly: c.DryRun}
	return c.repeat(s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		staged, err := b.rotations.StageSecret(ctx, request)
		if err != nil {
			return err
		}
		if c.DryRun {
			return c.show(s, staged.GetPlan(), staged)
		}
		version := staged.GetSecretVersion().GetNumber()
		return s.show(staged, func(w io.Writer) {
			fmt.Fprintf(w, "version %d of %s is pending\nnext: %s\n", version, c.name(), s.again(fmt.Sprintf("secret verify %s --secret-version %d", c.id(), version)))
		})
	}))
}

// versionFlag names the version that is expected.
type versionFlag struct {
	SecretVersion int64 `help:"Number of the version that is expected; it makes a repetition harmless. By default whichever it is." placeholder:"N"`
}

type verifyCommand struct {
	clientArg
	versionFlag
}

// Help implements kong.HelpProvider.
func (c *verifyCommand) Help() string {
	return `The current secret stays, whatever comes of it. Several tokens are got in a row if the client's rotation settings say so.

Example:

    tokenctl secret verify acme-crm --secret-version 4`
}

// Run implements the command.
func (c *verifyCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, verifyWithin, func(ctx context.Context, b *services) error {
		verified, err := b.rotations.VerifySecret(ctx, &pb.VerifySecretRequest{Client: c.name(), SecretVersion: c.SecretVersion})
		if err != nil {
			return err
		}
		version := verified.GetSecretVersion().GetNumber()
		return s.show(verified, func(w io.Writer) {
			fmt.Fprintf(w, "version %d of %s works\n", version, c.name())
			describeWarnings(w, verified.GetWarnings())
			fmt.Fprintf(w, "next: %s\n", s.again(fmt.Sprintf("secret promote %s --secret-version %d", c.id(), version)))
		})
	})
}

type promoteCommand struct {
	clientArg
	versionFlag
	AllowUnverified bool `help:"Promote although it was not verified, or verification failed."`
	DropTokens      bool `help:"Stop serving tokens of older secrets; by default they are served until they expire."`
	dryRun
}

// Help implements kong.HelpProvider.
func (c *promoteCommand) Help() string {
	return `Examples:

    tokenctl secret promote acme-crm --secret-version 4 --dry-run
    tokenctl secret promote acme-crm --secret-version 4`
}

// Run implements the command.
func (c *promoteCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		promoted, err := b.rotations.PromoteSecret(ctx, &pb.PromoteSecretRequest{
			Client: c.name(), SecretVersion: c.SecretVersion, AllowUnverified: c.AllowUnverified, DropTokens: c.DropTokens, ValidateOnly: c.DryRun,
		})
		if err != nil {
			return err
		}
		if c.DryRun {
			return c.show(s, promoted.GetPlan(), promoted)
		}
		return s.show(promoted, func(w io.Writer) {
			fmt.Fprintf(w, "version %d of %s is current", promoted.GetCurrent().GetNumber(), c.name())
			if promoted.GetPrevious() != nil {
				fmt.Fprintf(w, ", version %d is previous\nif it does not work: %s", promoted.GetPrevious().GetNumber(), s.again("secret rollback "+c.id()))
			}
			fmt.Fprintln(w)
		})
	})
}

type rollbackCommand struct {
	clientArg
	versionFlag
	dryRun
}

// Help implements kong.HelpProvider.
func (c *rollbackCommand) Help() string {
	return `Example:

    tokenctl secret rollback acme-crm --secret-version 3`
}

// Run implements the command.
func (c *rollbackCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		back, err := b.rotations.RollbackSecret(ctx, &pb.RollbackSecretRequest{Client: c.name(), SecretVersion: c.SecretVersion, ValidateOnly: c.DryRun})
		if err != nil {
			return err
		}
		if c.DryRun {
			return c.show(s, back.GetPlan(), back)
		}
		return s.show(back, func(w io.Writer) {
			fmt.Fprintf(w, "version %d of %s is current again\n", back.GetCurrent().GetNumber(), c.name())
		})
	})
}

type retireCommand struct {
	clientArg
	SecretVersion int64 `help:"Number of the version to destroy." placeholder:"N" required:""`
	dryRun
}

// Help implements kong.HelpProvider.
func (c *retireCommand) Help() string {
	return `There is no way back: the value is destroyed.

Example:

    tokenctl secret retire acme-crm --secret-version 3`
}

// Run implements the command.
func (c *retireCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		retired, err := b.rotations.RetireSecret(ctx, &pb.RetireSecretRequest{Client: c.name(), SecretVersion: c.SecretVersion, ValidateOnly: c.DryRun})
		if err != nil {
			return err
		}
		if c.DryRun {
			return c.show(s, retired.GetPlan(), retired)
		}
		return s.show(retired, func(w io.Writer) {
			fmt.Fprintf(w, "version %d of %s is destroyed\n", retired.GetSecretVersion(), c.name())
		})
	})
}

type adoptCommand struct {
	clientArg
	requestFlags
}

// Help implements kong.HelpProvider.
func (c *adoptCommand) Help() string {
	return `For the reason SECRET_CHANGED_OUTSIDE: such a value is never used before it is adopted, verified and promoted.

Example:

    tokenctl secret adopt acme-crm`
}

// Run implements the command.
func (c *adoptCommand) Run(ctx context.Context, s *session) error {
	request := &pb.AdoptSecretRequest{Client: c.name(), RequestId: c.use(s, dryRun{})}
	return c.repeat(s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		adopted, err := b.rotations.AdoptSecret(ctx, request)
		if err != nil && problemOf(ctx, err).Reason == "SECRET_UNCHANGED" {
			return withHint(err, "there is nothing to adopt: only what was written over the current version's value is")
		}
		if err != nil {
			return err
		}
		version := adopted.GetSecretVersion().GetNumber()
		return s.show(adopted, func(w io.Writer) {
			fmt.Fprintf(w, "what was written by hand is pending as version %d of %s\nnext: %s\n", version, c.name(),
				s.again(fmt.Sprintf("secret verify %s --secret-version %d", c.id(), version)))
		})
	}))
}

type versionsCommand struct {
	clientArg
}

// Help implements kong.HelpProvider.
func (c *versionsCommand) Help() string {
	return `Example:

    tokenctl secret versions acme-crm -o json`
}

// Run implements the command.
func (c *versionsCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		list, err := b.rotations.ListSecretVersions(ctx, &pb.ListSecretVersionsRequest{Client: c.name()})
		if err != nil {
			return err
		}
		return s.show(list, func(w io.Writer) { versionTable(w, time.Now(), list.GetSecretVersions()) })
	})
}
