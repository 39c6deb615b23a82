package broker

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// sweepWorkers bounds the checks that a sweep has under way.
	sweepWorkers = 16
	// sweepTells is how often a sweep says how far it is.
	sweepTells = time.Second
	// sweepExamples are how many clients a summary names for each cause.
	sweepExamples = 5
	maxSweepProbe = 100_000
)

// SweepQuery says which clients to check and how far to go.
type SweepQuery struct {
	// Filter and Shown are as in a [ListQuery].
	Filter string
	Shown  func(id string, labels map[string]string) bool
	// Depth is DepthToken at most; beyond DepthSecret Budget clients are checked so far,
	// the others down to DepthSecret.
	Depth  LookupDepth
	Budget int
	// Healthy has the reports of clients that are well too.
	Healthy bool
}

// SweepProgress is how far a sweep is.
type SweepProgress struct {
	Checked, Failed int64
	// Share of the index that was gone through, 0 to 1.
	Share float64
}

// SweepSummary is what a sweep found.
type SweepSummary struct {
	Checked, Healthy, Warned, Failed int64
	// Causes are the most frequent first.
	Causes   []SweepCause
	Duration time.Duration
	// Probes are the authorization servers that were asked.
	Probes int
}

// SweepCause is a cause and the clients that it keeps from their tokens.
type SweepCause struct {
	Reason   Reason
	Clients  int64
	Examples []string
}

// sweep is one SweepLookups.
type sweep struct {
	*Broker
	query   SweepQuery
	reports chan LookupReport

	mu      sync.Mutex // guards budget
	budget  int
	began   time.Time
	told    time.Time
	summary SweepSummary
	causes  map[Reason]*SweepCause
}

// SweepLookups checks clients and calls report for each that is not well, progress about
// once a second, both from the calling goroutine; an error of theirs ends it. One sweep
// at a time runs in a process: TOO_MANY_REQUESTS. INVALID_REQUEST, or a reason why the
// list of clients cannot be read.
func (b *Broker) SweepLookups(ctx context.Context, q SweepQuery, report func(LookupReport) error, progress func(SweepProgress) error) (SweepSummary, error) {
	switch {
	case q.Depth > DepthToken:
		return SweepSummary{}, Invalid("depth", "goes to TOKEN at most: what lies deeper costs each client one of its few wrong tries")
	case q.Budget < 0 || q.Budget > maxSweepProbe:
		return SweepSummary{}, Invalid("probe_budget", "must lie between 0 and %d", maxSweepProbe)
	case q.Depth > DepthSecret && q.Budget == 0:
		return SweepSummary{}, Invalid("probe_budget", "is required for a depth beyond SECRET: how many authorization servers may be asked")
	}
	if !b.sweeping.TryLock() {
		return SweepSummary{}, &Error{Reason: ReasonTooManyRequests, Op: "sweep", Detail: "a sweep is under way on this replica", RetryAfter: 5 * time.Second}
	}
	defer b.sweeping.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &sweep{Broker: b, query: q, reports: make(chan LookupReport, sweepWorkers), budget: q.Budget, began: time.Now(), causes: map[Reason]*SweepCause{}}
	listed := make(chan error, 1)
	share := new(sweepShare)
	go func() {
		defer close(s.reports)
		listed <- b.guarded(ctx, func() error { return s.walk(ctx, share) })
	}()
	var failed error
	for r := range s.reports {
		if failed != nil {
			continue // until the workers have noticed
		}
		if failed = s.take(r, share, report, progress); failed != nil {
			cancel()
		}
	}
	if err := <-listed; failed == nil {
		failed = err
	}
	return s.end(), failed
}

// sweepShare is how far the list is. Safe for concurrent use.
type sweepShare struct {
	mu    sync.Mutex
	share float64 // guarded by mu
}

func (s *sweepShare) set(share float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.share = max(s.share, share)
}

func (s *sweepShare) get() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.share
}

