package broker

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// refreshEvery is how often tokens are looked for that are due for a refresh.
	refreshEvery = 5 * time.Second
	// sweepEvery is how often secrets that were kept too long are wiped.
	sweepEvery = time.Hour
	// sweepAfter is how long a shared token has expired when its record goes.
	sweepAfter = time.Hour
)

// Run does what nobody waits for, until ctx ends: it follows the changes by other
// replicas, refreshes tokens that were used since they were had, looks whether the
// owners of secrets that are used have changed them, goes on with rotations, begins those
// that are due, looks after all clients about once an hour (one replica at a time),
// records who used what, which it ends with, and tells of secrets that expire soon.
// Without it a Broker serves all the same; it then notices
// changes by others late and refreshes only what is asked for. It returns nil. A rotation
// that it went on with may still be at work then: see [Broker.Drain].
func (b *Broker) Run(ctx context.Context) error {
	var owned sync.WaitGroup
	if b.feedOn {
		owned.Go(func() { b.followFeed(ctx) })
	}
	if len(b.prewarmed) > 0 {
		owned.Go(func() { b.prewarm(ctx) })
	}
	owned.Go(func() { b.rotate(ctx) })
	owned.Go(func() { b.every(ctx, refreshEvery, b.refreshUsed) })
	if b.references != nil {
		owned.Go(func() { b.every(ctx, followEvery, b.followUsed) })
	}
	owned.Go(func() { b.keepBooks(ctx) })
	owned.Go(func() { b.every(ctx, scheduleEvery, b.beginDue) })
	owned.Go(func() { b.every(ctx, sweepEvery, func(context.Context) { b.secrets.sweep() }) })
	owned.Go(func() { b.crawl(ctx) })
	owned.Wait()
	return nil
}

const (
	prewarmAtOnce = 16
	// prewarmTries and the pause between them get over a store that comes up at the
	// same time as its brokers.
	prewarmTries = 10
	prewarmPause = 3 * time.Second
)

// prewarm gets the tokens of the chosen clients. What fails is logged, once.
func (b *Broker) prewarm(ctx context.Context) {
	var group errgroup.Group
	group.SetLimit(prewarmAtOnce)
	for _, id := range b.prewarmed {
		group.Go(func() error {
			return b.guarded(ctx, func() error {
				err := b.prewarmOne(ctx, id)
				if err != nil && ctx.Err() == nil {
					b.log.WarnContext(ctx, "token not got beforehand", "client", id, "reason", ReasonOf(err), "cause", err)
				}
				return nil
			})
		})
	}
	_ = group.Wait() // each has logged its own
}

func (b *Broker) prewarmOne(ctx context.Context, id string) error {
	for try := 1; ; try++ {
		_, _, err := b.GetToken(ctx, TokenQuery{ClientID: id})
		if err == nil || try == prewarmTries || !outage(err) && ReasonOf(err) != ReasonStoreSealed || !sleep(ctx, prewarmPause) {
			return err
		}
	}
}

// every runs work about once per interval until ctx ends.
func (b *Broker) every(ctx context.Context, interval time.Duration, work func(context.Context)) {
	for sleep(ctx, interval*9/10+rand.N(interval/5)) {
		_ = b.guarded(ctx, func() error { work(ctx); return nil }) // guarded logs what it caught
	}
}

// refreshUsed refreshes what was used since it was had and whose advisory window has
// begun: its next caller, who may come after its end, need not wait.
func (b *Broker) refreshUsed(context.Context) {
	now := time.Now()
	for key, held := range b.tokens.All() {
		if !held.used.Load() || !now.After(held.RefreshAfter) || held.limited || key.binding != "" || !held.aliveAt(now) {
			continue
		}
		loaded, ok := b.clients.GetIfPresent(nameOf(held.clientID))
		if !ok || loaded.client.usable() != nil || held.SecretVersion < loaded.client.MinSecretVersion {
			continue
		}
		q := key.query(held.clientID)
		if present, err := keyOf(loaded.client, q); err == nil && present == key {
			b.refresh(loaded.client, q, key, held, now)
		}
	}
}

// sweepTokens removes the token records that nobody uses any more. It waits between
// calls with pause, which says whether to go on.
func (b *Broker) sweepTokens(ctx context.Context, pause func(context.Context, time.Duration) bool) (removed int, err error) {
	uids, err := b.store.List(ctx, "tokens/")
	if err != nil {
		return 0, err
	}
	for _, uid := range uids {
		names, err := b.store.List(ctx, "tokens/"+uid)
		if err != nil || !pause(ctx, crawlPause) {
			return removed, err
		}
		for _, name := range names {
			if b.sweepToken(ctx, strings.TrimSuffix(uid, "/"), "tokens/"+uid+name) {
				removed++
			}
			if !pause(ctx, crawlPause) {
				return removed, nil
			}
		}
	}
	return removed, nil
}

// sweepToken removes one record if its token has long expired. What cannot be read,
// and what somebody is at work on, stays.
func (b *Broker) sweepToken(ctx context.Context, uid, path string) bool {
	record, err := b.read(ctx, path)
	if err != nil {
		return false
	}
	var r tokenRecord
	if decode(path, record, &r) != nil || r.Lease != nil || r.Token == nil && r.Failure == nil || r.UID != uid {
		return false
	}
	var last time.Time
	if r.Token != nil {
		last = r.Token.ExpireTime
	}
	if r.Failure != nil && r.Failure.Time.After(last) {
		last = r.Failure.Time
	}
	if time.Since(last) < sweepAfter {
		return false
	}
	// Destroying is not check-and-set: this write makes sure that nobody came between.
	empty := &tokenRecord{header: header{UID: uid}, Fence: r.Fence}
	if _, err := b.write(ctx, path, record.Version, &empty.header, empty); err != nil {
		return false
	}
	return b.store.Destroy(ctx, path) == nil
}
