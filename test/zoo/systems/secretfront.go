package systems

import (
	"crypto/rand"
	"net/http"
	"sync"
	"time"
)

// SecretFront is not OAuth 2 at all: POST /api/session/open with JSON {"account", "apiSecret"} and the header X-Front-Version answers
// 200 in any case: {"result": "OK", "data": {"session", "validUntil"}}, the latter in milliseconds since 1970, or {"result": "DENIED",
// "failure": {"number", "text"}}. Its API, GET /api/items, takes the session as a bearer token.
//
// A lax one gives sessions also for a wrong secret or none.
type SecretFront struct {
	clock
	lax bool

	mu       sync.Mutex           // guards the rest
	accounts map[string]string    // :: account → secret
	sessions map[string]time.Time // :: session → when it ends
}

// FrontVersion is what the header X-Front-Version must say.
const FrontVersion = "2"

// NewSecretFront returns a front with one account; a lax one takes any secret for it.
func NewSecretFront(account, secret string, lax bool) *SecretFront {
	return &SecretFront{lax: lax, accounts: map[string]string{account: secret}, sessions: map[string]time.Time{}}
}

// CloseSessions ends all sessions.
func (f *SecretFront) CloseSessions() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.sessions)
}

// ServeHTTP implements http.Handler.
func (f *SecretFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r.Method + " " + r.URL.Path {
	case "POST /api/session/open":
		f.open(w, r)
	case "GET /api/items":
		if end, ok := f.sessions[bearer(r)]; !ok || !f.now().Before(end) {
			respond(w, http.StatusOK, denied(12, "no session"))
			return
		}
		respond(w, http.StatusOK, object{"result": "OK", "data": object{"items": []string{}}})
	default:
		http.NotFound(w, r)
	}
}

func denied(number int, text string) object {
	return object{"result": "DENIED", "failure": object{"number": number, "text": text}}
}

func (f *SecretFront) open(w http.ResponseWriter, r *http.Request) {
	sent := members(r)
	secret, known := f.accounts[sent["account"]]
	switch {
	case r.Header.Get("X-Front-Version") != FrontVersion:
		respond(w, http.StatusOK, denied(40, "this version is not spoken here"))
	case !known:
		respond(w, http.StatusOK, denied(10, "no such account"))
	case secret != sent["apiSecret"] && !f.lax:
		respond(w, http.StatusOK, denied(11, "the secret is wrong"))
	default:
		session, end := rand.Text(), f.now().Add(30*time.Minute)
		f.sessions[session] = end
		respond(w, http.StatusOK, object{"result": "OK", "data": object{"session": session, "validUntil": end.UnixMilli()}})
	}
}
