package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	feedKey = "feed"
	// maxFeedEntries and maxFeedBytes (of ids) bound the record.
	maxFeedEntries = 4096
	maxFeedBytes   = 128 << 10
	// announceEvery is how often a replica writes to the feed at most: each write of
	// one makes those of all others try again.
	announceEvery = 250 * time.Millisecond
	// changingFor is how long after its announcement a change may still take effect.
	changingFor = writeTimeout + announceEvery
	feedTries   = 12
)

// feedRecord says which clients changed. Replicas read it all the time and learn from
// it which of the records that they have in memory are no longer true.
type feedRecord struct {
	header
	// Counter is the number of the last entry; numbers go on when entries go.
	Counter int64       `json:"counter"`
	Entries []feedEntry `json:"entries"`
}

// feedEntry is one change, or the announcement of one.
type feedEntry struct {
	ID string `json:"id"`
	// Changing is for how long the client may be about to change; 0 if it has changed.
	// It counts from when a reader first sees it.
	Changing time.Duration `json:"changing,omitempty"`
	// Grant is the path of the grant that changed; "" if it is the client itself.
	Grant string `json:"grant,omitempty"`
}

// skip makes a gap that has every reader doubt all it knows.
func (r *feedRecord) skip() {
	r.Entries = nil
	r.Counter++
}

// append adds entries and drops the oldest ones that are too many.
func (r *feedRecord) append(entries []feedEntry) {
	r.Entries = append(r.Entries, entries...)
	r.Counter += int64(len(entries))
	bytes, keep := 0, 0
	for keep < min(len(r.Entries), maxFeedEntries) && bytes < maxFeedBytes {
		keep++
		entry := r.Entries[len(r.Entries)-keep]
		bytes += len(entry.ID) + len(entry.Grant) + 8
	}
	r.Entries = r.Entries[len(r.Entries)-keep:]
}

// since returns the entries after number known, and false if some of them are gone
// or the counter ran backwards, as after the restore of a backup.
func (r *feedRecord) since(known int64) ([]feedEntry, bool) {
	added := r.Counter - known
	if added < 0 || added > int64(len(r.Entries)) {
		return r.Entries, false
	}
	return r.Entries[int64(len(r.Entries))-added:], true
}

func (b *Broker) readFeed(ctx context.Context) (*feedRecord, uint64, error) {
	record, err := b.read(ctx, feedKey)
	var absent *AbsentError
	if errors.As(err, &absent) {
		return &feedRecord{}, absent.Version, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the feed: %w", err)
	}
	r := &feedRecord{}
	if err := decode(feedKey, record, r, "counter"); err != nil {
		return nil, 0, fmt.Errorf("read the feed: %w", err)
	}
	return r, record.Version, nil
}

// announcer collects what this replica has to tell the others, so that many changes
// cost one write. Safe for concurrent use.
type announcer struct {
	mu sync.Mutex // guards what follows
	// queue waits for the next write, waiting are told when it has taken place.
	queue   []feedEntry
	waiting []chan error
	writing bool
	last    time.Time
	// untold are changes that a write failed to tell of: the next one does.
	untold map[feedEntry]bool
	// skipped says that there were more of them than are kept.
	skipped bool
}

// wrote takes in what became of a write with these entries of the queue, and returns
// how many of earlier ones it told of at last.
func (a *announcer) wrote(entries []feedEntry, err error) (late int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		late = len(a.untold)
		a.untold, a.skipped = nil, false
		return late
	}
	for _, entry := range entries {
		if entry.Changing > 0 { // another entry comes when it has changed
			continue
		}
		if a.untold == nil {
			a.untold = map[feedEntry]bool{}
		}
		a.untold[entry] = true
	}
	if len(a.untold) > maxFeedEntries {
		a.untold, a.skipped = nil, true
	}
	return 0
}

// announce puts an entry into the feed, at once or together with those of the next
// quarter of a second. The channel gets what became of it.
func (b *Broker) announce(entry feedEntry) <-chan error {
	done := make(chan error, 1)
	a := &b.announcer
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = append(a.queue, entry)
	a.waiting = append(a.waiting, done)
	if !a.writing {
		a.writing = true
		go b.writeAnnouncements()
	}
	return done
}

// tellAgain tells what could not be told before.
func (b *Broker) tellAgain() {
	a := &b.announcer
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.writing && (len(a.untold) > 0 || a.skipped) {
		a.writing = true
		go b.writeAnnouncements()
	}
}

// writeAnnouncements writes until nothing is left to tell, or can be.
func (b *Broker) writeAnnouncements() {
	for more := true; more; {
		err := b.detached(b.working, flightTimeout, func(ctx context.Context) error {
			b.announcer.mu.Lock()
			wait := announceEvery - time.Since(b.announcer.last)
			b.announcer.mu.Unlock()
			sleep(ctx, wait) // shutting down ends the wait, not what is to be told
			return b.writeBatch(ctx)
		})
		a := &b.announcer
		a.mu.Lock()
		if err != nil { // what could not be told is told to those who wait
			for _, done := range a.waiting {
				done <- err
			}
			a.queue, a.waiting = nil, nil
		}
		more = len(a.queue) > 0
		a.writing = more
		a.mu.Unlock()
	}
}

// writeBatch writes what is in the queue, after what could not be told before.
func (b *Broker) writeBatch(ctx context.Context) error {
	a := &b.announcer
	a.mu.Lock()
	entries, waiting, skipped := a.queue, a.waiting, a.skipped
	a.queue, a.waiting, a.last = nil, nil, time.Now()
	all := append(slices.Collect(maps.Keys(a.untold)), entries...)
	a.mu.Unlock()
	err := b.appendToFeed(ctx, all, skipped)
	late := a.wrote(entries, err)
	switch {
	case err != nil && len(entries) > 0:
		b.log.WarnContext(ctx, "other replicas are not told of changes yet", "changes", len(entries), "reason", ReasonOf(err), "cause", err)
	case late > 0 || skipped && err == nil:
		b.log.InfoContext(ctx, "other replicas are told of changes that they were not told of", "changes", late, "all", skipped)
	}
	for _, done := range waiting {
		done <- err
	}
	return nil
}

func (b *Broker) appendToFeed(ctx context.Context, entries []feedEntry, skipped bool) error {
	meta, err := b.meta(ctx)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // each call is bounded
	for range feedTries {
		var r *feedRecord
		var version uint64
		if r, version, err = b.readFeed(ctx); err != nil {
			return err
		}
		r.UID = meta.UID
		if skipped {
			r.skip()
		}
		r.append(entries)
		if _, err = b.write(ctx, feedKey, version, &r.header, r); ReasonOf(err) != ReasonStoreConflict {
			return err
		}
		time.Sleep(rand.N(pollBegin)) // the race was with another replica, which is done now
	}
	return err
}

// changing tells the other replicas that a client is about to change, before it
// does; a crash in between is then seen by them all the same. The function that it
// returns tells that the change has come, or will not, again and again if need be.
func (b *Broker) changing(ctx context.Context, id string) func() {
	if !b.feedOn {
		return func() {}
	}
	select {
	case <-b.announce(feedEntry{ID: id, Changing: changingFor}): // a feed that fails stops no change
	case <-ctx.Done():
	}
	return func() { b.announce(feedEntry{ID: id}) }
}
