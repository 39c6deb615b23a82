package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// rotationsCommand is about rotations that have begun.
type rotationsCommand struct {
	List  rotationsListCommand  `cmd:"" help:"List the last rotation of each client."`
	Get   rotationsGetCommand   `cmd:"" help:"Show a client's last rotation with its steps."`
	Watch rotationsWatchCommand `cmd:"" help:"Follow a client's rotation until it is over."`
	Abort rotationsAbortCommand `cmd:"" help:"End a client's rotation; the current secret stays."`
}

type rotationsListCommand struct {
	State []string `help:"Only in these states; may be repeated." placeholder:"STATE" enum:"creating,staged,verifying,verified,promoted,retiring,completed,aborting,aborted,rolled-back,failed,needs-operator"`
	Stuck bool     `help:"Only those that do not go on although they should."`
	Limit int      `help:"At most this many; 0 is all." default:"0" placeholder:"N"`
}

// Help implements kong.HelpProvider.
func (c *rotationsListCommand) Help() string {
	return `Examples:

    tokenctl rotations list --state needs-operator
    tokenctl rotations list --stuck -o json`
}

// Run implements the command.
func (c *rotationsListCommand) Run(ctx context.Context, s *session) error {
	request := &pb.ListRotationsRequest{PageSize: 500, StuckOnly: c.Stuck}
	for _, state := range c.State {
		name := "ROTATION_STATE_" + strings.ToUpper(strings.ReplaceAll(state, "-", "_"))
		request.States = append(request.States, pb.RotationState(pb.RotationState_value[name]))
	}
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		all := &pb.ListRotationsResponse{}
		for more := true; more; {
			page, err := b.rotations.ListRotations(ctx, request)
			if err != nil {
				return err
			}
			all.Rotations = append(all.Rotations, page.GetRotations()...)
			request.PageToken = page.GetNextPageToken()
			more = request.PageToken != "" && (c.Limit <= 0 || len(all.GetRotations()) < c.Limit)
		}
		if c.Limit > 0 && len(all.GetRotations()) > c.Limit {
			all.Rotations = all.GetRotations()[:c.Limit]
		}
		return s.show(all, func(w io.Writer) { rotationTable(w, time.Now(), all.GetRotations()) })
	})
}

// rotationOf is the id of the client that a rotation is of.
func rotationOf(r *pb.Rotation) string {
	client, _, _ := strings.Cut(strings.TrimPrefix(r.GetName(), clientPrefix), "/")
	return client
}

func rotationTable(w io.Writer, now time.Time, rotations []*pb.Rotation) {
	var rows [][]string
	for _, r := range rotations {
		rows = append(rows, []string{rotationOf(r), stateWord(r.GetState()) + yes(r.GetStuck(), " (stuck)"), number(r.GetSecretVersion()), when(now, r.GetUpdateTime()), when(now, r.GetNextTime()), r.GetReason()})
	}
	if len(rows) == 0 {
		fmt.Fprintln(w, "none")
		return
	}
	table(w, []string{"CLIENT", "STATE", "VERSION", "CHANGED", "ACTS NEXT", "REASON"}, rows)
}

type rotationsGetCommand struct {
	clientArg
}

// Help implements kong.HelpProvider.
func (c *rotationsGetCommand) Help() string {
	return `Example:

    tokenctl rotations get acme-crm`
}

// Run implements the command.
func (c *rotationsGetCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		got, err := b.rotations.GetRotation(ctx, &pb.GetRotationRequest{Client: c.name()})
		if err != nil {
			return err
		}
		return s.show(got, func(w io.Writer) { describeRotation(w, time.Now(), got.GetRotation()) })
	})
}

type rotationsWatchCommand struct {
	clientArg
}

// Help implements kong.HelpProvider.
func (c *rotationsWatchCommand) Help() string {
	return `Ctrl-C and --timeout end the watching, not the rotation. With -o json each change is a line.

Example:

    tokenctl rotations watch acme-crm`
}

// Run implements the command.
func (c *rotationsWatchCommand) Run(ctx context.Context, s *session) error {
	return (&follower{session: s, client: c.clientArg, until: isOver}).run(ctx)
}

type rotationsAbortCommand struct {
	clientArg
	Rotation string `help:"Name of the rotation that is expected to be under way." placeholder:"NAME"`
}

// Help implements kong.HelpProvider.
func (c *rotationsAbortCommand) Help() string {
	return `The pending secret is revoked and destroyed. After promotion "tokenctl secret rollback" is what leads back.

Example:

    tokenctl rotations abort acme-crm`
}

// Run implements the command.
func (c *rotationsAbortCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		aborted, err := b.rotations.AbortRotation(ctx, &pb.AbortRotationRequest{Client: c.name(), Rotation: c.Rotation})
		if err != nil {
			return err
		}
		return s.show(aborted, func(w io.Writer) {
			describeRotation(w, time.Now(), aborted.GetRotation())
			switch aborted.GetRotation().GetState() {
			case pb.RotationState_ROTATION_STATE_COMPLETED, pb.RotationState_ROTATION_STATE_ROLLED_BACK:
				fmt.Fprintln(w, "it was over: nothing was aborted")
			}
		})
	})
}
