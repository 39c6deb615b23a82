package broker

import (
	"context"
	"fmt"
	"slices"
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
	// DepthConnect looks at the way to the token endpoint, without credentials.
	DepthConnect
	// DepthToken asks for a token.
	DepthToken
	// DepthEnforcement tries whether a missing and a wrong secret are refused.
	DepthEnforcement
	// DepthAPI calls the API of the registration.
	DepthAPI
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
	// StageCaller is there where a check is made for a caller.
	StageCaller        = "CALLER_PERMITTED"
	StageClientState   = "CLIENT_STATE"
	StageSettings      = "SETTINGS"
	StageSecretPresent = "SECRET_PRESENT"
	StageSecretIntact  = "SECRET_INTACT"
	StageSecretFit     = "SECRET_FIT"
	StageDestination   = "DESTINATION_BOUND"
	StageOtherSecrets  = "OTHER_SECRETS"

	StageDNS      = "DNS"
	StageTCP      = "TCP"
	StageTLS      = "TLS"
	StageHTTP     = "HTTP"
	StageClock    = "CLOCK"
	StageMetadata = "METADATA"

	StageAuthorization = "AUTHORIZATION"
	StageTokenRequest  = "TOKEN_REQUEST"
	StageTokenScopes   = "TOKEN_SCOPES"
	StageTokenExpiry   = "TOKEN_EXPIRY"
	StageTokenRefresh  = "TOKEN_REFRESH"

	StageNoSecret    = "NO_SECRET_REFUSED"
	StageWrongSecret = "WRONG_SECRET_REFUSED"

	StageAPIToken      = "API_TOKEN_TAKEN"
	StageAPINoToken    = "API_NO_TOKEN_REFUSED"
	StageAPIWrongToken = "API_WRONG_TOKEN_REFUSED"
)

// LookupStageInfo documents a stage.
type LookupStageInfo struct {
	// Name is stable.
	Name string
	// Depth is the least at which it is looked at.
	Depth LookupDepth
	// Title says in a few words what is looked at.
	Title string
}

// lookupStages is what docs/diagnosis.md is compared with.
var lookupStages = []LookupStageInfo{
	{StageStoreReachable, DepthIndex, "the store answers"},
	{StageStoreUnsealed, DepthIndex, "the store is unsealed"},
	{StageStoreAuthenticated, DepthIndex, "the store knows the broker"},
	{StageStoreUsable, DepthIndex, "the store holds the broker's own data (in Vault: KV version 2)"},
	{StageStorePermitted, DepthIndex, "the store's policy lets the broker read"},
	{StageIndex, DepthIndex, "the client is registered"},
	{StageCaller, DepthIndex, "the caller may have the token"},
	{StageClientState, DepthIndex, "the client is neither disabled nor deleted"},
	{StageSettings, DepthIndex, "the client's settings are sound: endpoints, provider, client_id"},
	{StageSecretPresent, DepthSecret, "the secret's value is there"},
	{StageSecretIntact, DepthSecret, "the secret is the one that was staged"},
	{StageSecretFit, DepthSecret, "the secret fits the authentication method, and looks like one"},
	{StageDestination, DepthSecret, "the secret may be sent to the token endpoint"},
	{StageOtherSecrets, DepthSecret, "the pending and the previous secret could be used"},
	{StageDNS, DepthConnect, "the token endpoint's name has an address"},
	{StageTCP, DepthConnect, "the addresses take connections"},
	{StageTLS, DepthConnect, "the server's certificate is good"},
	{StageHTTP, DepthConnect, "what answers there is a token endpoint"},
	{StageClock, DepthConnect, "the server's clock and this host's agree"},
	{StageMetadata, DepthConnect, "the client's settings are what the server's metadata offers"},
	{StageAuthorization, DepthToken, "the user's grant is alive, where one is needed"},
	{StageTokenRequest, DepthToken, "a token is given for the client's credentials"},
	{StageTokenScopes, DepthToken, "the token has the scopes that were asked for"},
	{StageTokenExpiry, DepthToken, "the token's expiry is known"},
	{StageTokenRefresh, DepthToken, "the next token can be had"},
	{StageNoSecret, DepthEnforcement, "a missing secret is refused"},
	{StageWrongSecret, DepthEnforcement, "a wrong secret is refused"},
	{StageAPIToken, DepthAPI, "the API takes the token"},
	{StageAPINoToken, DepthAPI, "the API refuses a call without a token"},
	{StageAPIWrongToken, DepthAPI, "the API refuses a wrong token"},
}

