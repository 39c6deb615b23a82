package broker_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// sweep runs a sweep and returns its reports by client.
func (f *fixture) sweep(t *testing.T, q broker.SweepQuery) (map[string]broker.LookupReport, broker.SweepSummary) {
	t.Helper()
	reports := map[string]broker.LookupReport{}
	var last broker.SweepProgress
	summary, err := f.SweepLookups(t.Context(), q,
		func(r broker.LookupReport) error { reports[r.ClientID] = r; return nil },
		func(p broker.SweepProgress) error {
			if p.Checked < last.Checked || p.Share < last.Share || p.Share > 1 {
				t.Errorf("progress went from %+v to %+v", last, p)
			}
			last = p
			return nil
		})
	if err != nil {
		t.Fatalf("SweepLookups: %v", err)
	}
	return reports, summary
}

// TestSweepLookups finds those that are not well among many, and counts by cause.
func TestSweepLookups(t *testing.T) {
	p := newProbed(t, nil)
	for i := range 60 {
		id := fmt.Sprintf("client-%02d", i)
		c := p.create(t, id, func(n *broker.NewClient) { n.Labels = map[string]string{"half": fmt.Sprint(i % 2)} })
		switch i {
		case 3, 4, 5:
			p.memory.Remove("secrets/"+id+"/"+c.UID+"-1", broker.AbsentDestroyed)
		case 6:
			_, _ = p.SetDisabled(t.Context(), id, true)
		case 7:
			p.memory.Put(keyOfClient(t, p.memory, id), "{}")
		}
	}
	reports, summary := p.sweep(t, broker.SweepQuery{Depth: broker.DepthSecret})
	if summary.Checked != 60 || summary.Failed != 5 || summary.Healthy != 55 || len(reports) != 5 {
		t.Errorf("summary = %+v with %d reports, want 5 of 60 failed", summary, len(reports))
	}
	if len(summary.Causes) != 3 || summary.Causes[0].Reason != broker.ReasonSecretDestroyed || summary.Causes[0].Clients != 3 ||
		!slices.Equal(summary.Causes[0].Examples, []string{"client-03", "client-04", "client-05"}) {
		t.Errorf("causes = %+v, want SECRET_DESTROYED of three first", summary.Causes)
	}
	if len(p.asked) != 0 {
		t.Errorf("%d requests by a shallow sweep", len(p.asked))
	}
	_, odd := p.sweep(t, broker.SweepQuery{Filter: "labels.half=1", Shown: func(id string, _ map[string]string) bool { return id != "client-07" }})
	if odd.Checked != 29 {
		t.Errorf("a filter left %d clients, want 29", odd.Checked)
	}
	reports, deep := p.sweep(t, broker.SweepQuery{Depth: broker.DepthToken, Budget: 10, Healthy: true})
	if deep.Probes > 10 || len(p.asked) > 10 || len(p.asked) < 5 || len(reports) != 60 {
		t.Errorf("%d probes and %d requests with a budget of 10, %d reports of 60", deep.Probes, len(p.asked), len(reports))
	}
}

// TestSweepRefusals of what would cost too much.
func TestSweepRefusals(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	nothing := func(broker.LookupReport) error { return nil }
	still := func(broker.SweepProgress) error { return nil }
	for name, q := range map[string]broker.SweepQuery{
		"too deep": {Depth: broker.DepthEnforcement, Budget: 1}, "no budget": {Depth: broker.DepthToken}, "bad filter": {Filter: "x"},
	} {
		_, err := f.SweepLookups(t.Context(), q, nothing, still)
		wantReason(t, name, err, broker.ReasonInvalidRequest)
	}
	_, err := f.SweepLookups(t.Context(), broker.SweepQuery{Healthy: true}, func(broker.LookupReport) error {
		_, err := f.SweepLookups(t.Context(), broker.SweepQuery{}, nothing, still)
		wantReason(t, "a second sweep", err, broker.ReasonTooManyRequests)
		return err
	}, still)
	wantReason(t, "a sweep that its reader ends", err, broker.ReasonTooManyRequests)
	f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
	_, err = f.SweepLookups(t.Context(), broker.SweepQuery{}, nothing, still)
	wantReason(t, "a sweep without a store", err, broker.ReasonStoreUnreachable)
}

// TestSweepIsBounded has no more checks under way than it says.
func TestSweepIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var underWay, most atomic.Int64
		p := newProbed(t, func(cfg *broker.Config) {
			next := cfg.RequestToken
			cfg.RequestToken = func(ctx context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
				most.Store(max(most.Load(), underWay.Add(1)))
				defer underWay.Add(-1)
				time.Sleep(time.Second)
				return next(ctx, req)
			}
		})
		for i := range 100 {
			p.create(t, fmt.Sprintf("c%d", i))
		}
		p.sweep(t, broker.SweepQuery{Depth: broker.DepthToken, Budget: 100})
		if most.Load() != 16 || len(p.asked) != 100 {
			t.Errorf("%d checks under way and %d requests, want 16 and 100", most.Load(), len(p.asked))
		}
	})
}

// TestCensusCountsUnwell: what the crawler sees feeds metrics.
func TestCensusCountsUnwell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "well")
		c := f.create(t, "unwell")
		f.memory.Remove("secrets/unwell/"+c.UID+"-1", broker.AbsentDestroyed)
		f.run(t)
		time.Sleep(2 * time.Hour)
		if got := f.Census().Unwell; got[broker.ReasonSecretDestroyed] != 1 || len(got) != 1 {
			t.Errorf("census = %v, want one SECRET_DESTROYED", got)
		}
	})
}
