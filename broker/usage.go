package broker

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// useQuantum is how precisely the last use is known: to the quarter of an hour, so that
// a client that is used all the time changes its record four times an hour, however
// many calls and replicas there are.
const useQuantum = 15 * time.Minute

// Usage is who used a client lately, and why its tokens could not be had. Times are by
// the clocks of the replicas that served.
type Usage struct {
	// Callers are by last use, latest first; each is there once for each secret version
	// that the tokens it was given were got with. At most 200 callers are known, those
	// of the last 90 days.
	Callers []CallerUse
	// Versions are by number, ascending; a version that is not there was not used in
	// the last 90 days.
	Versions []VersionUse
	// Failures are the last 20 distinct ones, latest first.
	Failures []UsageFailure
	// ends are the ages at which tokens were lately reported as rejected.
	ends []tokenEnd
	// Incomplete is why what other replicas have merged is missing here; "" if it is not.
	Incomplete Reason
}

// CallerUse says that a caller was given a token.
type CallerUse struct {
	// Caller is the name that the access table gives it.
	Caller        string
	SecretVersion int64
	// LastUseTime is the beginning of the quarter of an hour, in UTC, in which it was.
	LastUseTime time.Time
}

// VersionUse says when a token was last handed out that was got with a secret version.
type VersionUse struct {
	Number int64
	// LastUseTime is the beginning of a quarter of an hour, in UTC.
	LastUseTime time.Time
}

// UsageFailure is a cause for which a token could not be had. It has no detail, which
// might quote an authorization server.
type UsageFailure struct {
	Reason        Reason `json:"reason"`
	SecretVersion int64  `json:"secret_version"`
	// Count is about how often, since FirstTime: a merge whose answer was lost may count
	// twice.
	Count     int64     `json:"count"`
	FirstTime time.Time `json:"first_time"`
	LastTime  time.Time `json:"last_time"`
}

// notedUse is who was given a token in one quarter of an hour. It is immutable, and
// tokens that have one caller, the same, share it: with many tokens in use, what belongs
// to one of them is in no cache of the processor.
type notedUse struct {
	quarter int64 // since 1970
	// first is one of callers, which spares most calls a look into a map.
	first   string
	callers map[string]bool
}

// knows reports whether nothing is new about a use: it is noted, or the quarter has as
// many callers as are kept.
func (n *notedUse) knows(caller string, quarter int64) bool {
	return n != nil && n.quarter >= quarter && (n.first == caller || n.callers[caller] || len(n.callers) >= maxUsageCallers)
}

// NoteUse notes that caller, by its name in the access table, was given t at now. It is
// for every token that is handed out: what was noted in the same quarter of an hour
// costs a load and a look into a map that nobody writes. Safe for concurrent use.
func (b *Broker) NoteUse(t *Token, caller string, now time.Time) {
	quarter := now.Unix() / int64(useQuantum/time.Second)
	if t.noted.Load().knows(caller, quarter) || caller == "" {
		return
	}
	b.ledger.note(t, caller, quarter, now)
}

// Usage returns who used a client lately: what the store has, and what this replica has
// not merged yet. A record that cannot be read makes it incomplete, which is no error.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, or the reason why the client's record cannot be read.
func (b *Broker) Usage(ctx context.Context, id string) (Usage, error) {
	loaded, _, err := b.load(ctx, id)
	if err != nil {
		return Usage{}, err
	}
	c := loaded.client
	r, _, err := b.readUsage(ctx, c.ID, c.UID)
	if err != nil {
		r = &usageRecord{}
	}
	r.take(b.ledger.unmerged(c.UID), time.Now())
	usage := r.usage()
	usage.Incomplete = ReasonOf(err)
	return usage, nil
}

// maxLedgerClients bounds the clients of which a replica remembers what is not merged,
// maxLedgerUses their uses.
const (
	maxLedgerClients = 100_000
	maxLedgerUses    = 4 * maxUsageCallers
)

// ledger is what this replica knows of uses and failures and has not merged into the
// store yet. Safe for concurrent use.
type ledger struct {
	mu sync.Mutex
	// clients :: uid → what is known of it; guarded by mu
	clients map[string]*clientLedger
	// sole :: caller → that it was given a token and nobody else was, in the quarter of an
	// hour soleQuarter; guarded by mu
	sole        map[string]*notedUse
	soleQuarter int64
}

// clientLedger is the part of one client.
type clientLedger struct {
	// id is the client's.
	id string
	// due is when it is to be merged; mergeTime is when it last was, zero if never.
	due, mergeTime time.Time
	// failing says that the record cannot be changed, which was logged.
	failing bool
	unmerged
}

// unmerged is what is not in the store yet. It is small: of most clients in use there is
// one use, and there may be very many clients.
type unmerged struct {
	uses     []noticedUse
	failures map[failureKey]UsageFailure // nil for none
	ends     []tokenEnd
}

// noticedUse is that a caller was given a token that was got with a secret version,
// lastly in the quarter of an hour that began at.
type noticedUse struct {
	caller  string
	version int64
	at      time.Time
}

type failureKey struct {
	reason  Reason
	version int64
}

