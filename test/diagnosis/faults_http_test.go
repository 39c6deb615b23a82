package diagnosis_test

import (
	"io"
	"net/http"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	loginPage = `<!DOCTYPE html><html><head><title>Sign in</title></head><body><form><input name="user" value="` + canary + `"></form></body></html>`
	soapFault = `<?xml version="1.0"?><soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"><soap:Body><soap:Fault>` +
		`<faultcode>soap:Client</faultcode><faultstring>` + canary + `</faultstring></soap:Fault></soap:Body></soap:Envelope>`
)

// answering has whatever is asked at the token endpoint be answered alike.
func answering(handler http.HandlerFunc) func(*scene) {
	return func(s *scene) { s.as.answer(handler) }
}

// redirecting sends to somewhere else.
func redirecting(status int, to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(status)
	}
}

// mute never answers.
func mute(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// hangUp ends the connection instead of an answer.
func hangUp(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
		return
	}
	panic(http.ErrAbortHandler) // what HTTP/2 has for it
}

// breakOff ends an answer in its middle.
func breakOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, `{"access_token":"`+canary)
	panic(http.ErrAbortHandler)
}

// clockOff has the server's clock go ahead of ours by d, and refuses assertions that have
// expired by it, as well as all that are not of a time it takes.
func (s *scene) clockOff(d time.Duration) {
	s.as.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(d).UTC().Format(http.TimeFormat))
		fixed(http.StatusUnauthorized, "application/json", `{"error":"invalid_client"}`)(w, r)
	})
}

var httpFaults = []fault{
	{
		"a login page", connect, answering(fixed(200, "text/html", loginPage)),
		likely(broker.StageHTTP, broker.ReasonUpstreamNotOAuth, "a page for people"),
	},
	{
		"a login page that calls itself JSON", connect, answering(fixed(200, "application/json", loginPage)),
		likely(broker.StageHTTP, broker.ReasonUpstreamNotOAuth, "a page for people"),
	},
	{
		"a captive portal", connect, answering(fixed(511, "text/html", loginPage)),
		likely(broker.StageHTTP, broker.ReasonUpstreamNotOAuth, "a captive portal"),
	},
	{
		"a captive portal that redirects", connect, answering(redirecting(http.StatusFound, "http://portal.test/login?"+canary)),
		proven(broker.StageHTTP, broker.ReasonUpstreamRedirected, "http://portal.test"),
	},
	{
		"a SOAP service", connect, answering(fixed(500, "text/xml", soapFault)),
		likely(broker.StageHTTP, broker.ReasonUpstreamNotOAuth, "SOAP"),
	},
	{
		"a SOAP service that answers 200", connect, answering(fixed(200, "application/soap+xml", soapFault)),
		likely(broker.StageHTTP, broker.ReasonUpstreamNotOAuth, "SOAP"),
	},
	{
		"plain text", connect, answering(fixed(200, "text/plain", "ok "+canary)),
		likely(broker.StageHTTP, broker.ReasonUpstreamNotOAuth, "neither a JSON object nor a form"),
	},
	{
		"a JSON API that wants a key of its own", token, answering(fixed(401, "application/json", `{"message":"Invalid API key"}`)),
		likely(broker.StageHTTP, broker.ReasonUpstreamNotOAuth, "without the member error"),
	},
	{
		"a JSON API that answers 200", token, answering(fixed(200, "application/json", `{"status":"up"}`)),
		likely(broker.StageHTTP, broker.ReasonUpstreamNotOAuth, "where a token endpoint answers 400 or 401"),
	},
	{
		"a path that does not exist", connect,
		func(s *scene) { s.message.TokenEndpoint = s.as.origin + "/oauth/tokn" },
		likely(broker.StageHTTP, broker.ReasonEndpointWrong, "404", "nothing is there"),
	},
	{
		"a path that is gone", connect, answering(fixed(http.StatusGone, "application/json", `{"message":"use v2"}`)),
		likely(broker.StageHTTP, broker.ReasonEndpointWrong, "410"),
	},
	{
		"a path that takes no POST", connect, answering(fixed(http.StatusMethodNotAllowed, "text/html", "<html>"+canary)),
		likely(broker.StageHTTP, broker.ReasonEndpointWrong, "it takes no POST"),
	},
	{
		"a redirect to another host", connect, answering(redirecting(http.StatusTemporaryRedirect, "https://new.as.test/token?"+canary)),
		proven(broker.StageHTTP, broker.ReasonUpstreamRedirected, "https://new.as.test"),
	},
	{
		"an internal error", connect, answering(fixed(500, "text/html", "<html>"+canary)),
		proven(broker.StageHTTP, broker.ReasonUpstreamUnavailable, "500"),
	},
	{
		"maintenance", connect, answering(fixed(503, "application/json", `{"message":"maintenance"}`)),
		proven(broker.StageHTTP, broker.ReasonUpstreamUnavailable, "503"),
	},
	{
		"a gateway that reaches nobody", connect, answering(fixed(502, "text/html", "<html><h1>502</h1>"+canary)),
		proven(broker.StageHTTP, broker.ReasonUpstreamUnavailable, "502"),
	},
	{
		"an outage in OAuth's words", connect, answering(fixed(503, "application/json", `{"error":"temporarily_unavailable"}`)),
		proven(broker.StageHTTP, broker.ReasonUpstreamUnavailable, "503"),
	},
	{
		"a rate limit", token, answering(fixed(http.StatusTooManyRequests, "application/json", `{"message":"slow down"}`)),
		proven(broker.StageTokenRequest, broker.ReasonUpstreamRateLimited, "429"),
	},
	{
		"a proxy's login on the way", connect, answering(fixed(http.StatusProxyAuthRequired, "text/html", "<html>"+canary)),
		proven(broker.StageHTTP, broker.ReasonUpstreamProxy, "wants a login"),
	},
	{
		"a server that never answers", connect, answering(mute),
		proven(broker.StageHTTP, broker.ReasonUpstreamTimeout, "timed out while"),
	},
	{
		"a server that hangs up", connect, answering(hangUp),
		proven(broker.StageHTTP, broker.ReasonUpstreamConnect, "the connection broke"),
	},
	{
		"an answer that breaks off", connect, answering(breakOff),
		proven(broker.StageHTTP, broker.ReasonUpstreamConnect, "the connection broke"),
	},
	{
		"a clock ten minutes ahead, and an assertion", token,
		func(s *scene) { s.byKey(); s.clockOff(10 * time.Minute) },
		likely(broker.StageClock, broker.ReasonUpstreamClockSkew, "ahead of this host's"),
	},
	{
		"a clock ten minutes behind, and an assertion", token,
		func(s *scene) { s.byKey(); s.clockOff(-10 * time.Minute) },
		likely(broker.StageClock, broker.ReasonUpstreamClockSkew, "behind this host's"),
	},
	{
		"a clock ten minutes ahead, and a wrong secret", token,
		func(s *scene) { s.clockOff(10 * time.Minute) },
		proven(broker.StageTokenRequest, broker.ReasonClientRejected),
	},
}

// byKey has the client authenticate by an assertion.
func (s *scene) byKey() {
	private, public := newKey(s.t)
	s.must(s.as.SetKeys(s.id()+"-app", public))
	s.secret = &pb.SecretInput{Value: &pb.SecretInput_PrivateKey{PrivateKey: private}}
	s.message.AuthenticationMethod = pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_JWT
}
