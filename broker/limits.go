package broker

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// IssueBudget bounds how many tokens an authorization server issues to a client. The
// zero IssueBudget is no bound.
type IssueBudget struct {
	// Tokens is how many are issued in a Period, 1 to 1,000.
	Tokens int `json:"tokens"`
	// Period is the length of a sliding window, 1 s to 31 days.
	Period time.Duration `json:"period"`
}

// IsZero reports whether there is no bound.
func (b IssueBudget) IsZero() bool { return b == IssueBudget{} }

const (
	maxBudgetTokens = 1000
	maxBudgetPeriod = 31 * 24 * time.Hour
	maxLiveTokens   = 1000
	// maxNoted bounds the tokens that a record lists: budgets are less.
	maxNoted = 1200
)

// limited reports whether the authorization server bounds the client's tokens, so
// that one more may cost what others still need: no token is then refreshed before
// its end, and no request repeated that may have been answered.
func (u Upstream) limited() bool { return !u.IssueBudget.IsZero() || u.united() }

// united reports whether all callers share one token with all scopes and resources
// of the client, because each other one would be one more.
func (u Upstream) united() bool { return u.SingleActiveToken || u.MaxLiveTokens > 0 }

// rejectionHold is how long after a token was had a report that it is rejected leads
// to no other one: its callers must not spend the budget of a period in a minute.
func (u Upstream) rejectionHold() time.Duration {
	if u.IssueBudget.IsZero() {
		return holdDown
	}
	return max(holdDown, u.IssueBudget.Period/time.Duration(u.IssueBudget.Tokens))
}

func checkLimits(v *violations, prefix string, u Upstream) {
	if b := u.IssueBudget; !b.IsZero() && (b.Tokens < 1 || b.Tokens > maxBudgetTokens || b.Period < time.Second || b.Period > maxBudgetPeriod) {
		v.add(prefix+"issue_budget", "takes 1 to %d tokens in a period of 1s to %v", maxBudgetTokens, maxBudgetPeriod)
	}
	if u.MaxLiveTokens < 0 || u.MaxLiveTokens > maxLiveTokens {
		v.add(prefix+"max_live_tokens", "must lie between 0 and %d", maxLiveTokens)
	}
	if u.SingleActiveToken && u.MaxLiveTokens > 0 {
		v.add(prefix+"max_live_tokens", "must be 0 with single_active_token, which says more")
	}
	if u.SingleActiveToken && len(u.AllowedAudiences) > 0 {
		v.add(prefix+"allowed_audiences", "must be empty with single_active_token: the one token has one audience")
	}
}

// issuedToken is one token that was, or may have been, issued to a limited client.
type issuedToken struct {
	// ID tells the entries of one record apart.
	ID         string    `json:"id"`
	Time       time.Time `json:"time"`
	ExpireTime time.Time `json:"expire_time"`
}

// spend notes a token of a limited client before it is asked for, so that replicas
// together stay within the limits, and returns the entry's ID.
// ISSUANCE_BUDGET_SPENT, LIVE_TOKENS_SPENT, or a reason of the store.
func (b *Broker) spend(ctx context.Context, c *Client) (string, error) {
	if c.Upstream.IssueBudget.IsZero() && c.Upstream.MaxLiveTokens == 0 {
		return "", nil
	}
	entry := issuedToken{ID: newID()[:8]}
	_, err := b.changeUpstream(ctx, c, func(r *upstreamRecord) (bool, error) {
		now := time.Now().UTC()
		if err := r.room(c, now); err != nil {
			return false, err
		}
		lifetime := orDefault(r.Lifetime, orDefault(c.TokenPolicy.AssumedLifetime, defaultAssumedLifetime))
		entry.Time, entry.ExpireTime = now, now.Add(lifetime)
		r.Issued = append(r.Issued, entry)
		return true, nil
	})
	return entry.ID, err
}

// room forgets what counts no more and reports whether one more token may be had.
func (r *upstreamRecord) room(c *Client, now time.Time) error {
	budget := c.Upstream.IssueBudget
	r.Issued = slices.DeleteFunc(r.Issued, func(i issuedToken) bool {
		return now.Sub(i.Time) >= budget.Period && !i.ExpireTime.After(now)
	})
	var inPeriod, live int
	var budgetFrees, lifeEnds time.Time
	for _, i := range r.Issued {
		if frees := i.Time.Add(budget.Period); frees.After(now) {
			inPeriod++
			budgetFrees = earlier(budgetFrees, frees)
		}
		if i.ExpireTime.After(now) {
			live++
			lifeEnds = earlier(lifeEnds, i.ExpireTime)
		}
	}
	refuse := func(reason Reason, frees time.Time, detail string) error {
		e := newError(reason, c.ID, "%s; the next one at %s", detail, frees.Format(time.RFC3339))
		e.RetryAfter = frees.Sub(now)
		return e
	}
	switch {
	case !budget.IsZero() && inPeriod >= budget.Tokens:
		return refuse(ReasonIssuanceBudgetSpent, budgetFrees, fmt.Sprintf("%d tokens were asked for in %v", inPeriod, budget.Period))
	case c.Upstream.MaxLiveTokens > 0 && live >= c.Upstream.MaxLiveTokens:
		return refuse(ReasonLiveTokensSpent, lifeEnds, fmt.Sprintf("%d tokens live", live))
	}
	return nil
}

// settle corrects what spend noted once it is known what became of it: a refusal
// issued nothing, and a token says how long it lives. A store that fails leaves the
// note as it was, which errs to the side of fewer requests.
func (b *Broker) settle(ctx context.Context, c *Client, id string, token *Token, err error) {
	refused := err != nil && answered(ReasonOf(err)) && !transient(ReasonOf(err))
	if id == "" || !refused && (token == nil || c.Upstream.MaxLiveTokens == 0) {
		return
	}
	_, err = b.changeUpstream(ctx, c, func(r *upstreamRecord) (bool, error) {
		i := slices.IndexFunc(r.Issued, func(i issuedToken) bool { return i.ID == id })
		switch {
		case i < 0:
			return false, nil
		case refused:
			r.Issued = slices.Delete(r.Issued, i, i+1)
		default:
			r.Issued[i].ExpireTime, r.Lifetime = token.ExpireTime.UTC(), token.lifetime()
		}
		return true, nil
	})
	if err != nil {
		b.log.WarnContext(ctx, "the note of an issued token was not corrected", "client", c.ID, "reason", ReasonOf(err))
	}
}

// noteIssued notes a token that came with a user's consent. It refuses nothing: whoever has
// consented is not asked to do so again because a budget is spent.
func (b *Broker) noteIssued(ctx context.Context, c *Client, token *Token) {
	if token == nil || c.Upstream.IssueBudget.IsZero() && c.Upstream.MaxLiveTokens == 0 {
		return
	}
	entry := issuedToken{ID: newID()[:8], Time: time.Now().UTC(), ExpireTime: token.ExpireTime.UTC()}
	_, err := b.changeUpstream(ctx, c, func(r *upstreamRecord) (bool, error) {
		_ = r.room(c, entry.Time) // forgets what counts no more
		if len(r.Issued) >= maxNoted {
			return false, nil
		}
		r.Issued = append(r.Issued, entry)
		return true, nil
	})
	if err != nil {
		b.log.WarnContext(ctx, "a token that came with a consent is not counted", "client", c.ID, "reason", ReasonOf(err))
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return fallback
}
