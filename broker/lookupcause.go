package broker

import "slices"

// Confidence is how sure a cause is.
type Confidence string

// The confidences.
const (
	// Proven: seen, not concluded.
	Proven Confidence = "proven"
	// Likely: what was seen fits best to this cause.
	Likely Confidence = "likely"
	// Unknown: the link is broken; why is not known.
	Unknown Confidence = "unknown"
)

// RootCause is the one cause to mend first.
type RootCause struct {
	Stage      string
	Reason     Reason
	Confidence Confidence
	// Also are other causes that the evidence allows.
	Also []Reason
}

// vague are refusals for which an authorization server has one word and many causes.
var vague = []Reason{
	ReasonClientRejected, ReasonUpstreamRefused, ReasonRequestRejected, ReasonGrantTypeRejected, ReasonScopeRejected, ReasonTargetRejected,
}

// explains are warnings that speak for a cause when the server then refuses, the
// strongest first.
var explains = []Reason{
	ReasonSecretExpired, ReasonSecretDoubtful, ReasonClientIDDoubtful, ReasonEndpointsMixed, ReasonMetadataDisagrees, ReasonUpstreamClockSkew,
	ReasonUpstreamNotOAuth,
}

// concluded are reasons that are concluded from what was seen, not seen themselves.
var concluded = []Reason{ReasonUpstreamNotOAuth, ReasonEndpointWrong}

// RootCause returns the cause of the first stage that failed; false if none did. Where
// the server only refuses, and an earlier stage had seen what explains it, that is it.
func (r LookupReport) RootCause() (RootCause, bool) {
	i := slices.IndexFunc(r.Stages, func(s LookupStage) bool { return s.Outcome == OutcomeFailed })
	if i < 0 {
		return RootCause{}, false
	}
	failed := r.Stages[i]
	cause := RootCause{Stage: failed.Name, Reason: failed.Reason, Confidence: Proven}
	switch {
	case slices.Contains(concluded, failed.Reason):
		cause.Confidence = Likely
	case failed.Reason == ReasonUpstreamRefused || failed.Reason == ReasonInternal || failed.Reason == ReasonStoreFailed:
		cause.Confidence = Unknown
	}
	if failed.Name != StageTokenRequest {
		return cause, true
	}
	for _, reason := range explanationsOf(failed.Reason) {
		j := slices.IndexFunc(r.Stages[:i], func(s LookupStage) bool { return s.Outcome == OutcomeWarned && s.Reason == reason })
		if j < 0 || reason == ReasonUpstreamClockSkew && !r.assertion {
			continue
		}
		if cause.Confidence != Likely || cause.Reason == failed.Reason {
			cause = RootCause{Stage: r.Stages[j].Name, Reason: reason, Confidence: Likely, Also: []Reason{failed.Reason}}
			continue
		}
		cause.Also = append(cause.Also, reason)
	}
	return cause, true
}

// explanationsOf are the warnings that explain how a token request failed.
func explanationsOf(reason Reason) []Reason {
	switch {
	case slices.Contains(vague, reason):
		return explains
	case reason == ReasonUpstreamMalformed: // which speaks of the server alone
		return []Reason{ReasonUpstreamNotOAuth}
	}
	return nil
}
