package authserver

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// The methods of client authentication, as registered with IANA.
const (
	MethodBasic         = "client_secret_basic"
	MethodPost          = "client_secret_post"
	MethodPrivateKeyJWT = "private_key_jwt"
)

// Client is a client as it is registered.
type Client struct {
	// ID is the client_id.
	ID string
	// Secrets are all valid at the same time; at least one is needed for Basic and post.
	Secrets []secret.Value
	// Keys are the public keys that assertions are verified with.
	Keys []jose.JSONWebKey
	// Method is the only method that the client may use; "" permits each for which
	// it has a secret or key.
	Method string
	// Scopes are what may be asked for; a request without scope gets them all.
	Scopes []string
}

// registration is a Client inside a Server, guarded by its mutex.
type registration struct{ Client }

// AddClient registers a client.
func (s *Server) AddClient(c Client) error {
	if c.ID == "" {
		return errors.New("authserver: a client needs an id")
	}
	if err := checkKeys(c.Keys); err != nil {
		return err
	}
	c.Secrets, c.Keys, c.Scopes = slices.Clone(c.Secrets), slices.Clone(c.Keys), slices.Clone(c.Scopes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.clients[c.ID]; exists {
		return fmt.Errorf("authserver: client %s is registered already", c.ID)
	}
	s.clients[c.ID] = &registration{c}
	return nil
}

// AddSecret makes a further secret valid, beside those that are.
func (s *Server) AddSecret(clientID string, value secret.Value) error {
	if value.IsZero() {
		return errors.New("authserver: the secret is empty")
	}
	return s.change(clientID, func(r *registration) { r.Secrets = append(r.Secrets, value) })
}

// RemoveSecret makes a secret invalid. Removing one that is not valid succeeds.
func (s *Server) RemoveSecret(clientID string, value secret.Value) error {
	return s.change(clientID, func(r *registration) { r.Secrets = slices.DeleteFunc(r.Secrets, value.Equal) })
}

// SetKeys replaces the public keys of a client.
func (s *Server) SetKeys(clientID string, keys ...jose.JSONWebKey) error {
	if err := checkKeys(keys); err != nil {
		return err
	}
	return s.change(clientID, func(r *registration) { r.Keys = slices.Clone(keys) })
}

func checkKeys(keys []jose.JSONWebKey) error {
	for _, key := range keys {
		if !key.IsPublic() || !key.Valid() {
			return errors.New("authserver: a key is not a valid public key")
		}
	}
	return nil
}

func (s *Server) change(clientID string, change func(*registration)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.clients[clientID]
	if !ok {
		return fmt.Errorf("authserver: no client %s", clientID)
	}
	change(r)
	return nil
}

// find returns a copy of what is registered.
func (s *Server) find(clientID string) (Client, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.clients[clientID]
	if !ok {
		return Client{}, false
	}
	c := r.Client
	c.Secrets, c.Keys = slices.Clone(c.Secrets), slices.Clone(c.Keys)
	return c, true
}

// may reports whether the client may use the method.
func (c Client) may(method string) bool { return c.Method == "" || c.Method == method }

// accepts reports whether value is one of the client's secrets. All are compared,
// each in constant time, so that the time tells nothing of which one matched.
func (c Client) accepts(value secret.Value) bool {
	accepted := false
	for _, s := range c.Secrets {
		accepted = s.Equal(value) || accepted
	}
	return accepted && !value.IsZero()
}
