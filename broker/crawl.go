package broker

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

const (
	crawlKey = "crawl"
	// crawlRound is how long one visit of all clients takes at least.
	crawlRound = time.Hour
	shards     = 256
	// crawlPause between calls leaves the store to the others.
	crawlPause = 20 * time.Millisecond
	// crawlLook is how often a replica looks whether another one crawls, crawlBeat how
	// often that one says so, and crawlTakeover how long nothing is heard of one that
	// is gone.
	crawlLook     = time.Minute
	crawlBeat     = time.Minute
	crawlTakeover = 5 * time.Minute
	// crawlRetry is how long a crawler waits for a store that is away.
	crawlRetry = time.Minute
	// thoroughEvery rounds a client's secret values are listed.
	thoroughEvery = 24
	// maxSince bounds what a crawler remembers.
	maxSince = 100_000
)

// crawlRecord is written by the one replica that visits all clients. It is what the
// others know of its work, and where the next one goes on.
type crawlRecord struct {
	header
	Replica string `json:"replica"`
	// Round counts the visits of all clients that ended; Shard is the next one's number.
	Round int64 `json:"round"`
	Shard int   `json:"shard"`
	// Counted is what this round has found so far, Census what the last one found.
	Counted Census `json:"counted"`
	Census  Census `json:"census"`
}

// crawler is this replica's work on all clients. It belongs to one goroutine.
type crawler struct {
	*Broker
	record  crawlRecord
	version uint64
	// seen is when version was first seen, written when this replica last wrote it.
	seen, written time.Time
	lost          bool
}

// crawl visits all clients again and again, about once an hour, on one replica at a
// time, until ctx ends. Which one that is needs no lock: what it does to a client is
// check-and-set, so that two at a time only do things in vain.
func (b *Broker) crawl(ctx context.Context) {
	k := &crawler{Broker: b}
	for sleep(ctx, crawlLook*9/10+rand.N(crawlLook/5)) {
		_ = b.guarded(ctx, func() error { // logs what it caught
			if k.look(ctx) {
				k.work(ctx)
			}
			return nil
		})
	}
}

// look reports whether this replica is the one to crawl from now on.
func (k *crawler) look(ctx context.Context) bool {
	record, err := k.read(ctx, crawlKey)
	version, r := record.Version, crawlRecord{}
	if absent, ok := absence(err); ok {
		version = absent.Version
	} else if err != nil {
		return false
	} else if err := decode(crawlKey, record, &r); ReasonOf(err) == ReasonRecordSchemaNewer {
		return false // a later release crawls
	} else if err != nil { // it can be made anew
		r = crawlRecord{}
		k.log.WarnContext(ctx, "the crawler's record cannot be read", "reason", ReasonOf(err))
	} else {
		k.census.Store(&r.Census)
	}
	if k.seen.IsZero() || version != k.version {
		k.version, k.seen, k.record = version, time.Now(), r
		return false
	}
	if time.Since(k.seen) < crawlTakeover {
		return false
	}
	k.record.Shard = max(0, min(k.record.Shard, shards-1))
	k.lost = false
	return k.beat(ctx)
}

// beat tells the others how far this replica is. It reports whether it is still the one.
func (k *crawler) beat(ctx context.Context) bool {
	meta, err := k.meta(ctx)
	if err == nil {
		k.record.UID, k.record.Replica = meta.UID, k.replica
		var version uint64
		begun := time.Now()
		if version, err = k.write(ctx, crawlKey, k.version, &k.record.header, &k.record); err == nil {
			k.version, k.seen, k.written = version, begun, begun
			return true
		}
	}
	// One that cannot say that it works must think that another one does.
	k.lost = ReasonOf(err) == ReasonStoreConflict || time.Since(k.written) > crawlTakeover-2*crawlBeat
	return !k.lost
}

// pause waits for d and says from time to time that this replica works. It reports
// whether to go on.
func (k *crawler) pause(ctx context.Context, d time.Duration) bool {
	for until := time.Now().Add(d); ; {
		left := time.Until(until)
		if !sleep(ctx, min(max(left, 0), crawlBeat)) {
			return false
		}
		if time.Since(k.written) >= crawlBeat && !k.beat(ctx) {
			return false
		}
		if left <= crawlBeat {
			return true
		}
	}
}