func (u unmerged) empty() bool { return len(u.uses)+len(u.failures)+len(u.ends) == 0 }

func (u unmerged) clone() unmerged {
	return unmerged{slices.Clone(u.uses), maps.Clone(u.failures), slices.Clone(u.ends)}
}

// note takes in a use that is new.
func (l *ledger) note(t *Token, caller string, quarter int64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	noted := t.noted.Load()
	if noted.knows(caller, quarter) {
		return
	}
	if noted == nil || noted.quarter < quarter {
		t.noted.Store(l.soleLocked(caller, quarter))
	} else { // its quarter may be later: of calls at the end of one, this is the slower one
		next := *noted
		next.callers = maps.Clone(noted.callers)
		next.callers[caller] = true
		t.noted.Store(&next)
	}
	c := l.clientLocked(t.uid, t.clientID, now)
	if c == nil {
		return
	}
	use := noticedUse{caller, t.SecretVersion, time.Unix(quarter*int64(useQuantum/time.Second), 0).UTC()}
	switch i := slices.IndexFunc(c.uses, func(u noticedUse) bool { return u.caller == use.caller && u.version == use.version }); {
	case i >= 0 && use.at.After(c.uses[i].at):
		c.uses[i] = use
	case i < 0 && len(c.uses) < maxLedgerUses:
		c.uses = append(c.uses, use)
	}
}

// soleLocked returns that caller was given a token in the quarter and nobody else was.
func (l *ledger) soleLocked(caller string, quarter int64) *notedUse {
	if l.soleQuarter != quarter {
		l.soleQuarter = quarter
		clear(l.sole)
	}
	use, ok := l.sole[caller]
	if !ok {
		use = &notedUse{quarter: quarter, first: caller, callers: map[string]bool{caller: true}}
		l.sole[caller] = use
	}
	return use
}

// noteFailure takes in a failure of a mint. One of other clients of the same server,
// for which nobody asked again, is not this client's.
func (l *ledger) noteFailure(c *Client, version int64, err error, now time.Time) {
	if errors.Is(err, errNotAsked) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.clientLocked(c.UID, c.ID, now)
	if known == nil {
		return
	}
	key := failureKey{ReasonOf(err), version}
	f, ok := known.failures[key]
	if !ok {
		f = UsageFailure{Reason: key.reason, SecretVersion: version, FirstTime: now.UTC().Truncate(time.Second)}
	}
	f.Count, f.LastTime = f.Count+1, now.UTC().Truncate(time.Second)
	if known.failures == nil {
		known.failures = map[failureKey]UsageFailure{}
	}
	known.failures[key] = f // there are only so many reasons, and one version at a time
}

// clientLocked returns the part of a client to which something is added; nil if there
// are too many.
func (l *ledger) clientLocked(uid, id string, now time.Time) *clientLedger {
	c, ok := l.clients[uid]
	if !ok {
		if len(l.clients) >= maxLedgerClients {
			return nil
		}
		c = &clientLedger{id: id}
		l.clients[uid] = c
	}
	if c.empty() {
		c.due = nextMerge(c.mergeTime, now)
	}
	return c
}

// unmerged returns a copy of what the store does not have of a client.
func (l *ledger) unmerged(uid string) unmerged {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.clients[uid]; ok {
		return c.clone()
	}
	return unmerged{}
}

// dueAt returns the clients that are to be merged at now, those that wait longest
// first, and forgets those of which nothing is new. The zero time takes all that have
// something to merge.
func (l *ledger) dueAt(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var uids []string
	for uid, c := range l.clients {
		switch {
		case !c.empty() && (now.IsZero() || !now.Before(c.due)):
			uids = append(uids, uid)
		case c.empty() && now.Sub(c.mergeTime) >= mergeUsageEvery:
			delete(l.clients, uid)
		}
	}
	slices.SortFunc(uids, func(a, b string) int { return cmp.Or(l.clients[a].due.Compare(l.clients[b].due), cmp.Compare(a, b)) })
	return uids
}

// merging returns what of a client is to be merged, and its id.
func (l *ledger) merging(uid string) (id string, news unmerged) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[uid]
	return c.id, c.clone()
}

// merged forgets what is in the store now.
func (l *ledger) merged(uid string, news unmerged, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[uid]
	c.mergeTime, c.failing = now, false
	c.uses = slices.DeleteFunc(c.uses, func(u noticedUse) bool { return slices.Contains(news.uses, u) })
	for key, f := range news.failures {
		newer := c.failures[key]
		if newer.Count -= f.Count; newer.Count <= 0 {
			delete(c.failures, key)
			continue
		}
		newer.FirstTime = f.LastTime
		c.failures[key] = newer
	}
	c.ends = slices.DeleteFunc(c.ends, func(e tokenEnd) bool { return slices.Contains(news.ends, e) })
	c.due = now.Add(mergeUsageEvery)
}

// notMerged keeps everything for a later try, and reports whether the client's merges
// begin to fail.
func (l *ledger) notMerged(uid string, now time.Time) (begins bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[uid]
	begins, c.failing = !c.failing, true
	c.due = now.Add(mergeUsageEvery)
	return begins
}
