// Package played plays the management APIs of providers that cannot be run here: what they document of requests and answers, and
// what their users report. What is played, and from which sources, is named in oauth/rotator, whose tests use it, as do those that
// run the whole server.
//
// Whoever serves a play checks the Authorization header first, and serves one request at a time: a play has no lock of its own.
package played

import (
	"encoding/json"
	"net/http"
)

// Object is a JSON object.
type Object = map[string]any

// Secrets is what the authorization server beside a management API is told. A nil function is not called.
type Secrets struct {
	// Make returns the value of the n-th secret that is made, from 1. Required.
	Make func(n int) string
	// Added is called with a secret that works from now on, Ended with one that does not any more.
	Added, Ended func(value string)
}

func (s Secrets) added(value string) {
	if s.Added != nil {
		s.Added(value)
	}
}

func (s Secrets) ended(value string) {
	if s.Ended != nil {
		s.Ended(value)
	}
}

// Respond answers with JSON; a nil body is none.
func Respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body) // a peer that has left is nobody's loss
	}
}

func decode(r *http.Request) Object {
	var body Object
	_ = json.NewDecoder(r.Body).Decode(&body)
	return body
}
