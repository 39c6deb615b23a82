// Package provider is a provider of the kind that a team writes a rotator for: an
// authorization server with a small management API, which takes several secrets of a
// client at a time and never shows one.
//
//	PUT  /admin/clients/{client}/secrets/{name}  {"secret": "…"}  201; 204 if it is there; 409 if another one is
//	GET  /admin/clients/{client}/secrets         200 {"names": ["…"]}
//	POST /admin/clients/{client}/revoke          {"secret": "…"}  204, also if there is none
//
// All with a management token as bearer token, else 401; 404 for an unknown client.
package provider

import (
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"slices"
	"sync"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Provider is the management API beside an authorization server. It is an http.Handler
// for both, and safe for concurrent use.
type Provider struct {
	server *authserver.Server
	token  secret.Value
	mux    *http.ServeMux

	mu      sync.Mutex                         // guards secrets
	secrets map[string]map[string]secret.Value // :: client → name → secret
}

// New returns a Provider whose management API takes token.
func New(server *authserver.Server, token secret.Value) *Provider {
	p := &Provider{server: server, token: token, mux: http.NewServeMux(), secrets: map[string]map[string]secret.Value{}}
	p.mux.Handle("/", server)
	p.mux.HandleFunc("PUT /admin/clients/{client}/secrets/{name}", p.managed(p.put))
	p.mux.HandleFunc("GET /admin/clients/{client}/secrets", p.managed(p.list))
	p.mux.HandleFunc("POST /admin/clients/{client}/revoke", p.managed(p.revoke))
	return p
}

// Register adds a client with one secret, of that name.
func (p *Provider) Register(client, name string, value secret.Value) error {
	if err := p.server.AddClient(authserver.Client{ID: client, Secrets: []secret.Value{value}}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.secrets[client] = map[string]secret.Value{name: value}
	return nil
}

// Count returns how many secrets of a client work.
func (p *Provider) Count(client string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.secrets[client])
}

// ServeHTTP implements http.Handler.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

// managed lets only managers in, to clients that there are, one at a time.
func (p *Provider) managed(next func(w http.ResponseWriter, r *http.Request, secrets map[string]secret.Value)) http.HandlerFunc {
	want := []byte("Bearer " + p.token.RevealString())
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		secrets, ok := p.secrets[r.PathValue("client")]
		if !ok {
			http.Error(w, "no such client", http.StatusNotFound)
			return
		}
		next(w, r, secrets)
	}
}

func (p *Provider) put(w http.ResponseWriter, r *http.Request, secrets map[string]secret.Value) {
	value, ok := secretIn(w, r)
	if !ok {
		return
	}
	name := r.PathValue("name")
	if present, ok := secrets[name]; ok {
		if !present.Equal(value) {
			http.Error(w, "another secret has that name", http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err := p.server.AddSecret(r.PathValue("client"), value); err != nil {
		http.Error(w, "no such client", http.StatusNotFound)
		return
	}
	secrets[name] = value
	w.WriteHeader(http.StatusCreated)
}

func (p *Provider) list(w http.ResponseWriter, _ *http.Request, secrets map[string]secret.Value) {
	answer := struct {
		Names []string `json:"names"`
	}{Names: []string{}}
	for name := range secrets {
		answer.Names = append(answer.Names, name)
	}
	slices.Sort(answer.Names)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // a peer that has left is nobody's loss
}

func (p *Provider) revoke(w http.ResponseWriter, r *http.Request, secrets map[string]secret.Value) {
	value, ok := secretIn(w, r)
	if !ok {
		return
	}
	for name, present := range secrets {
		if present.Equal(value) {
			if err := p.server.RemoveSecret(r.PathValue("client"), value); err != nil {
				http.Error(w, "no such client", http.StatusNotFound)
				return
			}
			delete(secrets, name)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func secretIn(w http.ResponseWriter, r *http.Request) (secret.Value, bool) {
	var body struct {
		Secret string `json:"secret"`
	}
	if json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&body) != nil || body.Secret == "" {
		http.Error(w, "there is no secret in the body", http.StatusBadRequest)
		return secret.Value{}, false
	}
	return secret.NewString(body.Secret), true
}