// walk lists page by page and has each client checked.
func (s *sweep) walk(ctx context.Context, share *sweepShare) error {
	jobs := make(chan *Client)
	var workers sync.WaitGroup
	for range sweepWorkers {
		workers.Go(func() {
			for c := range jobs {
				_ = s.guarded(ctx, func() error { // guarded logs what it caught
					s.send(ctx, s.check(ctx, c))
					return nil
				})
			}
		})
	}
	defer workers.Wait()
	defer close(jobs)
	list := ListQuery{PageSize: maxPageSize, Filter: s.query.Filter, Shown: s.query.Shown}
	for {
		page, err := s.ListClients(ctx, list)
		if err != nil {
			return err
		}
		for _, c := range page.Clients {
			select {
			case jobs <- c:
			case <-ctx.Done():
				return listed(ctx)
			}
		}
		for _, u := range page.Unreadable {
			w := newWalk(LookupCheck{ClientID: u.ID})
			w.fail(StageIndex, newError(u.Reason, u.ID, ""))
			s.send(ctx, w.finish())
		}
		if page.NextPageToken == "" {
			share.set(1)
			return nil
		}
		list.PageToken = page.NextPageToken
		if at, err := list.cursor(); err == nil {
			share.set(float64(idNumberOf(at.After)) / shards)
		}
	}
}

// idNumberOf is the shard of a hash, 0 to 255.
func idNumberOf(hash string) int {
	for number := range shards {
		if shardName(number) == hash[:2] {
			return number
		}
	}
	return 0
}

func (s *sweep) send(ctx context.Context, r LookupReport) {
	select {
	case s.reports <- r:
	case <-ctx.Done():
	}
}

// check walks a client as it was just read, with as much as the budget has.
func (s *sweep) check(ctx context.Context, c *Client) LookupReport {
	check := LookupCheck{ClientID: c.ID, Depth: min(s.query.Depth, DepthSecret), Permitted: s.query.Depth}
	if s.query.Depth > DepthSecret {
		s.mu.Lock()
		if s.budget > 0 {
			s.budget--
			check.Depth = s.query.Depth
		}
		s.mu.Unlock()
	}
	w := newWalk(check)
	s.walkKnown(ctx, w, c)
	return w.finish()
}

// walkKnown walks a client whose record is at hand.
func (b *Broker) walkKnown(ctx context.Context, w *walk, c *Client) {
	w.passUntil(StageIndex)
	w.add(StageIndex, OutcomePassed, "")
	b.checkClient(ctx, w, c)
}

// take counts a report and passes it on.
func (s *sweep) take(r LookupReport, share *sweepShare, report func(LookupReport) error, progress func(SweepProgress) error) error {
	s.summary.Checked++
	s.summary.Probes += min(r.Cost.TokenRequests+r.Cost.Connections, 1)
	cause, failed := r.RootCause()
	warned := slices.ContainsFunc(r.Stages, func(l LookupStage) bool { return l.Outcome == OutcomeWarned })
	switch {
	case failed:
		s.summary.Failed++
		known := s.causes[cause.Reason]
		if known == nil {
			known = &SweepCause{Reason: cause.Reason}
			s.causes[cause.Reason] = known
		}
		if known.Clients++; len(known.Examples) < sweepExamples {
			known.Examples = append(known.Examples, r.ClientID)
		}
	case warned:
		s.summary.Warned++
	default:
		s.summary.Healthy++
	}
	if failed || warned || s.query.Healthy {
		if err := report(r); err != nil {
			return err
		}
	}
	if now := time.Now(); now.Sub(s.told) >= sweepTells {
		s.told = now
		return progress(SweepProgress{s.summary.Checked, s.summary.Failed, share.get()})
	}
	return nil
}

func (s *sweep) end() SweepSummary {
	s.summary.Duration = time.Since(s.began)
	for _, cause := range s.causes {
		slices.Sort(cause.Examples)
		s.summary.Causes = append(s.summary.Causes, *cause)
	}
	slices.SortFunc(s.summary.Causes, func(a, b SweepCause) int {
		return cmp.Or(cmp.Compare(b.Clients, a.Clients), cmp.Compare(a.Reason, b.Reason))
	})
	return s.summary
}

// countUnwell checks a client down to its secret, for the census.
func (b *Broker) countUnwell(ctx context.Context, c *Client, counted *Census) error {
	if c.State() != StateActive {
		return nil
	}
	w := newWalk(LookupCheck{ClientID: c.ID, Depth: DepthSecret, Permitted: DepthSecret})
	b.walkKnown(ctx, w, c)
	cause, failed := w.finish().RootCause()
	if !failed {
		return nil
	}
	if err := (&Error{Reason: cause.Reason}); outage(err) || cause.Reason == ReasonStoreSealed {
		return err
	}
	if counted.Unwell == nil {
		counted.Unwell = map[Reason]int{}
	}
	counted.Unwell[cause.Reason]++
	return nil
}
