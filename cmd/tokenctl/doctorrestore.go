package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/internal/checkup"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// restorePage is how many records are asked for at a time.
const restorePage = 500

// restored goes through all clients and lists what a backup may have brought back that
// the world has left behind. It asks the broker only to read.
func (d *doctor) restored(ctx context.Context, b *services) {
	clients, latest := d.restoredClients(ctx, b)
	d.restoredSecrets(ctx, b)
	d.restoredRotations(ctx, b)
	d.restoredGrants(ctx, b, clients)
	d.restoredMemories(latest)
}

// tally closes a kind of looks: it counts them, and says so if there are none.
func (d *doctor) tally(name string, before int, good string, err error) {
	found := d.found() - before
	d.listed[name] = found
	switch {
	case err != nil && status.Code(err) == codes.Unimplemented:
		d.Skipped(name, "the broker does not have this call")
	case err != nil:
		d.Bad(name, "ask again when that is mended: the list is not whole", problemOf(context.Background(), err).Message)
	case found == 0:
		d.Good(name, good)
	}
}

func (d *doctor) found() int { return d.Count(checkup.Doubtful) + d.Count(checkup.Bad) }

// restoredClients lists versions that wait for a step, and returns all clients and the
// last change that the store knows of.
func (d *doctor) restoredClients(ctx context.Context, b *services) (clients []*pb.Client, latest time.Time) {
	const name = "versions"
	before := d.found()
	var err error
	for _, filter := range []string{"", "state=deleted"} {
		request := &pb.ListClientsRequest{PageSize: restorePage, Filter: filter}
		for more := true; more && err == nil; {
			d.transient(fmt.Sprintf("reading clients, %d so far", len(clients)))
			var page *pb.ListClientsResponse
			if page, err = b.clients.ListClients(ctx, request); err != nil {
				break
			}
			for _, c := range page.GetClients() {
				if at := c.GetUpdateTime().AsTime(); at.After(latest) {
					latest = at
				}
				if filter == "" {
					d.restoredVersions(name, c)
				}
			}
			if filter == "" {
				clients = append(clients, page.GetClients()...)
			}
			request.PageToken = page.GetNextPageToken()
			more = request.PageToken != ""
		}
	}
	d.tally(name, before, fmt.Sprintf("%s, none with a pending or a previous secret", counted(len(clients), "client", "clients")), err)
	return clients, latest
}

func (d *doctor) restoredVersions(name string, c *pb.Client) {
	client := clientArg{c.GetName()}.id()
	for _, v := range c.GetSecretVersions() {
		version := fmt.Sprintf("%s: version %d is %s", client, v.GetNumber(), stageWord(v.GetStage()))
		switch v.GetStage() {
		case pb.SecretStage_SECRET_STAGE_PENDING:
			d.Doubtful(name, fmt.Sprintf("it may have been promoted or given up since: `%s`, then promote it or `%s`",
				d.session.again(fmt.Sprintf("secret verify %s --secret-version %d", client, v.GetNumber())), d.session.again("rotations abort "+client)), version)
		case pb.SecretStage_SECRET_STAGE_PREVIOUS:
			d.Doubtful(name, fmt.Sprintf("do not roll back to it unseen: it may have been retired at the provider since; if so, `%s`",
				d.session.again(fmt.Sprintf("secret retire %s --secret-version %d", client, v.GetNumber()))), version)
		}
	}
}

