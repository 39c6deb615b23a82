package systems

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Style is how connections of [Connections] are kept alive.
type Style string

// The styles.
const (
	// Rotating gives a refresh token that is replaced at each use, at the token URL.
	Rotating Style = "rotating"
	// RefreshElsewhere takes refresh tokens at /oauth/refresh alone.
	RefreshElsewhere Style = "refresh-elsewhere"
	// RefreshWithAccessToken has no refresh tokens: the last access token prolongs, at /oauth/refresh.
	RefreshWithAccessToken Style = "refresh-with-access-token"
	// NoRefresh has none at all: a connection fails after the token's lifetime.
	NoRefresh Style = "no-refresh"
	// ExpiringRefresh has refresh tokens that end ten lifetimes after the consent, used or not.
	ExpiringRefresh Style = "expiring-refresh"
)

// Connections gives tokens for a user's consent: GET /oauth/authorize shows a page, whose form is sent to POST /oauth/authorize; the
// code is exchanged at POST /oauth/token. GET /api/me takes the token in an Authorization header with the prefix Bearer.
type Connections struct {
	clock
	style            Style
	clientID, secret string
	lifetime         time.Duration

	mu        sync.Mutex          // guards the rest
	codes     map[string]consent  // :: code → what was consented to
	refreshes map[string]*consent // :: refresh token → what it came of
	tokens    map[string]*consent // :: access token → what it came of
	ends      map[string]time.Time
	refreshed int
}

// consent is what a user gave.
type consent struct {
	scope, redirectURI, challenge string
	given                         time.Time
	revoked                       *bool
}

// NewConnections returns a server with one client, whose tokens live so long.
func NewConnections(style Style, clientID, secret string, lifetime time.Duration) *Connections {
	return &Connections{
		style: style, clientID: clientID, secret: secret, lifetime: lifetime,
		codes: map[string]consent{}, refreshes: map[string]*consent{}, tokens: map[string]*consent{}, ends: map[string]time.Time{},
	}
}

// Disconnect is a user who withdraws all that was consented to.
func (c *Connections) Disconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, list := range []map[string]*consent{c.tokens, c.refreshes} {
		for _, of := range list {
			*of.revoked = true
		}
	}
}

// Refreshes is how many refreshes were granted.
func (c *Connections) Refreshes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refreshed
}

// ServeHTTP implements http.Handler.
func (c *Connections) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := r.ParseForm(); err != nil {
		http.Error(w, "no readable form", http.StatusBadRequest)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /oauth/authorize":
		c.ask(w, r)
	case "POST /oauth/authorize":
		c.decide(w, r)
	case "POST /oauth/token", "POST /oauth/refresh":
		c.serveToken(w, r)
	case "GET /api/me":
		of, known := c.tokens[bearer(r)]
		if !known || *of.revoked || !c.now().Before(c.ends[bearer(r)]) {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			respond(w, http.StatusUnauthorized, object{"error": "invalid_token"})
			return
		}
		respond(w, http.StatusOK, object{"name": "Ada"})
	default:
		http.NotFound(w, r)
	}
}

