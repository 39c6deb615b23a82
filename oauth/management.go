package oauth

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// ManagementRequest is one request to the API by which a provider manages clients.
type ManagementRequest struct {
	// Op says what the request is part of, lower case, for [broker.Error].
	Op string
	// Method and URL are those of HTTP.
	Method, URL string
	// Destinations are the origins that the request may be sent to.
	Destinations []string
	// Scheme and Token make the Authorization header; Scheme is "Bearer" if "".
	Scheme string
	Token  secret.Value
	// Body is sent as application/json; the zero Value sends none.
	Body secret.Value
	// Secrets are what may not show up in an error beside Token: what is in Body,
	// and what the provider knows besides.
	Secrets []secret.Value
}

// ManagementAnswer is a provider's answer, read to its end.
type ManagementAnswer struct {
	// Origin is where it came from, for errors.
	Origin string
	Status int
	Header http.Header
	// Body has at most 1 MiB. It may hold secrets.
	Body secret.Value
	// RetryAfter is what the header of that name says, up to an hour; 0 if nothing.
	RetryAfter time.Duration
	// ReceivedTime is when it was read.
	ReceivedTime time.Time

	scrub scrubber
}

// Shown returns what of a text in the answer may be shown: at most 200 bytes, and
// nothing that could be a piece of a secret of the request or of those given.
func (a ManagementAnswer) Shown(text string, secrets ...string) string {
	return scrubber{append(secrets, a.scrub.credentials...)}.clean(text, maxDescription)
}

// Manage makes one request to a provider's management API, with all that holds for
// [Client.RequestToken]: bound destinations, refused addresses, no redirect, no
// cookie, no repetition once a byte was written, time and size bounded. An answer of
// any status but a redirect is no error.
//
// Errors are *[broker.Error] with DESTINATION_NOT_BOUND or an UPSTREAM_ reason;
// DEADLINE_EXCEEDED wraps [context.Canceled]. Those that came before a connection
// was there to write to are wrapped in *[broker.UnsentError].
func (c *Client) Manage(ctx context.Context, req ManagementRequest) (ManagementAnswer, error) {
	endpoint, err := c.boundEndpoint(managementEndpoint, req.URL, req.Destinations)
	if err != nil {
		return ManagementAnswer{}, unsent(req.Op, err)
	}
	var answer ManagementAnswer
	seen := new(progress)
	build := func(ctx context.Context) (*request, error) { return newManagementRequest(ctx, endpoint, req) }
	err = c.exchange(ctx, hop{endpoint: endpoint}, seen, build, func(a *attempt, res *http.Response) (err error) {
		answer, err = a.managed(res)
		return err
	})
	if err != nil && seen.stage() < stageSending {
		return ManagementAnswer{}, unsent(req.Op, err)
	}
	return answer, err
}

// unsent marks an error of a request of which no byte was written.
func unsent(op string, err error) error {
	own := *broker.AsError(err)
	own.Op = op
	return &broker.UnsentError{Err: &own}
}

func newManagementRequest(ctx context.Context, endpoint *url.URL, req ManagementRequest) (*request, error) {
	out, err := http.NewRequestWithContext(ctx, req.Method, endpoint.String(), bytes.NewReader(req.Body.Reveal()))
	if err != nil {
		return nil, refusedEndpoint("%s is not a URL", managementEndpoint)
	}
	scheme := cmp.Or(req.Scheme, "Bearer")
	token := req.Token.RevealString()
	if !token68.MatchString(token) { // net/http would quote it in its error
		return nil, &broker.Error{Reason: broker.ReasonRotatorUnauthorized, Op: req.Op, Detail: "the token for the management API is missing, or has characters that none may have (RFC 6750 §2.1)"}
	}
	out.Header = http.Header{"Accept": {"application/json"}, "User-Agent": {userAgent}, "Authorization": {scheme + " " + token}}
	if !req.Body.IsZero() {
		out.Header.Set("Content-Type", "application/json")
	}
	credentials := []string{token}
	for _, s := range req.Secrets {
		if !s.IsZero() {
			credentials = append(credentials, s.RevealString())
		}
	}
	return &request{Request: out, op: req.Op, credentials: credentials}, nil
}

// token68 is what a token in an Authorization header looks like (RFC 6750 §2.1).
var token68 = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// managed reads an answer of the management API.
func (a *attempt) managed(res *http.Response) (ManagementAnswer, error) {
	a.progress.reach(stageReading)
	if isRedirect(res.StatusCode) {
		return ManagementAnswer{}, a.redirected(res)
	}
	answer := ManagementAnswer{
		Origin: a.origin, Status: res.StatusCode, Header: res.Header, ReceivedTime: time.Now(),
		RetryAfter: retryAfter(res.Header, time.Now()), scrub: a.scrub(document{}),
	}
	body, err := readBody(res)
	switch {
	case err == nil:
		answer.Body = secret.New(body)
		clear(body)
	case statusIsProof(res.StatusCode): // whatever the body says
	case errors.Is(err, errBodyTooLarge):
		return ManagementAnswer{}, a.fail(broker.ReasonUpstreamMalformed, nil, "answered %d with a body over 1 MiB", res.StatusCode)
	default:
		return ManagementAnswer{}, a.failed(err)
	}
	return answer, nil
}
