package broker

import (
	"context"
	"strings"
	"time"
)

// sweepGrants destroys grants to clients that are gone: what a purge leaves is swept with
// its tombstone, and this is for what came late after that. Grants of a client that is
// there are left alone, in whatever state they are. It waits between calls with pause,
// which says whether to go on.
func (b *Broker) sweepGrants(ctx context.Context, pause func(context.Context, time.Duration) bool) (removed int, err error) {
	uids, err := b.store.List(ctx, "grants/")
	if err != nil {
		return 0, err
	}
	for _, uid := range uids {
		folder := "grants/" + uid
		names, err := b.store.List(ctx, folder)
		if err != nil || !pause(ctx, crawlPause) {
			return removed, err
		}
		if !b.clientGone(ctx, strings.TrimSuffix(uid, "/"), folder, names) {
			b.sinces.forget(folder)
			continue
		}
		if time.Since(b.sinces.since(folder)) < unnamedFor {
			continue
		}
		if err := b.destroyUnder(ctx, folder, ""); err != nil {
			return removed, err
		}
		b.sinces.forget(folder)
		removed += len(names)
		b.log.WarnContext(ctx, "grants destroyed whose client is gone", "uid", strings.TrimSuffix(uid, "/"), "grants", len(names))
	}
	return removed, nil
}

// clientGone reports whether the client of these grants is surely no more.
func (b *Broker) clientGone(ctx context.Context, uid, folder string, names []string) bool {
	for _, name := range names {
		record, err := b.read(ctx, folder+name)
		if _, absent := absence(err); absent { // destroyed before
			continue
		}
		var r grantRecord
		if err != nil || decode(folder+name, record, &r, "client") != nil || r.UID != uid || idProblem(r.Client) != "" {
			return false
		}
		c, err := b.fetchClient(ctx, r.Client)
		if err != nil {
			return ReasonOf(err) == ReasonClientNotFound
		}
		return c.UID != uid || !c.PurgeEndTime.IsZero()
	}
	return false
}
