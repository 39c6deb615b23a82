package server

import (
	"context"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// labelsForCheck is how long an error waits for the labels that say whether its caller
// may check: the store, from which they come, may be what failed.
const labelsForCheck = 100 * time.Millisecond

// checkable are the reasons that a check of the client down to its secret tells more
// about :: reason → whether it must go as far as a token.
var checkable = func() map[broker.Reason]bool {
	reasons := map[broker.Reason]bool{}
	for _, info := range broker.Reasons() {
		if depth, ok := depthFor(info.Reason); ok {
			reasons[info.Reason] = depth > broker.DepthSecret
		}
	}
	return reasons
}()

// notChecked are reasons of the groups below that are about a request, or about one
// moment, and not about what a client's lookup finds.
var notChecked = map[broker.Reason]bool{
	broker.ReasonStoreConflict: true, broker.ReasonStoreAnswerLost: true,
	broker.ReasonSecretVersionNotFound: true, broker.ReasonSecretUnchanged: true, broker.ReasonSecretWrongStage: true,
	broker.ReasonSecretNotVerified: true, broker.ReasonClientAlreadyExists: true, broker.ReasonClientNotDeleted: true,
	broker.ReasonRefreshFailing: true,
}

// depthFor returns how deep a check must go to see what r is about; false if none does.
func depthFor(r broker.Reason) (broker.LookupDepth, bool) {
	switch r {
	case broker.ReasonClientRejected, broker.ReasonGrantRejected, broker.ReasonGrantTypeRejected, broker.ReasonScopeRejected, broker.ReasonTargetRejected,
		broker.ReasonRequestRejected, broker.ReasonTokenTypeUnsupported, broker.ReasonScopeNotGranted, broker.ReasonTokenExpired, broker.ReasonTokenInactive,
		broker.ReasonDiscoveryFailed, broker.ReasonIssuerMismatch, broker.ReasonTokenNotBound, broker.ReasonGrantOfOldClient:
		return broker.DepthToken, true
	case broker.ReasonDestinationNotBound, broker.ReasonReferenceUnreadable, broker.ReasonProviderUnknown:
		return broker.DepthSecret, true
	}
	group, _, _ := strings.Cut(string(r), "_")
	switch {
	case notChecked[r]:
		return 0, false
	case group == "UPSTREAM" || group == "REFRESH":
		return broker.DepthToken, true
	case group == "STORE" || group == "RECORD" || group == "SECRET" || group == "CLIENT":
		return broker.DepthSecret, true
	}
	return 0, false
}

// checkLine is the line of tokenctl that tells more about a failure of a client; "" where
// no check does.
func checkLine(reason broker.Reason, id string) string {
	deep, ok := checkable[reason]
	switch {
	case !ok || id == "":
		return ""
	case deep:
		return "tokenctl check " + id + " --depth token"
	default:
		return "tokenctl check " + id
	}
}

// nextCheck is the check that would tell the caller more about e; "" where none would, or
// where it may not make it.
func (c *call) nextCheck(ctx context.Context, e *broker.Error) string {
	id := e.Client
	if id == "" {
		id, _ = cutClient(c.client)
	}
	line := checkLine(e.Reason, id)
	if line == "" || !c.visit.told() {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), labelsForCheck)
	defer cancel()
	if _, err := c.visit.decide(ctx, access.LookupCheck, id); err != nil {
		return ""
	}
	return line
}