// work visits shard after shard, evenly spread over the hour.
func (k *crawler) work(ctx context.Context) {
	for {
		end := time.Now().Add(crawlRound / shards)
		if err := k.visitShard(ctx, end); err != nil && ctx.Err() == nil && !k.lost {
			k.log.WarnContext(ctx, "clients not visited; the store is asked again", "shard", shardName(k.record.Shard), "reason", ReasonOf(err))
			if !k.pause(ctx, crawlRetry) {
				return
			}
			continue
		}
		if ctx.Err() != nil || k.lost || !k.pause(ctx, time.Until(end)) {
			return
		}
		if k.record.Shard++; k.record.Shard == shards && !k.endRound(ctx) {
			return
		}
	}
}

// endRound does what is done once for all clients, and begins the next round.
func (k *crawler) endRound(ctx context.Context) bool {
	removed, err := k.sweepTokens(ctx, k.pause)
	if err == nil && k.record.Round%thoroughEvery == 0 {
		_, err = k.sweepGrants(ctx, k.pause)
	}
	found := k.record.Counted
	found.Time = time.Now().UTC()
	k.log.InfoContext(ctx, "all clients visited", "clients", found.Clients, "unreadable", found.Unreadable, "token_records_removed", removed, "reason", ReasonOf(err))
	k.record.Shard, k.record.Census, k.record.Counted = 0, found, Census{}
	k.record.Round++
	k.census.Store(&found)
	return !k.lost && ctx.Err() == nil && k.beat(ctx)
}

func shardName(number int) string { return hex.EncodeToString([]byte{byte(number)}) }

// visitShard visits the clients of the present shard until end, or longer if there are
// many. It returns an error if the store is away; the shard is then visited again.
func (k *crawler) visitShard(ctx context.Context, end time.Time) error {
	shard := shardName(k.record.Shard)
	names, err := k.store.List(ctx, "clients/"+shard+"/")
	if err != nil {
		return err
	}
	counted := k.record.Counted.clone()
	for i, id := range names {
		if idProblem(id) != "" || shardOf(id) != shard {
			continue
		}
		thorough := (k.record.Round+int64(idNumber(id)))%thoroughEvery == 0
		err := k.guarded(ctx, func() error { return k.visit(ctx, id, thorough, &counted) })
		if ReasonOf(err) == ReasonInternal { // it panicked, and would again
			counted.Unreadable++
		} else if err != nil {
			return err
		}
		if !k.pause(ctx, max(time.Until(end)/time.Duration(len(names)-i), crawlPause)) {
			return ctx.Err()
		}
	}
	k.record.Counted = counted
	return nil
}

// idNumber spreads what is done to clients in some rounds only.
func idNumber(id string) byte {
	decoded, _ := hex.DecodeString(idHash(id)[2:4]) // two digits
	return decoded[0]
}

// LookAfter does for one client what Run does for all of them by itself: it begins a
// rotation that is due, takes up one that is forgotten, ends what was left of one that
// died, destroys values that nothing names, and purges what is to be purged. What fails
// is logged and found again. CLIENT_NOT_FOUND, or a reason of the store if that is away.
func (b *Broker) LookAfter(ctx context.Context, id string) error {
	if err := CheckID("name", id); err != nil {
		return err
	}
	var counted Census
	if err := b.visit(ctx, id, true, &counted); err != nil {
		return err
	}
	if counted.Clients == 0 && counted.Unreadable == 0 {
		return newError(ReasonClientNotFound, id, "")
	}
	return nil
}

