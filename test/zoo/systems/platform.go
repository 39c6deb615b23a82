package systems

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Platform gives tokens for client credentials by HTTP Basic at POST /oauth/v2/token, as base64(client_id:client_secret) without any
// further encoding, and takes them below /v2/: "GET /v2/THING" needs the permission "THING:read". Bad credentials and bad tokens are
// 401, a missing permission is 403.
type Platform struct {
	clock
	key key

	mu      sync.Mutex // guards the rest
	clients map[string]*platformClient
	revoked map[string]bool // :: jti → true
	asked   int
}

type platformClient struct {
	secret      string
	permissions []string
}

// NewPlatform returns a platform without clients.
func NewPlatform() *Platform {
	return &Platform{key: newKey(), clients: map[string]*platformClient{}, revoked: map[string]bool{}}
}

// SetClient registers a client under a client_id that its owner chose, or changes what there is.
func (p *Platform) SetClient(id, secret string, permissions ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[id] = &platformClient{secret, permissions}
}

// Revoke ends one token before its time.
func (p *Platform) Revoke(token string) {
	c, _ := p.key.read(token)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revoked[c.ID] = true
}

// TokenRequests is how many came.
func (p *Platform) TokenRequests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// ServeHTTP implements http.Handler.
func (p *Platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/oauth/v2/token":
		p.serveToken(w, r)
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v2/"):
		p.serveAPI(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (p *Platform) serveToken(w http.ResponseWriter, r *http.Request) {
	id, secret, ok := r.BasicAuth()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	client := p.clients[id]
	switch {
	case !ok || client == nil || client.secret != secret:
		w.Header().Set("WWW-Authenticate", `Basic realm="platform"`)
		respond(w, http.StatusUnauthorized, object{"requestId": rand.Text(), "errors": []string{"The credentials you provided are invalid."}})
	case r.PostFormValue("grant_type") != "client_credentials":
		respond(w, http.StatusBadRequest, object{"error": "unsupported_grant_type"})
	default:
		now := p.now()
		token := p.key.sign(claims{Subject: id, ID: rand.Text(), Issued: now.Unix(), Expires: now.Add(time.Hour).Unix(), Scope: client.permissions})
		respond(w, http.StatusOK, object{"token_type": "Bearer", "expires_in": 3600, "access_token": token})
	}
}

func (p *Platform) serveAPI(w http.ResponseWriter, r *http.Request) {
	c, good := p.key.read(bearer(r))
	p.mu.Lock()
	defer p.mu.Unlock()
	if !good || p.revoked[c.ID] || p.now().Unix() >= c.Expires {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		respond(w, http.StatusUnauthorized, object{"errors": []string{"The token is not valid."}})
		return
	}
	thing := strings.TrimPrefix(r.URL.Path, "/v2/")
	if !slices.Contains(c.Scope, thing+":read") {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="insufficient_scope", scope=%q`, thing+":read"))
		respond(w, http.StatusForbidden, object{"errors": []string{"The permission " + thing + ":read is missing."}})
		return
	}
	respond(w, http.StatusOK, object{thing: []string{}})
}
