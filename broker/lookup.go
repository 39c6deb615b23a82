package broker

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// LookupDepth says how far a check goes.
type LookupDepth int

// The depths; each includes those before it.
const (
	// DepthIndex reads the client's record.
	DepthIndex LookupDepth = iota
	// DepthSecret reads the secret's value too.
	DepthSecret
)

// Outcome is what came of a stage.
type Outcome string

// The outcomes.
const (
	OutcomePassed  Outcome = "passed"
	OutcomeWarned  Outcome = "warned"
	OutcomeFailed  Outcome = "failed"
	OutcomeSkipped Outcome = "skipped"
)

// The stages, in the order in which a cold lookup takes them.
const (
	StageStoreReachable     = "STORE_REACHABLE"
	StageStoreUnsealed      = "STORE_UNSEALED"
	StageStoreAuthenticated = "STORE_AUTHENTICATED"
	StageStoreUsable        = "STORE_USABLE"
	StageStorePermitted     = "STORE_PERMITTED"
	StageIndex              = "INDEX"
	StageClientState        = "CLIENT_STATE"
	StageSecretPresent      = "SECRET_PRESENT"
	StageSecretIntact       = "SECRET_INTACT"
	StageSecretFit          = "SECRET_FIT"
	StageDestination        = "DESTINATION_BOUND"
	StageOtherSecrets       = "OTHER_SECRETS"
)

// LookupStages lists the names of all stages in order.
func LookupStages() []string {
	return []string{
		StageStoreReachable, StageStoreUnsealed, StageStoreAuthenticated, StageStoreUsable, StageStorePermitted,
		StageIndex, StageClientState, StageSecretPresent, StageSecretIntact, StageSecretFit, StageDestination, StageOtherSecrets,
	}
}

// stageOf says at which link of the chain a reason breaks it. A reason that is not
// here broke the link that was being tried.
var stageOf = map[Reason]string{
	ReasonStoreUnreachable: StageStoreReachable, ReasonStoreStandby: StageStoreReachable, ReasonStoreRateLimited: StageStoreReachable,
	ReasonStoreFailed: StageStoreReachable, ReasonStoreLocked: StageStoreReachable,
	ReasonStoreSealed:      StageStoreUnsealed,
	ReasonStoreLoginFailed: StageStoreAuthenticated, ReasonStoreTokenDead: StageStoreAuthenticated, ReasonStoreKeyWrong: StageStoreAuthenticated,
	ReasonStoreMountMissing: StageStoreUsable, ReasonStoreNotKV2: StageStoreUsable, ReasonStoreExpiresRecords: StageStoreUsable,
	ReasonStoreForeignData: StageStoreUsable, ReasonStoreDamaged: StageStoreUsable,
	ReasonStorePermissionDenied: StageStorePermitted,
	ReasonSecretChangedOutside:  StageSecretIntact, ReasonRecordCorrupt: StageSecretIntact,
	ReasonRecordFieldMissing: StageSecretIntact, ReasonRecordSchemaNewer: StageSecretIntact,
}

// LookupStage is one link of the chain.
type LookupStage struct {
	Name    string
	Outcome Outcome
	// Reason is "" when passed.
	Reason Reason
	// Evidence is what was seen, without secrets.
	Evidence []string
	Remedy   string
	Duration time.Duration
}

// LookupReport is what a check saw.
type LookupReport struct {
	Stages []LookupStage
}

// RootCause returns the first stage that failed.
func (r LookupReport) RootCause() (LookupStage, bool) {
	for _, s := range r.Stages {
		if s.Outcome == OutcomeFailed {
			return s, true
		}
	}
	return LookupStage{}, false
}

// walk builds a report: stages pass, warn or fail in order, and what lies behind a
// failure is skipped.
type walk struct {
	report  LookupReport
	started time.Time
	failed  bool
}

func (w *walk) add(name string, outcome Outcome, reason Reason, evidence ...string) {
	now := time.Now()
	stage := LookupStage{Name: name, Outcome: outcome, Reason: reason, Evidence: evidence, Duration: now.Sub(w.started)}
	if reason != "" {
		stage.Remedy = reason.Info().Remedy
	}
	w.started = now
	w.failed = w.failed || outcome == OutcomeFailed
	w.report.Stages = append(w.report.Stages, stage)
}

