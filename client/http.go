package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// mostDrained is how much of a refusal's body is read so that its connection can be
// used again.
const mostDrained = 64 << 10

// RoundTripper adds the token to requests, as `Authorization: Bearer`, or `DPoP` with a
// proof, if they go to one of its origins. Make it with [Source.RoundTripper]. It is safe for concurrent use.
type RoundTripper struct {
	source  *Source
	base    http.RoundTripper
	origins map[string]bool // scheme://host:port
}

var _ http.RoundTripper = (*RoundTripper)(nil)

// RoundTripper returns one that sends requests with base, http.DefaultTransport if
// nil, and the token to origins, of which there must be one at least:
// "https://api.example.com", "https://api.example.com:8443". Plain http is for loopback
// addresses, written as such: "http://127.0.0.1:8080".
//
// A redirect to another origin is followed without the token; a request to one is an
// error. The origin of the first request is not taken for granted, because that may
// come from whoever the service listens to.
//
// A 401 that calls the token invalid (RFC 6750 §3.1) makes the source ask for another
// one and the request is sent once more, if its body is none or has GetBody. So it is
// where an API wants a nonce of its own in the DPoP proof (RFC 9449 §9). All other answers
// are the caller's.
func (s *Source) RoundTripper(base http.RoundTripper, origins ...string) (*RoundTripper, error) {
	if base == nil {
		base = http.DefaultTransport
	}
	if len(origins) == 0 {
		return nil, errors.New("tokenbroker: RoundTripper needs an origin that the token may be sent to")
	}
	rt := &RoundTripper{source: s, base: base, origins: map[string]bool{}}
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || origin != u.Scheme+"://"+u.Host {
			return nil, fmt.Errorf("tokenbroker: %q is not an origin such as https://api.example.com", origin)
		}
		if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("tokenbroker: origin %q: the token is sent over https, or http to a loopback address", origin)
		}
		rt.origins[originOf(u)] = true
	}
	return rt, nil
}

// RoundTrip implements http.RoundTripper. It does not change the request.
func (rt *RoundTripper) RoundTrip(request *http.Request) (*http.Response, error) {
	if origin := originOf(request.URL); !rt.origins[origin] {
		if request.Response != nil { // what net/http follows a redirect with
			return rt.base.RoundTrip(request)
		}
		closeBody(request)
		return nil, fmt.Errorf("tokenbroker: %s is not an origin that the token is bound to", origin)
	}
	h, err := rt.source.get(request.Context())
	if err != nil {
		closeBody(request)
		return nil, err
	}
	response, err := rt.send(request, request.Body, h)
	if err == nil && h.token.bound() && rt.source.client.dpop.heed(request.URL, response) && replayable(request) {
		response, err = rt.sendAgain(request, h, response)
	}
	if err != nil || !isInvalidToken(response) {
		return response, err
	}
	if next := rt.replace(request, h); next != nil {
		return rt.sendAgain(request, next, response)
	}
	return response, nil
}

// sendAgain sends the request once more if that can be done, else it returns refusal.
func (rt *RoundTripper) sendAgain(request *http.Request, h *held, refusal *http.Response) (*http.Response, error) {
	body, err := bodyOnceMore(request)
	if err != nil {
		return refusal, nil
	}
	_, _ = io.CopyN(io.Discard, refusal.Body, mostDrained) // only the connection is lost
	_ = refusal.Body.Close()
	response, err := rt.send(request, body, h)
	if err == nil && h.token.bound() {
		rt.source.client.dpop.heed(request.URL, response) // for the next request
	}
	return response, err
}

// replace reports a token that was refused, and returns another one if there is one
// that the request can be sent with.
func (rt *RoundTripper) replace(request *http.Request, refused *held) *held {
	if !replayable(request) {
		_, _ = rt.source.rejectFlight(refused.token.ID) // for those who come next; nobody waits
		return nil
	}
	if err := rt.source.Reject(request.Context(), refused.token.ID); err != nil {
		return nil // the API's answer says as much as ours would
	}
	next, err := rt.source.get(request.Context())
	if err != nil || next.token.ID == refused.token.ID {
		return nil
	}
	return next
}

// send sends a copy of the request with a token. The response names the original, so
// that who prints it prints no token.
func (rt *RoundTripper) send(request *http.Request, body io.ReadCloser, h *held) (*http.Response, error) {
	authorized := request.Clone(request.Context())
	authorized.Body = body
	if authorized.Header == nil {
		authorized.Header = http.Header{}
	}
	authorized.Header.Set("Authorization", h.metadata["authorization"])
	if h.token.bound() {
		if rt.source.client.dpop == nil {
			closeBody(authorized)
			return nil, errors.New("tokenbroker: the token is bound by DPoP, and the client was made without WithDPoP")
		}
		if err := rt.source.client.dpop.authorize(authorized, h.token); err != nil {
			closeBody(authorized)
			return nil, err
		}
	}
	response, err := rt.base.RoundTrip(authorized)
	if response != nil {
		response.Request = request
	}
	return response, err
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (rt *RoundTripper) CloseIdleConnections() {
	if base, ok := rt.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// Format writes the type's name and the client's, whatever the verb.
func (rt *RoundTripper) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "client.RoundTripper("+rt.source.request.Client+")")
}

// originOf is comparable: in lower case, with the port.
func originOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

func replayable(r *http.Request) bool { return !hasBody(r) || r.GetBody != nil }

func bodyOnceMore(r *http.Request) (io.ReadCloser, error) {
	if !hasBody(r) {
		return r.Body, nil
	}
	return r.GetBody()
}

// closeBody is a RoundTripper's duty also where it sends nothing.
func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}