// visit looks after one client and counts it. It returns an error if the store is away.
func (b *Broker) visit(ctx context.Context, id string, thorough bool, counted *Census) error {
	begun := time.Now()
	c, err := b.fetchClient(ctx, id)
	switch {
	case ReasonOf(err) == ReasonClientNotFound:
		return nil
	case err != nil && (outage(err) || ReasonOf(err) == ReasonStoreSealed || ctx.Err() != nil):
		return err
	case err != nil:
		counted.Unreadable++
		b.log.WarnContext(ctx, "client cannot be read", "client", id, "reason", ReasonOf(err))
		return nil
	case c.State() == StatePurged:
		return b.visited(ctx, c, "purge", func() error { return b.visitPurged(ctx, c, thorough) })
	}
	if _, ok := b.clients.GetIfPresent(nameOf(id)); ok { // those that nobody uses stay out of memory
		b.remember(newLoaded(c, begun))
	}
	counted.client(c)
	if b.purgeDue(c) {
		return b.visited(ctx, c, "purge", func() error { return b.purge(ctx, c) })
	}
	var r *rotationRecord
	if c.mayHaveRotation() {
		if r, _, err = b.journal(ctx, c); err != nil {
			return b.visited(ctx, c, "read the rotation record", func() error { return err })
		}
	}
	counted.rotation(r)
	for _, hook := range []struct {
		name string
		do   func() error
	}{
		{"take up its rotation", func() error { return b.takeUpLost(ctx, c, r) }},
		{"end a retirement", func() error { return b.endRetirements(ctx, c, r) }},
		{"sweep secret values", func() error { return b.sweepValues(ctx, c, r, thorough) }},
		{"begin a rotation", func() error { return b.plan(ctx, c) }},
		{"check its lookup", func() error { return b.countUnwell(ctx, c, counted) }},
	} {
		if err := b.visited(ctx, c, hook.name, hook.do); err != nil {
			return err
		}
	}
	return nil
}

// visited does one thing to a client. Its error is that of a store that is away.
func (b *Broker) visited(ctx context.Context, c *Client, what string, do func() error) error {
	err := b.guarded(ctx, do)
	switch reason := ReasonOf(err); {
	case err == nil:
		return nil
	case outage(err), reason == ReasonStoreSealed, ctx.Err() != nil:
		return err
	case reason == ReasonStoreConflict, reason == ReasonConcurrentChange, reason == ReasonRotationUnderWay:
		return nil // somebody is at work on it
	default:
		b.log.WarnContext(ctx, "client not looked after", "client", c.ID, "step", what, "reason", reason, "cause", err)
		return nil
	}
}

// mayHaveRotation reports whether c may have a rotation that goes on by itself.
func (c *Client) mayHaveRotation() bool {
	if c.Rotation.Rotator != "" {
		return true
	}
	for _, v := range c.Secrets {
		if v.Stage == Pending || v.Stage == Previous || v.Destroying {
			return true
		}
	}
	return false
}

// takeUpLost has a rotation gone on with that may not be among the active ones.
func (b *Broker) takeUpLost(ctx context.Context, c *Client, r *rotationRecord) error {
	if r == nil || !r.goesOn() {
		return nil
	}
	return b.lookAfter(ctx, c, r)
}

// purgeDue reports whether c has been deleted for so long that it is purged.
func (b *Broker) purgeDue(c *Client) bool {
	return b.purgeDeletedAfter > 0 && c.State() == StateDeleted && time.Since(c.DeleteTime) > b.purgeDeletedAfter
}

// visitPurged ends a purge, and for some time looks for what late writers left.
func (b *Broker) visitPurged(ctx context.Context, c *Client, thorough bool) error {
	if c.PurgeEndTime.IsZero() {
		return b.purge(ctx, c)
	}
	if !thorough || time.Since(c.PurgeEndTime) > purgeLooksFor {
		return nil
	}
	return b.destroyRemains(ctx, c)
}

// sinces remembers since when something is so, as this process saw it. Safe for
// concurrent use.
type sinces struct {
	mu    sync.Mutex
	times map[string]time.Time // what → since when; guarded by mu
}

// since returns since when what is so.
func (s *sinces) since(what string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.times[what]; ok {
		return at
	}
	if s.times == nil || len(s.times) >= maxSince { // at worst it takes longer
		s.times = map[string]time.Time{}
	}
	s.times[what] = time.Now()
	return s.times[what]
}

func (s *sinces) has(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.times[what]
	return ok
}

func (s *sinces) forget(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.times, what)
}

// valueName splits the name of a secret value, "<uid>-<n>".
func valueName(name string) (uid string, number int64, ok bool) {
	uid, digits, ok := strings.Cut(name, "-")
	if !ok || uid == "" {
		return "", 0, false
	}
	n, err := fmt.Sscanf(digits, "%d", &number)
	return uid, number, err == nil && n == 1 && number > 0 && fmt.Sprint(number) == digits
}