// passUntil passes the stages before name that are not in the report yet.
func (w *walk) passUntil(name string) {
	for _, stage := range LookupStages()[len(w.report.Stages):] {
		if stage == name {
			return
		}
		w.add(stage, OutcomePassed, "")
	}
}

// fail marks the stage that err broke, passing those before it; at is the one
// that was being tried.
func (w *walk) fail(at string, err error) {
	e := AsError(err)
	stage, ok := stageOf[e.Reason]
	// A store is found unusable by whatever is asked of it first; what a record
	// holds breaks the link that needed that record.
	ofStore := indexOf(stage) <= indexOf(StageStorePermitted)
	if !ok || indexOf(stage) < len(w.report.Stages) || !ofStore && indexOf(at) < indexOf(StageSecretPresent) {
		stage = at
	}
	w.passUntil(stage)
	w.add(stage, OutcomeFailed, e.Reason, evidenceOf(e)...)
}

func indexOf(stage string) int {
	for i, name := range LookupStages() {
		if name == stage {
			return i
		}
	}
	return -1
}

func evidenceOf(e *Error) []string {
	if e.Detail == "" {
		return nil
	}
	return []string{e.Detail}
}

// finish skips what was not reached and returns the report.
func (w *walk) finish() LookupReport {
	for _, stage := range LookupStages()[len(w.report.Stages):] {
		w.add(stage, OutcomeSkipped, "")
	}
	return w.report
}

// CheckLookup walks a lookup of the client stage by stage and reports each. It
// changes nothing and asks no authorization server. Its only error is
// INVALID_REQUEST; what else is wrong stands in the report.
func (b *Broker) CheckLookup(ctx context.Context, id string, depth LookupDepth) (LookupReport, error) {
	if err := CheckID("client", id); err != nil {
		return LookupReport{}, err
	}
	w := &walk{started: time.Now()}
	if err := b.Ready(ctx); err != nil {
		at := StageStoreReachable
		if strings.HasPrefix(string(ReasonOf(err)), "RECORD_") { // the store's own record
			at = StageStoreUsable
		}
		w.fail(at, err)
		return w.finish(), nil
	}
	c, err := b.readClient(ctx, id)
	if err != nil {
		w.fail(StageIndex, err)
		return w.finish(), nil
	}
	w.passUntil(StageIndex)
	w.add(StageIndex, OutcomePassed, "", "record "+clientKey(id), fmt.Sprintf("uid %s, revision %d", c.UID, c.version))
	if err := c.usable(); err != nil {
		w.fail(StageClientState, err)
		return w.finish(), nil
	}
	w.add(StageClientState, OutcomePassed, "")
	if depth >= DepthSecret {
		b.checkSecrets(ctx, w, c)
	}
	return w.finish(), nil
}

// checkSecrets walks the stages of the current secret, then looks at the others.
func (b *Broker) checkSecrets(ctx context.Context, w *walk, c *Client) {
	if !c.needsSecret() {
		w.add(StageSecretPresent, OutcomePassed, "", "the client has none: its authentication method is "+string(NoAuthentication))
		for _, stage := range []string{StageSecretIntact, StageSecretFit, StageDestination, StageOtherSecrets} {
			w.add(stage, OutcomeSkipped, "")
		}
		return
	}
	current, ok := c.Staged(Current)
	if !ok {
		w.add(StageSecretPresent, OutcomeFailed, ReasonSecretNotSet)
		return
	}
	value, err := b.readSecret(ctx, c, current)
	if err != nil {
		w.fail(StageSecretPresent, err)
		return
	}
	defer value.Wipe()
	w.add(StageSecretPresent, OutcomePassed, "", fmt.Sprintf("version %d at %s", current.Number, c.place(current)))
	w.add(StageSecretIntact, OutcomePassed, "", current.Fingerprint)
	switch err := b.checkSecret(c.Upstream.Authentication, value); {
	case err != nil:
		w.fail(StageSecretFit, err)
		return
	case !current.ExpireTime.IsZero() && current.ExpireTime.Before(time.Now()):
		w.add(StageSecretFit, OutcomeWarned, ReasonSecretExpired, "declared to expire at "+current.ExpireTime.Format(time.RFC3339))
	default:
		w.add(StageSecretFit, OutcomePassed, "")
	}
	if err := checkBound(c, current); err != nil {
		w.fail(StageDestination, err)
		return
	}
	w.add(StageDestination, OutcomePassed, "", "bound to "+strings.Join(current.Destinations, " "))
	b.checkOtherSecrets(ctx, w, c)
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