// ask shows the page on which a user consents.
func (c *Connections) ask(w http.ResponseWriter, r *http.Request) {
	target, err := url.Parse(r.Form.Get("redirect_uri"))
	if err != nil || target.Host == "" || r.Form.Get("client_id") != c.clientID || r.Form.Get("response_type") != "code" || r.Form.Get("state") == "" {
		http.Error(w, "This request for consent is not sound.", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, "<!doctype html><html lang=\"en\"><head><title>Connect</title></head><body><main><h1>Connect %s?</h1><form method=\"post\">", html.EscapeString(c.clientID))
	for _, name := range []string{"client_id", "redirect_uri", "state", "scope", "code_challenge"} {
		fmt.Fprintf(w, "<input type=\"hidden\" name=\"%s\" value=\"%s\">", name, html.EscapeString(r.Form.Get(name)))
	}
	fmt.Fprint(w, "<button name=\"decision\" value=\"allow\">Allow</button> <button name=\"decision\" value=\"deny\">Deny</button></form></main></body></html>")
}

// decide sends the browser back with what the user decided.
func (c *Connections) decide(w http.ResponseWriter, r *http.Request) {
	target, err := url.Parse(r.PostForm.Get("redirect_uri"))
	if err != nil || target.Host == "" || r.PostForm.Get("client_id") != c.clientID {
		http.Error(w, "This request for consent is not sound.", http.StatusBadRequest)
		return
	}
	query := target.Query()
	query.Set("state", r.PostForm.Get("state"))
	if r.PostForm.Get("decision") == "allow" {
		code := rand.Text()
		c.codes[code] = consent{scope: r.PostForm.Get("scope"), redirectURI: r.PostForm.Get("redirect_uri"), challenge: r.PostForm.Get("code_challenge"), given: c.now(), revoked: new(bool)}
		query.Set("code", code)
	} else {
		query.Set("error", "access_denied")
		query.Set("error_description", "The user did not consent.")
	}
	target.RawQuery = query.Encode()
	http.Redirect(w, r, target.String(), http.StatusSeeOther)
}

// refuse is RFC 6749 §5.2.
func refuse(w http.ResponseWriter, code, description string) {
	respond(w, http.StatusBadRequest, object{"error": code, "error_description": description})
}

func (c *Connections) serveToken(w http.ResponseWriter, r *http.Request) {
	id, secret, basic := r.BasicAuth()
	if basic { // RFC 6749 §2.3.1
		var idErr, secretErr error
		id, idErr = url.QueryUnescape(id)
		secret, secretErr = url.QueryUnescape(secret)
		basic = idErr == nil && secretErr == nil
	}
	if !basic {
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	if id != c.clientID || secret != c.secret {
		w.Header().Set("WWW-Authenticate", `Basic realm="connections"`)
		respond(w, http.StatusUnauthorized, object{"error": "invalid_client"})
		return
	}
	elsewhere := c.style == RefreshElsewhere || c.style == RefreshWithAccessToken
	switch grant := r.PostForm.Get("grant_type"); {
	case r.URL.Path == "/oauth/token" && grant == "authorization_code":
		c.exchange(w, r)
	case grant == "refresh_token" && c.style == RefreshWithAccessToken && r.URL.Path == "/oauth/refresh":
		c.prolong(w, c.tokens[r.PostForm.Get("access_token")])
	case grant == "refresh_token" && elsewhere == (r.URL.Path == "/oauth/refresh"):
		value := r.PostForm.Get("refresh_token")
		of := c.refreshes[value]
		if c.style != RefreshElsewhere && c.style != ExpiringRefresh {
			delete(c.refreshes, value) // its successor takes its place
		}
		c.prolong(w, of)
	default:
		refuse(w, "unsupported_grant_type", "not here")
	}
}

func (c *Connections) exchange(w http.ResponseWriter, r *http.Request) {
	code := r.PostForm.Get("code")
	of, ok := c.codes[code]
	delete(c.codes, code)
	sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	if !ok || of.redirectURI != r.PostForm.Get("redirect_uri") || of.challenge != "" && of.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
		refuse(w, "invalid_grant", "The code is not good.")
		return
	}
	c.grant(w, &of, true)
}

// prolong refreshes what came of a consent.
func (c *Connections) prolong(w http.ResponseWriter, of *consent) {
	switch {
	case of == nil || *of.revoked:
		refuse(w, "invalid_grant", "The connection was revoked, or the token is not known.")
	case c.style == ExpiringRefresh && c.now().Sub(of.given) > 10*c.lifetime:
		refuse(w, "invalid_grant", "The refresh token has expired.")
	default:
		c.refreshed++
		c.grant(w, of, c.style == Rotating)
	}
}

// grant answers with an access token, and with a refresh token where there are some and a new one is due.
func (c *Connections) grant(w http.ResponseWriter, of *consent, fresh bool) {
	access := rand.Text()
	c.tokens[access], c.ends[access] = of, c.now().Add(c.lifetime)
	answer := object{"access_token": access, "token_type": "bearer", "expires_in": int(c.lifetime.Seconds()), "scope": of.scope}
	if fresh && c.style != NoRefresh && c.style != RefreshWithAccessToken {
		refresh := rand.Text()
		c.refreshes[refresh] = of
		answer["refresh_token"] = refresh
	}
	respond(w, http.StatusOK, answer)
}
