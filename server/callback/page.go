package callback

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strconv"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// style is all that the page has besides text. Its colours have a contrast of 7:1 and
// more on their ground, by day and by night.
const style = `
:root { color-scheme: light dark; --ground: #ffffff; --text: #1f2328; --quiet: #424a53; --good: #0b5a2a; --bad: #8a1414; --line: #d0d7de }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --text: #f0f3f6; --quiet: #c3cad3; --good: #7ee2a0; --bad: #ffb3ad; --line: #3d444d } }
body { margin: 0; background: var(--ground); color: var(--text); font: 1.125rem/1.6 system-ui, sans-serif }
main { max-width: 36rem; margin: 12vh auto; padding: 0 1.25rem; overflow-wrap: anywhere }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; border-left: .375rem solid; padding-left: .875rem }
.good { color: var(--good) }
.bad { color: var(--bad) }
dl { margin: 2rem 0 0; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--quiet); font-size: 1rem }
dt { font-weight: 600 }
dd { margin: 0 0 .5rem; font-family: ui-monospace, monospace }
`

const markup = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<link rel="icon" href="data:,">
<title>{{.Title}}</title>
<style>{{.Style}}</style>
</head>
<body>
<main>
<h1 class="{{if .Reason}}bad{{else}}good{{end}}">{{.Title}}</h1>
<div role="{{if .Reason}}alert{{else}}status{{end}}">
{{range .Paragraphs}}<p>{{.}}</p>
{{end}}</div>
<dl>
{{if .Reason}}<dt>Code for support</dt>
<dd>{{.Reason}}</dd>
{{end}}<dt>Reference</dt>
<dd>{{.RequestID}}</dd>
</dl>
</main>
</body>
</html>
`

// pages are what users are shown. Immutable.
type pages struct {
	template *template.Template
	policy   string
}

func newPages() *pages {
	sum := sha256.Sum256([]byte(style))
	return &pages{
		template: template.Must(template.New("page").Parse(markup)), // a constant
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	}
}

// head sets what every answer has: nothing of it is kept, framed, or told to others.
func (p *pages) head(h http.Header) {
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// send sends the page about what became of an answer.
func (p *pages) send(w http.ResponseWriter, done Done) {
	words := wordsFor(done.Reason)
	var body bytes.Buffer
	err := p.template.Execute(&body, struct {
		Title      string
		Paragraphs []string
		Style      template.CSS
		Reason     broker.Reason
		RequestID  string
	}{words.title, words.paragraphs, style, done.Reason, done.RequestID})
	if err != nil { // only what does not fit the template fails
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	if words.status == http.StatusTooManyRequests || words.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "10")
	}
	w.WriteHeader(words.status)
	_, _ = w.Write(body.Bytes()) // a browser that was closed is nobody's loss
}

// words are for somebody who knows neither the broker nor OAuth.
type words struct {
	status     int
	title      string
	paragraphs []string
}

const (
	startAgain = "Go back to the application and start again."
	closeIt    = "You can close this window."
	tellThem   = "If this happens again, give the code below to the people who support the application."
)

// said is what users are told :: reason → words. What is not in it falls into one of the
// groups of wordsFor.
var said = map[broker.Reason]words{
	"": {http.StatusOK, "Access was granted", []string{"You can close this window and go back to the application."}},
	broker.ReasonAuthorizationDenied: {http.StatusForbidden, "Access was not granted", []string{
		"You declined, or your organization does not allow it. Nothing was connected.", "If that is not what you wanted, start again in the application. " + closeIt,
	}},
	broker.ReasonStateInvalid: {http.StatusBadRequest, "This link does not work any more", []string{
		"It was used before, it is too old, or you asked for a newer one.", startAgain,
	}},
	broker.ReasonAuthorizationExpired: {http.StatusBadRequest, "That took too long", []string{"For your safety, the link works only for a while.", startAgain}},
	broker.ReasonInvalidRequest: {http.StatusBadRequest, "This page was not opened as it should be", []string{
		"Something is missing from the link, or there is too much in it.", startAgain,
	}},
	broker.ReasonIssuerMismatch: {http.StatusBadRequest, "The answer came from somewhere else", []string{
		"It did not come from the service that you were sent to. For your safety, nothing was connected.", startAgain, tellThem,
	}},
	broker.ReasonIDTokenInvalid: {http.StatusBadGateway, "The answer does not fit your request", []string{
		"It was made for somebody else, or for another request. For your safety, nothing was connected.", startAgain, tellThem,
	}},
	broker.ReasonAuthorizationNotTaken: {http.StatusBadGateway, "The other service did not accept its own answer", []string{
		"It may have taken too long, or the page was loaded twice. Nothing was connected.", startAgain,
	}},
	broker.ReasonAuthorizationAnswerLost: {http.StatusBadGateway, "The connection broke at the last moment", []string{"Nothing was connected.", startAgain}},
	broker.ReasonTooManyRequests:         {http.StatusTooManyRequests, "Too much is going on right now", []string{"Wait half a minute, then load this page again."}},
	broker.ReasonAuditUnavailable: {http.StatusServiceUnavailable, "This could not be recorded", []string{
		"Look in the application whether the connection is there. If it is not, start again.", tellThem,
	}},
}

// The groups.
var (
	switchedOff   = words{http.StatusForbidden, "This connection is switched off", []string{"The application's operator has switched it off or removed it. Nothing was connected.", closeIt}}
	setUpWrong    = words{http.StatusBadGateway, "The application is not set up for this", []string{"The other service refused what the application asked for. Nothing was connected, and trying again will not help.", "Give the code below to the people who support the application."}}
	notAnswering  = words{http.StatusBadGateway, "The other service does not answer", []string{"Nothing was connected. Wait a few minutes.", startAgain, tellThem}}
	unreachable   = words{http.StatusBadGateway, "The other service cannot be reached", []string{"Wait a minute, then load this page again.", tellThem}}
	notNow        = words{http.StatusServiceUnavailable, "This does not work right now", []string{"Wait a minute, then load this page again. If that does not help, start again in the application.", tellThem}}
	somethingElse = words{http.StatusInternalServerError, "Something went wrong", []string{startAgain, tellThem}}
)

// wordsFor returns what users are told of a reason.
func wordsFor(r broker.Reason) words {
	if found, ok := said[r]; ok {
		return found
	}
	switch r {
	case broker.ReasonClientNotFound, broker.ReasonClientDisabled, broker.ReasonClientDeleted:
		return switchedOff
	case broker.ReasonUpstreamDNS, broker.ReasonUpstreamAddressRefused:
		return unreachable // nothing was sent: the link still works
	case broker.ReasonUpstreamTimeout, broker.ReasonUpstreamUnavailable, broker.ReasonUpstreamRateLimited, broker.ReasonUpstreamMalformed,
		broker.ReasonUpstreamConnect, broker.ReasonUpstreamTLS, broker.ReasonUpstreamProxy:
		return notAnswering
	case broker.ReasonConcurrentChange, broker.ReasonShuttingDown, broker.ReasonDeadlineExceeded, broker.ReasonReplicaBlind:
		return notNow
	case broker.ReasonInternal:
		return somethingElse
	}
	switch {
	case strings.HasPrefix(string(r), "STORE_"):
		return notNow
	case r.Info().Recovery == broker.RecoveryFixClient, r.Info().Recovery == broker.RecoveryRotateSecret, r.Info().Recovery == broker.RecoveryContactProvider:
		return setUpWrong
	}
	return somethingElse
}
