package main

import (
	"context"
	"io"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// rotateCommand does all steps, and watches them.
type rotateCommand struct {
	clientArg
	Prompt bool `help:"Ask for the new client secret at the terminal." xor:"source" group:"The new secret:"`
	sourceFlags
	Compromised bool `help:"The present secret is in wrong hands: drop and revoke its tokens, destroy it as soon as the new one is current."`
	DropTokens  bool `help:"Stop serving tokens of older secrets after promotion."`
	AcceptGap   bool `help:"Go on although callers may be without a token for a moment."`
	requestFlags
	dryRun
	NoWait bool   `help:"Do not watch; end when the rotation has begun."`
	Until  string `help:"Watch until the new secret is current (promoted), or until the old one is gone (completed); with --compromised completed by default, else promoted." placeholder:"promoted|completed" enum:"promoted,completed," default:""`
}

// Help implements kong.HelpProvider.
func (c *rotateCommand) Help() string {
	return `Without a source the client's rotator has a new secret made, or the broker makes a key pair, as the client's rotation settings say.

The rotation goes on at the broker by itself. Ctrl-C and --timeout end the watching, not the rotation: "tokenctl rotations watch" takes it up again, "tokenctl rotations abort" ends the rotation.

Examples:

    tokenctl rotate acme-crm --dry-run
    tokenctl rotate acme-crm
    tokenctl rotate acme-crm --file new-secret --trim-newline
    tokenctl rotate acme-crm --compromised
    tokenctl rotate acme-crm --no-wait -o json`
}

// Run implements the command.
func (c *rotateCommand) Run(ctx context.Context, s *session) error {
	request := &pb.RotateSecretRequest{
		Client: c.name(), Compromised: c.Compromised, DropTokens: c.DropTokens, AcceptGap: c.AcceptGap, ValidateOnly: c.DryRun,
	}
	switch {
	case c.Prompt || c.given():
		input, err := c.read(ctx, s)
		if err != nil {
			return err
		}
		request.Secret = input
	case c.detailed():
		return usage("--trim-newline, --keep-trailing-space, --expire-time and --registration-access-token-file are about a new secret, but none is given: add --prompt or a file")
	}
	request.RequestId = c.use(s, c.dryRun)
	var begun *pb.RotateSecretResponse
	err := s.call(ctx, callsWithin, func(ctx context.Context, b *services) (err error) {
		begun, err = b.rotations.RotateSecret(ctx, request)
		return err
	})
	switch {
	case err != nil && problemOf(ctx, err).Reason == "ROTATOR_NOT_SET" && request.Secret == nil:
		return withHint(err, "give the new secret with --prompt, --file or --wrapping-token-file, or stage it first: `%s`", s.again("secret stage "+c.id()))
	case err != nil:
		return c.repeat(err)
	case c.DryRun:
		return c.show(s, begun.GetPlan(), begun)
	case c.NoWait:
		return s.show(begun, func(w io.Writer) {
			describeRotation(w, time.Now(), begun.GetRotation())
			_, _ = io.WriteString(w, "next: "+s.again("rotations watch "+c.id())+"\n")
		})
	}
	f := &follower{session: s, client: c.clientArg, rotation: begun.GetRotation().GetName(), until: isOver}
	if c.Until == "promoted" || c.Until == "" && !c.Compromised {
		f.until = isPromoted
	}
	return f.run(ctx)
}

// isPromoted reports whether the new secret is current, or never will be.
func isPromoted(s pb.RotationState) bool {
	return isOver(s) || s == pb.RotationState_ROTATION_STATE_PROMOTED || s == pb.RotationState_ROTATION_STATE_RETIRING
}
