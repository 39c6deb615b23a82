package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// maxUsageCallers, maxUsageVersions (of each) and maxUsageFailures bound a record.
	maxUsageCallers  = 200
	maxUsageVersions = 8
	maxUsageFailures = 20
	// forgetUsageAfter is how long after its last use a caller is forgotten.
	forgetUsageAfter = 90 * 24 * time.Hour
	// maxUsageAhead is how far ahead of ours a clock may be that wrote a time; what is
	// later than that would never be forgotten.
	maxUsageAhead = 24 * time.Hour
)

// usageRecord is what replicas tell each other of the use of one client. It is advice:
// nothing that gets, changes or refuses a token reads it.
type usageRecord struct {
	header
	// Callers are by last use, latest first.
	Callers []usedCaller `json:"callers,omitempty"`
	// Failures are by last time, latest first.
	Failures []UsageFailure `json:"failures,omitempty"`
	// Ends are the ages at which tokens were lately reported as rejected, latest first.
	Ends []tokenEnd `json:"ends,omitempty"`
	// ExpiryTold is what somebody was told of the expiry of a secret; nil if nothing.
	ExpiryTold *toldExpiry `json:"expiry_told,omitempty"`
}

type usedCaller struct {
	Caller string `json:"caller"`
	// Versions are by last use, latest first; never empty.
	Versions []usedVersion `json:"versions"`
}

type usedVersion struct {
	Version int64     `json:"version"`
	Time    time.Time `json:"time"`
}

func usageKey(uid string) string { return "usage/" + uid }

// readUsage reads the record of a client; the zero record if there is none.
func (b *Broker) readUsage(ctx context.Context, id, uid string) (*usageRecord, uint64, error) {
	key := usageKey(uid)
	record, err := b.read(ctx, key)
	var absent *AbsentError
	switch {
	case errors.As(err, &absent) && absent.How == AbsentDestroyed: // the client was purged
		return nil, 0, fmt.Errorf("read the usage record: %w", err)
	case errors.As(err, &absent):
		return &usageRecord{header: header{UID: uid}}, absent.Version, nil
	case err != nil:
		return nil, 0, fmt.Errorf("read the usage record: %w", err)
	}
	r := &usageRecord{}
	if err := decode(key, record, r); err != nil {
		return nil, 0, fmt.Errorf("read the usage record: %w", err)
	}
	if r.UID != uid {
		return nil, 0, newError(ReasonRecordCorrupt, id, "%s: holds the record of another client", key)
	}
	r.Callers = slices.DeleteFunc(r.Callers, func(c usedCaller) bool { return len(c.Versions) == 0 })
	return r, record.Version, nil
}

// changeUsage lets edit change a client's record and commits what it made if edit says
// that there is something to commit.
func (b *Broker) changeUsage(ctx context.Context, id, uid string, edit func(*usageRecord) bool) error {
	const tries = 8
	var err error
	for try, wait := 0, pollBegin; try < tries; try, wait = try+1, min(2*wait, pollMost) {
		r, version, readErr := b.readUsage(ctx, id, uid)
		if readErr != nil {
			return readErr
		}
		if !edit(r) {
			return nil
		}
		if _, err = b.write(ctx, usageKey(uid), version, &r.header, r); err == nil {
			return nil
		}
		if ReasonOf(err) != ReasonStoreConflict || !sleep(ctx, wait) {
			break
		}
	}
	return fmt.Errorf("write the usage record: %w", err)
}

// take merges what one replica knows, and reports whether any of it is new. What is too
// old goes, which by itself is nothing new.
func (r *usageRecord) take(news unmerged, now time.Time) bool {
	r.bound(now)
	fresh := len(news.failures)+len(news.ends) > 0
	r.Ends = latestEnds(append(slices.Clip(r.Ends), news.ends...))
	for _, use := range news.uses {
		fresh = r.takeUse(use) || fresh
	}
	for _, f := range news.failures {
		r.takeFailure(f)
	}
	r.bound(now)
	return fresh
}

