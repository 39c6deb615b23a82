package broker

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// checkSecrets walks the stages of the current secret, then looks at the others.
func (b *Broker) checkSecrets(ctx context.Context, w *walk, c *Client) SecretVersion {
	if !c.needsSecret() {
		w.add(StageSecretPresent, OutcomePassed, "", "the client has none: its authentication method is "+string(NoAuthentication))
		for _, stage := range []string{StageSecretIntact, StageSecretFit, StageDestination, StageOtherSecrets} {
			w.add(stage, OutcomeSkipped, "")
		}
		none, _ := c.minting()
		return none
	}
	current, ok := c.Staged(Current)
	if !ok {
		w.add(StageSecretPresent, OutcomeFailed, ReasonSecretNotSet)
		return current
	}
	value, err := b.readSecret(ctx, c, current)
	if err != nil {
		w.fail(StageSecretPresent, err)
		return current
	}
	defer value.Wipe()
	w.add(StageSecretPresent, OutcomePassed, "", fmt.Sprintf("version %d at %s", current.Number, c.place(current)))
	if b.writtenOver(ctx, c, current) {
		w.add(StageSecretIntact, OutcomeWarned, ReasonSecretChangedOutside,
			"somebody wrote another value over "+c.place(current)+" by hand; tokens are got with the one that was staged, until that is pushed out")
	} else {
		w.add(StageSecretIntact, OutcomePassed, "", current.Fingerprint)
	}
	switch err := b.checkSecret(c.Upstream.secretUse(), value); {
	case err != nil:
		w.fail(StageSecretFit, err)
		return current
	case !current.ExpireTime.IsZero() && current.ExpireTime.Before(time.Now()):
		w.add(StageSecretFit, OutcomeWarned, ReasonSecretExpired, "declared to expire at "+current.ExpireTime.Format(time.RFC3339))
	default:
		if doubts := secretDoubts(c, value); len(doubts) > 0 {
			w.add(StageSecretFit, OutcomeWarned, ReasonSecretDoubtful, doubts...)
			break
		}
		w.add(StageSecretFit, OutcomePassed, "", "it is "+age(w.report.Time.Sub(current.CreateTime))+" old")
	}
	if err := checkBound(c, current); err != nil {
		w.fail(StageDestination, err)
		return current
	}
	w.add(StageDestination, OutcomePassed, "", "bound to "+strings.Join(current.Destinations, " "))
	b.checkOtherSecrets(ctx, w, c)
	return current
}

// writtenOver reports whether a later value lies over one of c's, as people leave it who
// write to the store by hand: it is not used, and pushes the right one out in the end.
func (b *Broker) writtenOver(ctx context.Context, c *Client, version SecretVersion) bool {
	if !version.Reference.IsZero() {
		return false // its owner may write what they will
	}
	value, err := b.latestValue(ctx, c, version)
	value.Wipe()
	return err == nil || ReasonOf(err) == ReasonRecordCorrupt || ReasonOf(err) == ReasonRecordDeleted
}

// checkOtherSecrets warns of a pending or previous version that could not be used, or a
// later one of the owner's that this replica could not take over: no lookup needs it
// today, a promotion or roll-back would.
func (b *Broker) checkOtherSecrets(ctx context.Context, w *walk, c *Client) {
	var evidence []string
	var reason Reason
	if err := b.follows.last(c.UID); err != nil {
		reason = ReasonOf(err)
		evidence = append(evidence, "the owner's latest version of the current secret is not taken over: "+AsError(err).Detail)
	}
	for _, stage := range []Stage{Pending, Previous} {
		version, ok := c.Staged(stage)
		if !ok {
			continue
		}
		value, err := b.readSecret(ctx, c, version)
		value.Wipe()
		if err != nil {
			reason = ReasonOf(err)
			evidence = append(evidence, fmt.Sprintf("%s: %s", stage, AsError(err).Detail))
		}
	}
	if reason != "" {
		w.add(StageOtherSecrets, OutcomeWarned, reason, evidence...)
		return
	}
	w.add(StageOtherSecrets, OutcomePassed, "")
}