// LookupStages lists all stages in order.
func LookupStages() []LookupStageInfo { return append([]LookupStageInfo(nil), lookupStages...) }

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
	Title   string
	Outcome Outcome
	// Reason is "" when passed.
	Reason Reason
	// Evidence is what was seen, without secrets.
	Evidence []string
	Remedy   string
	Duration time.Duration
}

// LookupCheck says what to check.
type LookupCheck struct {
	// ClientID is the client's id.
	ClientID string
	// Depth is how far to go, Permitted how far the peer may: what lies between them is
	// skipped with CHECK_NOT_PERMITTED.
	Depth, Permitted LookupDepth
	// Query says which token the lookup is for; its ClientID is not looked at.
	Query TokenQuery
	// As says whether the caller that the check is made for may have the token; nil if it
	// is made for none.
	As func(*Client) error
	// Fresh asks the authorization server although something was seen of it just now.
	Fresh bool
	// NearMisses reports whether the peer may be told of a client of that id; nil of none.
	NearMisses func(id string) bool
	// Progress is told of each stage that is done; nil tells nobody. It must not block.
	Progress func(LookupStage)
}

// CheckCost is what a check cost others.
type CheckCost struct {
	// Connections were opened to look at the way.
	Connections int
	// TokenRequests were made with the client's credentials, WrongTries with a missing or
	// wrong one or by another method; WrongTriesLeft are those that today has left.
	TokenRequests, WrongTries, WrongTriesLeft int
	// APICalls were made.
	APICalls int
}

// LookupReport is what a check saw.
type LookupReport struct {
	// ClientID is the client's id, Time when the check began.
	ClientID string
	Time     time.Time
	Stages   []LookupStage
	Cost     CheckCost
	// Failures are what went wrong lately, Changes what changed, latest first.
	Failures []UsageFailure
	Changes  []RecentChange
	// StatusPage is the provider's; "" if none is known.
	StatusPage string
	// assertion says that the client authenticates by one.
	assertion bool
}

// RecentChange is something that changed at a client.
type RecentChange struct {
	Time    time.Time
	Summary string
}

// walk builds a report: stages pass, warn or fail in order, and what lies behind a
// failure is skipped.
type walk struct {
	check   LookupCheck
	stages  []LookupStageInfo
	report  LookupReport
	started time.Time
	failed  bool
	// ends are the ages at which tokens of the client were rejected.
	ends []tokenEnd
}

func newWalk(check LookupCheck) *walk {
	now := time.Now()
	w := &walk{check: check, started: now, report: LookupReport{ClientID: check.ClientID, Time: now.UTC()}}
	for _, stage := range lookupStages {
		if stage.Depth <= max(check.Depth, DepthSecret) && (stage.Name != StageCaller || check.As != nil) {
			w.stages = append(w.stages, stage)
		}
	}
	return w
}

// deep reports whether the check goes as far as depth and nothing has failed.
func (w *walk) deep(depth LookupDepth) bool {
	return !w.failed && w.check.Depth >= depth && w.check.Permitted >= depth
}

func (w *walk) add(name string, outcome Outcome, reason Reason, evidence ...string) {
	now := time.Now()
	w.put(name, outcome, reason, now.Sub(w.started), evidence)
	w.started = now
}

func (w *walk) put(name string, outcome Outcome, reason Reason, took time.Duration, evidence []string) {
	stage := LookupStage{Name: name, Title: w.stages[w.indexOf(name)].Title, Outcome: outcome, Reason: reason, Evidence: evidence, Duration: took}
	if reason != "" {
		stage.Remedy = reason.Info().Remedy
	}
	w.failed = w.failed || outcome == OutcomeFailed
	w.report.Stages = append(w.report.Stages, stage)
	if w.check.Progress != nil {
		w.check.Progress(stage)
	}
}

// passUntil passes the stages before name that are not in the report yet.
func (w *walk) passUntil(name string) {
	for _, stage := range w.stages[len(w.report.Stages):] {
		if stage.Name == name {
			return
		}
		w.add(stage.Name, OutcomePassed, "")
	}
}

