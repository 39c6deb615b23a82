package broker

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
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

// mayBeMethod are refusals by which servers mean, among other things, that a secret came
// by a method that they do not take: some call it a malformed request, some say nothing.
var mayBeMethod = []Reason{ReasonClientRejected, ReasonRequestRejected, ReasonUpstreamRefused}

// tryOtherMethod tries whether the server takes the secret by another method, as far as
// wrong tries are left. It returns AUTHENTICATION_METHOD_WRONG if one does, and what was
// seen.
func (b *Broker) tryOtherMethod(ctx context.Context, w *walk, c *Client, current SecretVersion, value secret.Value, key tokenKey) (Reason, []string) {
	methods := otherMethods(c.Upstream.Authentication.Method, c.Upstream.ClientID, value)
	if why := b.harms(c); len(methods) == 0 || why != "" {
		return "", nil
	}
	var evidence []string
	for _, method := range methods {
		if err := b.spendTry(ctx, w, c); err != nil {
			if len(evidence) == 0 {
				evidence = append(evidence, "other methods were not tried: "+AsError(err).Detail)
			}
			return "", evidence
		}
		other := c.clone()
		other.Upstream.Authentication = Authentication{Method: method}
		token, err := b.askOnce(ctx, other, current, value, key)
		if err == nil {
			b.dropToken(ctx, other, current, value, token.AccessToken)
			return ReasonAuthenticationMethodWrong, []string{fmt.Sprintf("by %s the same secret gets a token", method)}
		}
		evidence = append(evidence, fmt.Sprintf("by %s it is refused too (%s)", method, ReasonOf(err)))
	}
	return "", evidence
}

// otherMethods are what else a client secret may be sent by, the likeliest first. The two
// forms of Basic are one where the form-encoding (RFC 6749 §2.3.1) changes nothing.
func otherMethods(method AuthenticationMethod, clientID string, value secret.Value) []AuthenticationMethod {
	var others []AuthenticationMethod
	switch method {
	case ClientSecretBasic:
		others = []AuthenticationMethod{ClientSecretPost, ClientSecretBasicRaw}
	case ClientSecretBasicRaw:
		others = []AuthenticationMethod{ClientSecretBasic, ClientSecretPost}
	case ClientSecretPost:
		others = []AuthenticationMethod{ClientSecretBasic, ClientSecretBasicRaw}
	}
	text := clientID + value.RevealString()
	if url.QueryEscape(text) != text {
		return others
	}
	twin := ClientSecretBasicRaw
	if method == ClientSecretBasicRaw {
		twin = ClientSecretBasic
	}
	return slices.DeleteFunc(others, func(m AuthenticationMethod) bool { return m == twin })
}

// guessable reports whether a method sends, or signs with, a secret that others could
// guess, and not a key.
func guessable(method AuthenticationMethod) bool {
	return slices.Contains([]AuthenticationMethod{ClientSecretBasic, ClientSecretBasicRaw, ClientSecretPost, ClientSecretJWT}, method)
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
