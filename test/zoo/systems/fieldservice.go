package systems

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// rollingLifetime is how long a token of a [FieldService] lives unused.
const rollingLifetime = 24 * time.Hour

// FieldService logs in by POST /Authorization with JSON {"ClientId", "Secret"} and answers {"Token", "RefreshToken"}; POST
// /Authorization/RefreshToken with {"RefreshToken"} gives another pair. A token, a JWT, lives for 24 hours, which each use of the API
// begins anew. The API has endpoints by name, "GET /Properties": a credential opens those that it was given, its scope; others are 403.
// A secret is shown once; who loses it has it made anew, which ends the old one.
type FieldService struct {
	clock
	key key

	mu          sync.Mutex // guards the rest
	credentials map[string]*credential
	sessions    map[string]*session // :: jti → session
	refreshes   map[string]string   // :: refresh token → client id
	logins      int
}

type credential struct {
	secret    string
	endpoints []string
}

type session struct {
	client   string
	lastUsed time.Time
}

// NewFieldService returns one without credentials.
func NewFieldService() *FieldService {
	return &FieldService{key: newKey(), credentials: map[string]*credential{}, sessions: map[string]*session{}, refreshes: map[string]string{}}
}

// NewCredential makes a credential for these endpoints and shows its secret, for once.
func (f *FieldService) NewCredential(endpoints ...string) (clientID, secret string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	clientID, secret = strings.ToLower(rand.Text()), rand.Text()
	f.credentials[clientID] = &credential{secret, endpoints}
	return clientID, secret
}

// Regenerate makes a new secret, which ends the old one; tokens go on.
func (f *FieldService) Regenerate(clientID string) (secret string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.credentials[clientID].secret = rand.Text()
	return f.credentials[clientID].secret
}

// Logins is how often somebody tried to log in.
func (f *FieldService) Logins() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.logins
}

// ServeHTTP implements http.Handler.
func (f *FieldService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/Authorization":
		f.login(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/Authorization/RefreshToken":
		f.prolong(w, r)
	case r.Method == http.MethodGet:
		f.serveAPI(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (f *FieldService) login(w http.ResponseWriter, r *http.Request) {
	f.logins++
	sent := members(r)
	known := f.credentials[sent["ClientId"]]
	switch {
	case sent == nil:
		respond(w, http.StatusUnsupportedMediaType, object{"title": "Unsupported Media Type", "status": 415})
	case known == nil || known.secret != sent["Secret"]:
		respond(w, http.StatusUnauthorized, object{"title": "Unauthorized", "status": 401})
	default:
		f.grant(w, sent["ClientId"])
	}
}

func (f *FieldService) prolong(w http.ResponseWriter, r *http.Request) {
	value := members(r)["RefreshToken"]
	client, ok := f.refreshes[value]
	delete(f.refreshes, value)
	if !ok {
		respond(w, http.StatusUnauthorized, object{"title": "Unauthorized", "status": 401})
		return
	}
	f.grant(w, client)
}

func (f *FieldService) grant(w http.ResponseWriter, client string) {
	now, id, refresh := f.now(), rand.Text(), rand.Text()
	f.sessions[id], f.refreshes[refresh] = &session{client, now}, client
	token := f.key.sign(claims{Subject: client, ID: id, Issued: now.Unix(), Expires: now.Add(rollingLifetime).Unix()})
	respond(w, http.StatusOK, object{"Token": token, "RefreshToken": refresh})
}

// serveAPI begins the token's day anew, also where the endpoint is not one of the credential's.
func (f *FieldService) serveAPI(w http.ResponseWriter, r *http.Request) {
	c, _ := f.key.read(bearer(r))
	now, live := f.now(), f.sessions[c.ID]
	if live == nil || now.Sub(live.lastUsed) >= rollingLifetime {
		respond(w, http.StatusUnauthorized, object{"title": "Unauthorized", "status": 401})
		return
	}
	live.lastUsed = now
	endpoint := strings.TrimPrefix(r.URL.Path, "/")
	if !slices.Contains(f.credentials[live.client].endpoints, endpoint) {
		respond(w, http.StatusForbidden, object{"title": "Forbidden", "status": 403})
		return
	}
	respond(w, http.StatusOK, object{endpoint: []string{}})
}
