package broker

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Prober looks at the way to a server, and at an API, for the check of a lookup. It is
// safe for concurrent use. What it reports holds no secret and no body.
type Prober interface {
	// Reach walks from the host's name to what answers a request without credentials, one
	// [Sight] for each of [StageDNS], [StageTCP], [StageTLS], [StageHTTP] and [StageClock]
	// that it came to: the last one may have failed. It opens at most a few connections and
	// sends one request, which has no parameters.
	Reach(ctx context.Context, target ReachTarget) []Sight
	// CallAPI sends one GET. DESTINATION_NOT_BOUND unless the URL's origin is one of the
	// call's destinations; else a reason of the way there.
	CallAPI(ctx context.Context, call APICall) (APIAnswer, error)
}

// ReachTarget is what [Prober].Reach looks at.
type ReachTarget struct {
	// Endpoint is an https URL.
	Endpoint string
	// Provider is the client's profile; "" if the server is taken to follow the standards.
	Provider string
}

// Sight is what was seen at one stage.
type Sight struct {
	// Stage is the name of the stage.
	Stage string
	// Err is why the stage failed, an *[Error]; nil if it did not.
	Err error
	// Warning is what somebody should look at although it passed; "" for nothing.
	Warning Reason
	// Evidence is what was seen, for people.
	Evidence []string
	// Connections were opened for it.
	Connections int
	Duration    time.Duration
}

// APICall is one call of an API.
type APICall struct {
	URL string
	// Destinations are the origins that Token may be sent to.
	Destinations []string
	// Token is sent as Authorization of TokenType; zero sends none.
	Token     secret.Value
	TokenType string
}

// APIAnswer is what an API answered.
type APIAnswer struct {
	Status int
	// Error is the error code of the challenge (RFC 6750 §3.1); "" if there was none.
	Error string
	// Challenged says that there was a WWW-Authenticate header for Bearer or DPoP.
	Challenged bool
	// Kind says what the body is, in our words: "a JSON object", "an HTML or XML page".
	Kind string
}
