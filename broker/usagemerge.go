package broker

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// mergeUsageEvery is how often a replica merges what it knows of one client at most.
	mergeUsageEvery = 15 * time.Minute
	// lookForUsageEvery is how often it looks for what is due.
	lookForUsageEvery = 5 * time.Second
	mergesAtOnce      = 4
	// usageOutageWait is how long nothing is merged after the store was away.
	usageOutageWait = time.Minute
	// flushUsageFor bounds the merging at the end.
	flushUsageFor = 5 * time.Second
)

// nextMerge is when news at now of a client are merged that was last merged at last: a
// crash loses no more than a quarter of an hour, and replicas that began together do
// not write together.
func nextMerge(last, now time.Time) time.Time {
	if last.IsZero() || now.Sub(last) >= mergeUsageEvery {
		return now.Add(mergeUsageEvery/5 + rand.N(mergeUsageEvery*4/5))
	}
	return last.Add(mergeUsageEvery)
}

// keepBooks merges what this replica knows of the use of clients, and looks whose
// secrets are about to expire, until ctx ends; then it merges what is left.
func (b *Broker) keepBooks(ctx context.Context) {
	var pause, lookAgain time.Time
	for sleep(ctx, lookForUsageEvery*9/10+rand.N(lookForUsageEvery/5)) {
		_ = b.guarded(ctx, func() error { // guarded logs what it caught
			now := time.Now()
			if now.After(pause) && !b.mergeUsage(ctx, b.ledger.dueAt(now)) {
				pause = time.Now().Add(usageOutageWait)
			}
			if now.After(lookAgain) {
				lookAgain = now.Add(lookForExpiryEvery*9/10 + rand.N(lookForExpiryEvery/5))
				b.tellExpiries(ctx, now)
			}
			return nil
		})
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushUsageFor)
	defer cancel()
	_ = b.guarded(ctx, func() error { b.mergeUsage(ctx, b.ledger.dueAt(time.Time{})); return nil }) // the same
}

// mergeUsage merges what is known of clients into the store, until ctx ends or the store
// shows that it takes none; then it logs that and returns false.
func (b *Broker) mergeUsage(ctx context.Context, uids []string) bool {
	var group errgroup.Group
	group.SetLimit(mergesAtOnce)
	taken, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	for _, uid := range uids {
		if taken.Err() != nil || ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			return b.guarded(ctx, func() error {
				if err := b.mergeClient(ctx, uid); err != nil {
					stop(err)
				}
				return nil
			})
		})
	}
	_ = group.Wait() // guarded logs
	if taken.Err() == nil {
		return true
	}
	err := context.Cause(taken)
	b.log.WarnContext(ctx, "use of clients not recorded; it is kept in memory", "clients", len(uids), "reason", ReasonOf(err), "cause", err)
	return false
}

// mergeClient merges what is known of one client. Its error is one that all clients
// would meet.
func (b *Broker) mergeClient(ctx context.Context, uid string) error {
	id, news := b.ledger.merging(uid)
	err := b.changeUsage(ctx, id, uid, func(r *usageRecord) bool { return r.take(news, time.Now()) })
	switch reason := ReasonOf(err); {
	case err == nil || reason == ReasonRecordDestroyed:
		b.ledger.merged(uid, news, time.Now())
		return nil
	case ctx.Err() == context.Canceled: // it is merged at the end
		return nil
	case !strings.HasPrefix(string(reason), "RECORD_") && reason != ReasonStoreConflict && reason != ReasonStoreAnswerLost:
		return err
	case b.ledger.notMerged(uid, time.Now()):
		b.log.WarnContext(ctx, "use of a client not recorded", "client", id, "reason", reason, "cause", err)
	}
	return nil
}