// fail marks the stage that err broke, passing those before it; at is the one
// that was being tried.
func (w *walk) fail(at string, err error) {
	e := AsError(err)
	stage, ok := stageOf[e.Reason]
	// A store is found unusable by whatever is asked of it first; what a record
	// holds breaks the link that needed that record.
	ofStore := w.indexOf(stage) <= w.indexOf(StageStorePermitted)
	if !ok || w.indexOf(stage) < len(w.report.Stages) || !ofStore && w.indexOf(at) < w.indexOf(StageSecretPresent) ||
		w.indexOf(at) > w.indexOf(StageOtherSecrets) {
		stage = at
	}
	w.passUntil(stage)
	w.add(stage, OutcomeFailed, e.Reason, evidenceOf(e)...)
}

func (w *walk) indexOf(stage string) int {
	return slices.IndexFunc(w.stages, func(s LookupStageInfo) bool { return s.Name == stage })
}

func evidenceOf(e *Error) []string {
	if e.Detail == "" {
		return nil
	}
	return []string{e.Detail}
}

// skipUntil skips the stages before name that are not in the report yet.
func (w *walk) skipUntil(name string, reason Reason, evidence ...string) {
	for _, stage := range w.stages[len(w.report.Stages):] {
		if stage.Name == name {
			return
		}
		w.add(stage.Name, OutcomeSkipped, reason, evidence...)
	}
}

// finish skips what was not reached and returns the report.
func (w *walk) finish() LookupReport {
	for _, stage := range w.stages[len(w.report.Stages):] {
		var reason Reason
		if !w.failed && stage.Depth > w.check.Permitted && stage.Depth <= w.check.Depth {
			reason = ReasonCheckNotPermitted
		}
		w.add(stage.Name, OutcomeSkipped, reason)
	}
	return w.report
}

// CheckLookup walks a lookup of the client stage by stage and reports each. It changes
// nothing but this: a token that it got is served, and unparks the client. Its only
// error is INVALID_REQUEST; what else is wrong stands in the report.
func (b *Broker) CheckLookup(ctx context.Context, check LookupCheck) (LookupReport, error) {
	if err := CheckID("client", check.ClientID); err != nil {
		return LookupReport{}, err
	}
	if err := checkQuery(&check.Query); err != nil {
		return LookupReport{}, err
	}
	w := newWalk(check)
	if err := b.Ready(ctx); err != nil {
		at := StageStoreReachable
		if strings.HasPrefix(string(ReasonOf(err)), "RECORD_") { // the store's own record
			at = StageStoreUsable
		}
		w.fail(at, err)
		return w.finish(), nil
	}
	c, err := b.readClient(ctx, check.ClientID)
	if err != nil {
		w.fail(StageIndex, b.withNearMisses(ctx, check, err))
		return w.finish(), nil
	}
	w.passUntil(StageIndex)
	w.add(StageIndex, OutcomePassed, "", "record "+clientKey(c.ID), fmt.Sprintf("uid %s, revision %d", c.UID, c.version))
	w.report.assertion = slices.Contains([]AuthenticationMethod{PrivateKeyJWT, ClientSecretJWT, PrivateKeyBearer}, c.Upstream.Authentication.Method) ||
		c.Upstream.Grant == JWTBearer
	if usage, err := b.Usage(ctx, c.ID); err == nil {
		w.report.Failures, w.ends = usage.Failures, usage.ends
	}
	w.report.Changes = c.recentChanges(w.report.Time)
	b.checkClient(ctx, w, c)
	if provider, ok := b.providerOf(c); ok {
		w.report.StatusPage = provider.StatusPage
	}
	return w.finish(), nil
}

// checkClient walks the stages behind the index, until one fails.
func (b *Broker) checkClient(ctx context.Context, w *walk, c *Client) {
	if w.check.As != nil {
		if err := w.check.As(c); err != nil {
			w.fail(StageCaller, err)
			return
		}
		w.add(StageCaller, OutcomePassed, "")
	}
	if err := c.usable(); err != nil {
		w.fail(StageClientState, err)
		return
	}
	w.add(StageClientState, OutcomePassed, "")
	if _, err := keyWithout(c, w.check.Query, settingsOf(c)); err != nil {
		w.fail(StageSettings, err)
		return
	}
	b.checkSettings(w, c)
	var current SecretVersion
	if w.deep(DepthSecret) {
		current = b.checkSecrets(ctx, w, c)
	}
	if w.deep(DepthConnect) {
		b.checkWay(ctx, w, c)
	}
	if w.deep(DepthToken) {
		b.checkToken(ctx, w, c, current)
	}
}