func (r *usageRecord) takeUse(use noticedUse) bool {
	i := slices.IndexFunc(r.Callers, func(c usedCaller) bool { return c.Caller == use.caller })
	if i < 0 {
		r.Callers = append(r.Callers, usedCaller{use.caller, []usedVersion{{use.version, use.at}}})
		return true
	}
	versions := &r.Callers[i].Versions
	j := slices.IndexFunc(*versions, func(v usedVersion) bool { return v.Version == use.version })
	switch {
	case j < 0:
		*versions = append(*versions, usedVersion{use.version, use.at})
	case use.at.After((*versions)[j].Time):
		(*versions)[j].Time = use.at
	default:
		return false
	}
	return true
}

func (r *usageRecord) takeFailure(f UsageFailure) {
	i := slices.IndexFunc(r.Failures, func(k UsageFailure) bool {
		return k.Reason == f.Reason && k.SecretVersion == f.SecretVersion
	})
	if i < 0 {
		r.Failures = append(r.Failures, f)
		return
	}
	known := &r.Failures[i]
	known.Count += f.Count
	if f.FirstTime.Before(known.FirstTime) {
		known.FirstTime = f.FirstTime
	}
	if f.LastTime.After(known.LastTime) {
		known.LastTime = f.LastTime
	}
}

// bound sorts, and drops what is too old or too much.
func (r *usageRecord) bound(now time.Time) {
	old, latest := now.Add(-forgetUsageAfter), now.Add(maxUsageAhead)
	clamp := func(t *time.Time) {
		if t.After(latest) {
			*t = now.UTC().Truncate(useQuantum)
		}
	}
	for i := range r.Callers {
		versions := &r.Callers[i].Versions
		for j := range *versions {
			clamp(&(*versions)[j].Time)
		}
		*versions = slices.DeleteFunc(*versions, func(v usedVersion) bool { return v.Time.Before(old) })
		slices.SortFunc(*versions, func(a, b usedVersion) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.Version, a.Version)) })
		*versions = (*versions)[:min(len(*versions), maxUsageVersions)]
	}
	r.Callers = slices.DeleteFunc(r.Callers, func(c usedCaller) bool { return len(c.Versions) == 0 })
	slices.SortFunc(r.Callers, func(a, b usedCaller) int {
		return cmp.Or(b.Versions[0].Time.Compare(a.Versions[0].Time), cmp.Compare(a.Caller, b.Caller))
	})
	r.Callers = r.Callers[:min(len(r.Callers), maxUsageCallers)]
	for i := range r.Failures {
		clamp(&r.Failures[i].FirstTime)
		clamp(&r.Failures[i].LastTime)
	}
	r.Failures = slices.DeleteFunc(r.Failures, func(f UsageFailure) bool { return f.LastTime.Before(old) })
	slices.SortFunc(r.Failures, func(a, b UsageFailure) int {
		return cmp.Or(b.LastTime.Compare(a.LastTime), cmp.Compare(a.Reason, b.Reason), cmp.Compare(b.SecretVersion, a.SecretVersion))
	})
	r.Failures = r.Failures[:min(len(r.Failures), maxUsageFailures)]
}

// usage is the record in the form in which it is shown.
func (r *usageRecord) usage() Usage {
	shown := Usage{Failures: r.Failures, ends: r.Ends}
	last := map[int64]time.Time{}
	for _, c := range r.Callers {
		for _, v := range c.Versions {
			shown.Callers = append(shown.Callers, CallerUse{c.Caller, v.Version, v.Time})
			if v.Time.After(last[v.Version]) {
				last[v.Version] = v.Time
			}
		}
	}
	slices.SortStableFunc(shown.Callers, func(a, b CallerUse) int { return b.LastUseTime.Compare(a.LastUseTime) })
	for version, at := range last {
		shown.Versions = append(shown.Versions, VersionUse{version, at})
	}
	slices.SortFunc(shown.Versions, func(a, b VersionUse) int { return cmp.Compare(a.Number, b.Number) })
	return shown
}
