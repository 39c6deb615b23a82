package server

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// scopeSetsFor is how long a set of scopes counts that was asked for: about the life
// of the token that was made for it.
const scopeSetsFor = time.Hour

// quotas counts what the limits of access rows bound. A new generation of the table
// starts the counts afresh. Safe for concurrent use.
type quotas struct {
	current atomic.Pointer[generation]
}

// generation is the counts of one table, and of what calls under an older one still ask.
type generation struct {
	number uint64
	// counts is *access.Limits → *quota: limits belong to one caller and row of one table.
	counts sync.Map
}

// of returns the count of limits, which are those of one caller and row of table.
func (q *quotas) of(table *access.Table, limits *access.Limits) *quota {
	g := q.current.Load()
	for g == nil || g.number < table.Generation() {
		next := &generation{number: table.Generation()}
		if q.current.CompareAndSwap(g, next) {
			g = next
			break
		}
		g = q.current.Load()
	}
	if count, ok := g.counts.Load(limits); ok {
		return count.(*quota)
	}
	count, _ := g.counts.LoadOrStore(limits, newQuota(limits))
	return count.(*quota)
}

// pool bounds the calls of one kind: in all, and of one caller. Safe for concurrent use.
type pool struct {
	most      int64
	perCaller int // 0 for calls whose callers are not told apart
	// what is the limit of one caller, as the configuration spells it.
	what     string
	underway atomic.Int64
	// callers is name → *bucket. It grows by what access tables list, and not otherwise.
	callers sync.Map
}

// enter counts a call in, TOO_MANY_REQUESTS if it is one too many.
func (p *pool) enter(c *call) error {
	if p.underway.Add(1) > p.most {
		p.underway.Add(-1)
		return &broker.Error{Reason: broker.ReasonTooManyRequests, RetryAfter: time.Second}
	}
	name := c.visit.name()
	if name == "" || p.perCaller == 0 {
		return nil
	}
	caller, ok := p.callers.Load(name)
	if !ok {
		caller, _ = p.callers.LoadOrStore(name, newBucket(0, 0, p.perCaller))
	}
	if err := c.enter(caller.(*bucket), p.what); err != nil {
		p.underway.Add(-1)
		return err
	}
	return nil
}

// bucket bounds rate and concurrency. Safe for concurrent use.
type bucket struct {
	rate       *rate.Limiter // nil for no bound
	perSecond  float64
	concurrent int64 // 0 for no bound
	underway   atomic.Int64
}

func newBucket(perSecond float64, burst, concurrent int) *bucket {
	b := &bucket{perSecond: perSecond, concurrent: int64(concurrent)}
	if perSecond > 0 {
		if burst == 0 {
			burst = int(perSecond) + 1
		}
		b.rate = rate.NewLimiter(rate.Limit(perSecond), burst)
	}
	return b
}

// enter counts a call in, TOO_MANY_REQUESTS if it is one too many. what names what
// bounds it. Who was let in calls leave when the call is over.
func (b *bucket) enter(what string) error {
	if b.underway.Add(1) > b.concurrent && b.concurrent > 0 {
		b.leave()
		return tooMany(time.Second, what, "calls at once", b.concurrent)
	}
	if b.rate == nil {
		return nil
	}
	now := time.Now()
	reserved := b.rate.ReserveN(now, 1)
	if wait := reserved.DelayFrom(now); wait > 0 {
		reserved.CancelAt(now)
		b.leave()
		return tooMany(wait, what, "calls a second", b.perSecond)
	}
	return nil
}

func (b *bucket) leave() { b.underway.Add(-1) }

// quota counts one caller's use of one row. Safe for concurrent use.
type quota struct {
	*bucket
	limits access.Limits

	mu        sync.Mutex // guards the rest
	clients   map[string]*bucket
	scopeSets map[string]map[string]bool
	since     time.Time
}

// mostClients bounds the buckets of one quota: whoever may use a row for all clients may
// also invent names. The idle ones are let go then.
const mostClients = 4096

func newQuota(limits *access.Limits) *quota {
	return &quota{
		bucket: newBucket(limits.RequestsPerSecond, limits.Burst, limits.Concurrent),
		limits: *limits, clients: map[string]*bucket{}, scopeSets: map[string]map[string]bool{}, since: time.Now(),
	}
}

// enter counts a call in.
func (q *quota) enter(c *call) error {
	if err := c.enter(q.bucket, theRow); err != nil {
		return err
	}
	if client := q.ofClient(c.client); client != nil {
		return c.enter(client, theRow+", for one client,")
	}
	return nil
}

// ofClient returns what bounds the use of the row for one client; nil if nothing does.
func (q *quota) ofClient(client string) *bucket {
	l := &q.limits
	if l.ClientRequestsPerSecond == 0 && l.ClientConcurrent == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.clients[client]
	if b == nil {
		if len(q.clients) >= mostClients {
			maps.DeleteFunc(q.clients, func(_ string, b *bucket) bool { return b.underway.Load() == 0 })
		}
		b = newBucket(l.ClientRequestsPerSecond, l.ClientBurst, l.ClientConcurrent)
		q.clients[client] = b
	}
	return b
}

// askFor counts a set of scopes for a client, TOO_MANY_REQUESTS if it is one too many
// distinct ones: each is a token of its own at the authorization server.
func (q *quota) askFor(client string, scopes []string) error {
	if q.limits.ScopeSets == 0 {
		return nil
	}
	sorted := slices.Clone(scopes)
	slices.Sort(sorted)
	set := strings.Join(sorted, " ")
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if now.Sub(q.since) >= scopeSetsFor {
		q.since = now
		clear(q.scopeSets)
	}
	sets := q.scopeSets[client]
	if sets == nil {
		sets = map[string]bool{}
		q.scopeSets[client] = sets
	}
	if !sets[set] && len(sets) >= q.limits.ScopeSets {
		return tooMany(scopeSetsFor-now.Sub(q.since), theRow, "distinct sets of scopes", q.limits.ScopeSets)
	}
	sets[set] = true
	return nil
}

// theRow is what bounds a call where a limit of the access table does.
const theRow = "the row of the access table"

func tooMany(wait time.Duration, what, of string, most any) error {
	return &broker.Error{
		Reason: broker.ReasonTooManyRequests, RetryAfter: wait,
		Detail: fmt.Sprintf("%s allows %v %s", what, most, of),
	}
}
