package broker

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// JWKS is a set of public keys (RFC 7517 §5), each a JWK.
type JWKS struct {
	Keys []json.RawMessage `json:"keys"`
}

// PublicKeys returns the public halves of a client's pending, current and previous
// private keys, by ascending version: what its authorization server may verify
// assertions with, or know certificates by that they signed themselves (RFC 8705 §2.2.2). A key is in the set from when it is staged until its version is
// retired or loses its label.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, CLIENT_DISABLED; SECRET_NOT_SET for a client that
// has no such key or authenticates in another way; a reason of the store, if the set
// would not be whole.
func (b *Broker) PublicKeys(ctx context.Context, id string) (JWKS, error) {
	loaded, _, err := b.load(ctx, id)
	if err != nil {
		return JWKS{}, err
	}
	c := loaded.client
	if err := c.usable(); err != nil {
		return JWKS{}, err
	}
	var set JWKS
	for _, version := range c.Secrets {
		if version.Stage == Unlabelled || version.Destroying || !c.Upstream.keyed() {
			continue
		}
		key, err := b.publicKeyOf(ctx, c, version)
		if err != nil {
			return JWKS{}, err
		}
		if key != "" {
			set.Keys = append(set.Keys, shownKey(c.Upstream.Authentication, key))
		}
	}
	if len(set.Keys) == 0 {
		return JWKS{}, newError(ReasonSecretNotSet, c.ID, "there is no key pair")
	}
	return set, nil
}

// publicHalf returns what a new version's record says of its key.
func (b *Broker) publicHalf(u Upstream, value secret.Value) (string, error) {
	if b.publicKey == nil || !u.keyed() {
		return "", nil
	}
	return b.publicKey(value)
}

// publicKeyOf returns a version's public key; "" if its value is gone for good, or not
// what was staged, so that nothing is signed with it either. Of versions whose record
// does not have it the value is read, once.
func (b *Broker) publicKeyOf(ctx context.Context, c *Client, version SecretVersion) (string, error) {
	if version.PublicKey != "" {
		return version.PublicKey, nil
	}
	if known, ok := b.publicKeys.GetIfPresent(version.Fingerprint); ok {
		return known, nil
	}
	value, err := b.readSecret(ctx, c, version)
	if err == nil {
		var key string
		if key, err = b.publicHalf(c.Upstream, value); err == nil {
			b.publicKeys.Set(version.Fingerprint, key)
			return key, nil
		}
	}
	if reason := string(ReasonOf(err)); strings.HasPrefix(reason, "SECRET_") || strings.HasPrefix(reason, "RECORD_") {
		return "", nil
	}
	return "", err
}

// shownKey gives a key the id that the client's assertions name.
func shownKey(auth Authentication, key string) json.RawMessage {
	var members map[string]json.RawMessage
	if auth.KeyID == "" || json.Unmarshal([]byte(key), &members) != nil {
		return json.RawMessage(key)
	}
	encoded, err := json.Marshal(auth.KeyID)
	if err != nil {
		return json.RawMessage(key)
	}
	members["kid"] = encoded
	if shown, err := json.Marshal(members); err == nil {
		return shown
	}
	return json.RawMessage(key)
}
