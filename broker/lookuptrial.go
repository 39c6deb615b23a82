package broker

import (
	"context"
	"slices"
	"time"
)

// trialDay is the window in which wrong tries are counted.
const trialDay = 24 * time.Hour

// wrongTry is one try with a missing or wrong credential, or by another method: servers
// lock clients out for too many.
type wrongTry struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
}

// spendTry notes a wrong try of c before it is made, in the whole fleet, and reports how
// many are left: CHECK_BUDGET_SPENT if none was.
func (b *Broker) spendTry(ctx context.Context, w *walk, c *Client) error {
	left := 0
	id := newID()[:8]
	_, err := b.changeUpstream(ctx, c, func(r *upstreamRecord) (bool, error) {
		now := time.Now().UTC()
		if slices.ContainsFunc(r.WrongTries, func(t wrongTry) bool { return t.ID == id }) { // an answer was lost
			return false, nil
		}
		r.WrongTries = slices.DeleteFunc(r.WrongTries, func(t wrongTry) bool { return now.Sub(t.Time) >= trialDay })
		left = b.wrongTries - len(r.WrongTries)
		if left <= 0 {
			e := newError(ReasonCheckBudgetSpent, c.ID, "%d in the last day, the next one at %s", len(r.WrongTries), nextTry(r.WrongTries))
			return false, e
		}
		r.WrongTries = append(r.WrongTries, wrongTry{ID: id, Time: now})
		return true, nil
	})
	if err != nil {
		w.report.Cost.WrongTriesLeft = 0
		return err
	}
	w.report.Cost.WrongTries++
	w.report.Cost.WrongTriesLeft = left - 1
	return nil
}

func nextTry(tries []wrongTry) string {
	if len(tries) == 0 {
		return "no time: none is allowed"
	}
	return tries[0].Time.Add(trialDay).Format(time.RFC3339)
}

// harms says why wrong tries must not be made with c; "" if they may.
func (b *Broker) harms(c *Client) string {
	u := c.Upstream
	switch {
	case u.SingleActiveToken:
		return "the client has one active token, which another one might end"
	case u.MaxLiveTokens > 0:
		return "the client's live tokens are limited"
	case !u.IssueBudget.IsZero():
		return "the client has a budget of tokens"
	}
	if provider, ok := b.providerOf(c); ok && provider.LocksOut {
		return "the provider locks clients out after wrong tries"
	}
	return ""
}