// restoredSecrets lists clients whose secret is missing or not the one that was staged.
func (d *doctor) restoredSecrets(ctx context.Context, b *services) {
	const name = "secrets"
	before := d.found()
	var checked int64
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := b.diagnostics.SweepLookups(ctx, &pb.SweepLookupsRequest{})
	if err == nil {
		err = each(&d.screen, cancel, stream.Recv, func(m *pb.SweepLookupsResponse) error {
			if cause := m.GetReport().GetRootCause(); cause != nil {
				d.Bad(name, cause.GetRemedy(), fmt.Sprintf("%s: %s (%s)", clientArg{m.GetReport().GetClient()}.id(), cause.GetSummary(), cause.GetReason()))
			}
			checked += m.GetSummary().GetChecked()
			return nil
		}, func(time.Duration) { d.transient("checking secrets") })
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	d.tally(name, before, counted(int(checked), "client has", "clients have")+" a whole secret; whether the provider still takes it, `tokenctl sweep --depth token --probes N` tells", err)
}

// restoredRotations lists rotations that the backup has under way.
func (d *doctor) restoredRotations(ctx context.Context, b *services) {
	const name = "rotations"
	before := d.found()
	request := &pb.ListRotationsRequest{PageSize: restorePage}
	var err error
	for more := true; more; {
		var page *pb.ListRotationsResponse
		if page, err = b.rotations.ListRotations(ctx, request); err != nil {
			break
		}
		for _, r := range page.GetRotations() {
			if isOver(r.GetState()) {
				continue
			}
			client := rotationOf(r)
			d.Doubtful(name, fmt.Sprintf("it goes on from there although the provider may be further: `%s`; if that secret is not at the provider, `%s`",
				d.session.again("rotations get "+client), d.session.again("rotations abort "+client)),
				fmt.Sprintf("%s: %s%s", client, stateWord(r.GetState()), yes(r.GetUpdateTime() != nil, " since "+r.GetUpdateTime().AsTime().Format(secondsUTC))))
		}
		request.PageToken = page.GetNextPageToken()
		more = request.PageToken != ""
	}
	d.tally(name, before, "none is under way", err)
}

// ofUsers reports whether a client's tokens stand on what its users granted.
func ofUsers(c *pb.Client) bool {
	switch c.GetGrantType() {
	case pb.GrantType_GRANT_TYPE_AUTHORIZATION_CODE, pb.GrantType_GRANT_TYPE_DEVICE_CODE, pb.GrantType_GRANT_TYPE_REFRESH_TOKEN:
		return true
	}
	return false
}

// restoredGrants lists grants whose refresh token may have been replaced since.
func (d *doctor) restoredGrants(ctx context.Context, b *services, clients []*pb.Client) {
	const name = "grants"
	before := d.found()
	for _, c := range clients {
		if !ofUsers(c) {
			continue
		}
		client := clientArg{c.GetName()}.id()
		request := &pb.ListAuthorizationsRequest{Client: c.GetName(), PageSize: restorePage}
		for more := true; more; {
			page, err := b.consents.ListAuthorizations(ctx, request)
			if err != nil {
				d.tally(name, before, "", err)
				return
			}
			for _, a := range page.GetAuthorizations() {
				if a.GetState() != pb.AuthorizationState_AUTHORIZATION_STATE_ACTIVE || !a.GetRefreshable() {
					continue
				}
				used := a.GetRefreshTime()
				if used == nil {
					used = a.GetGrantTime()
				}
				d.Doubtful(name, fmt.Sprintf("a provider that replaces refresh tokens may refuse it, or end the grant at its use: `%s` tries it; if it is refused, the user must consent again",
					d.session.again("check "+client+" --depth token --subject SUBJECT")), fmt.Sprintf("%s: refresh token of %s", a.GetName(), used.AsTime().Format(secondsUTC)))
			}
			request.PageToken = page.GetNextPageToken()
			more = request.PageToken != ""
		}
	}
	d.tally(name, before, "none has a refresh token", nil)
}

// restoredMemories says what no store can tell: what was known only after the backup.
func (d *doctor) restoredMemories(latest time.Time) {
	end := "the store knows of no change at all"
	if !latest.IsZero() {
		end = "the last change of a client that the store knows of was at " + latest.Format(secondsUTC)
	}
	d.Doubtful("tokens", "tokens that were got between then and the restore are good until they expire, and are not known here: revoke those of clients that matter at the provider", end)
	d.Doubtful("replicas", "restart each replica that ran through the restore: until it reads the feed it goes by records that the store has no more, and a counter that has caught up hides that from it", "the feed of changes counts from where the backup was")
}
