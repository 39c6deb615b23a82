// Package systems plays four systems whole, authorization server and API, the way their documents and users describe them: client
// credentials with Basic ([Platform]), a JSON login whose tokens live as long as they are used ([FieldService]), a user's consent with
// refresh tokens of several kinds ([Connections]), and a front that is not OAuth 2 at all ([SecretFront]).
//
// Each is an [http.Handler], safe for concurrent use, keeps everything in memory and is for tests alone.
package systems

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// clock is a system's own, which tests set ahead.
type clock struct{ ahead atomic.Int64 }

// Advance sets the system's clock further ahead.
func (c *clock) Advance(d time.Duration) { c.ahead.Add(int64(d)) }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// respond answers with JSON.
func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a peer that has left is nobody's loss
}

type object = map[string]any

// bearer is the token of an Authorization header; "" without the prefix "Bearer ".
func bearer(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return token
}

// members reads the strings of a JSON object; nil if the body is not one that says it is JSON.
func members(r *http.Request) map[string]string {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		return nil
	}
	var read map[string]string
	if json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&read) != nil {
		return nil
	}
	return read
}

// claims are what the systems' JWTs say.
type claims struct {
	Subject string   `json:"sub"`
	ID      string   `json:"jti"`
	Issued  int64    `json:"iat"`
	Expires int64    `json:"exp"`
	Scope   []string `json:"scope,omitempty"`
}

// key signs a system's JWTs.
type key []byte

func newKey() key { return key(rand.Text() + rand.Text()) }

func (k key) sign(c claims) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(k)}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		panic(err) // a key of 32 bytes is good
	}
	payload, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and numbers are JSON
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		panic(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return token
}

// read returns the claims of a token that this key signed.
func (k key) read(token string) (claims, bool) {
	var c claims
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return c, false
	}
	payload, err := signed.Verify([]byte(k))
	return c, err == nil && json.Unmarshal(payload, &c) == nil
}
