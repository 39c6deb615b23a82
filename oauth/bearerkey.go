package oauth

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// bearerLifetime is how long the JWT of private_key_bearer is good for; GitHub takes
	// ten minutes at most, counted by its own clock.
	bearerLifetime = 9 * time.Minute
	// bearerSlack is how far iat lies in the past, for servers whose clock is behind ours
	// and that refuse what was issued in the future, as GitHub does.
	bearerSlack = time.Minute
)

// bear sends a JWT that the client signed as the request's bearer token, as GitHub Apps
// do. It names no audience: the key is for this one server alone.
func bear(header http.Header, req broker.TokenRequest) ([]string, error) {
	key, err := parseKey(req.Secret.Reveal())
	if err != nil {
		return nil, err
	}
	now := time.Now()
	payload, err := json.Marshal(struct {
		Issuer    string `json:"iss"`
		IssuedAt  int64  `json:"iat"`
		ExpiresAt int64  `json:"exp"`
	}{req.ClientID, now.Add(-bearerSlack).Unix(), now.Add(bearerLifetime - bearerSlack).Unix()})
	if err != nil {
		return nil, unusable("the token's claims cannot be encoded")
	}
	signed, err := key.compact(req.Authentication, payload)
	if err != nil {
		return nil, err
	}
	header.Set("Authorization", "Bearer "+signed)
	return append(keySpellings(req.Secret.Reveal()), signed), nil
}
