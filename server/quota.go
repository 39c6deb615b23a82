package server

import (
	"fmt"
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

// quotas counts what the limits of access rows bound. Counts belong to one generation
// of the table: a new one starts them afresh. Safe for concurrent use.
type quotas struct {
	mu     sync.Mutex // guards the rest
	table  *access.Table
	counts map[*access.Limits]*quota
}

// of returns the count of limits, which are those of one caller and row of table.
func (q *quotas) of(table *access.Table, limits *access.Limits) *quota {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.table != table {
		q.table, q.counts = table, map[*access.Limits]*quota{}
	}
	count := q.counts[limits]
	if count == nil {
		count = newQuota(limits)
		q.counts[limits] = count
	}
	return count
}

// quota counts one caller's use of one row. Safe for concurrent use.
type quota struct {
	limits   access.Limits
	rate     *rate.Limiter // nil for no bound
	underway atomic.Int64

	mu        sync.Mutex // guards the next two
	scopeSets map[string]map[string]bool
	since     time.Time
}

func newQuota(limits *access.Limits) *quota {
	q := &quota{limits: *limits, scopeSets: map[string]map[string]bool{}, since: time.Now()}
	if limits.RequestsPerSecond > 0 {
		burst := limits.Burst
		if burst == 0 {
			burst = int(limits.RequestsPerSecond) + 1
		}
		q.rate = rate.NewLimiter(rate.Limit(limits.RequestsPerSecond), burst)
	}
	return q
}

// enter counts a call in, TOO_MANY_REQUESTS if it is one too many. The caller calls
// leave when the call is over.
func (q *quota) enter() error {
	if most := int64(q.limits.Concurrent); q.underway.Add(1) > most && most > 0 {
		q.leave()
		return tooMany(time.Second, "calls at once", most)
	}
	if q.rate == nil {
		return nil
	}
	now := time.Now()
	reserved := q.rate.ReserveN(now, 1)
	if wait := reserved.DelayFrom(now); wait > 0 {
		reserved.CancelAt(now)
		q.leave()
		return tooMany(wait, "calls a second", q.limits.RequestsPerSecond)
	}
	return nil
}

func (q *quota) leave() { q.underway.Add(-1) }

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
		return tooMany(scopeSetsFor-now.Sub(q.since), "distinct sets of scopes", q.limits.ScopeSets)
	}
	sets[set] = true
	return nil
}

func tooMany(wait time.Duration, what string, most any) error {
	return &broker.Error{
		Reason: broker.ReasonTooManyRequests, RetryAfter: wait,
		Detail: fmt.Sprintf("the row of the access table allows %v %s", most, what),
	}
}
