package broker

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// sealingKey seals shared tokens with AES-256-GCM. The last of the meta record's list
// seals new ones.
type sealingKey struct {
	ID  string `json:"id"`
	Key []byte `json:"key"`
}

func newSealingKey() sealingKey {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	return sealingKey{ID: newID()[:8], Key: key}
}

func (k sealingKey) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.Key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// sealedToken is a token as the store has it. The store's operator sees when it
// expires, which the sweeper needs, and no more.
type sealedToken struct {
	KeyID      string    `json:"key_id"`
	Sealed     []byte    `json:"sealed"`
	ExpireTime time.Time `json:"expire_time"`
}

// sharedToken is what is sealed.
type sharedToken struct {
	Access        string        `json:"access"`
	Type          string        `json:"type"`
	IssueTime     time.Time     `json:"issue_time"`
	ExpireTime    time.Time     `json:"expire_time"`
	ExpirySource  ExpirySource  `json:"expiry_source"`
	RefreshIn     time.Duration `json:"refresh_in,omitempty"`
	Scopes        []string      `json:"scopes"`
	SecretVersion int64         `json:"secret_version"`
	Warnings      []Warning     `json:"warnings,omitempty"`
	// Ahead is how far the authorization server's clock ran ahead of that of the
	// replica whose times these are; nil if that was not known.
	Ahead *time.Duration `json:"ahead,omitempty"`
	// Grant is the generation of the user's grant that it was had by, Certificate the
	// thumbprint of the certificate that it is bound to; 0 and "" for none.
	Grant       int64  `json:"grant,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	// Query is one that the token answers; nil in those of earlier releases.
	Query *TokenQuery `json:"query,omitempty"`
}

// sealer returns the keys of the meta record, and makes the first one in a store that
// an earlier release made.
func (b *Broker) sealer(ctx context.Context) ([]sealingKey, error) {
	m, err := b.meta(ctx)
	for try := 0; err == nil && len(m.SealingKeys) == 0 && try < 3; try++ {
		if m, err = b.readMeta(ctx); err != nil || len(m.SealingKeys) > 0 {
			break
		}
		m.SealingKeys = []sealingKey{newSealingKey()}
		_, err = b.write(ctx, metaKey, m.version, &m.header, m)
		if ReasonOf(err) == ReasonStoreConflict { // another replica was faster; its key is the key
			m.SealingKeys, err = nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("find the sealing key: %w", err)
	}
	if len(m.SealingKeys) == 0 {
		return nil, newError(ReasonStoreConflict, "", "%s is changed all the time", metaKey)
	}
	b.metaCache.Store(m)
	return m.SealingKeys, nil
}

// seal encrypts t for the record at key, which is part of what is authenticated: a
// token copied to another record does not open.
func (t *Token) seal(k sealingKey, key string, ahead *time.Duration, q TokenQuery) (*sealedToken, error) {
	plain, err := json.Marshal(sharedToken{
		Access: t.Access.RevealString(), Type: t.Type, IssueTime: t.IssueTime.UTC(), ExpireTime: t.ExpireTime.UTC(), ExpirySource: t.ExpirySource,
		RefreshIn: t.refreshIn, Scopes: t.Scopes, SecretVersion: t.SecretVersion, Warnings: t.warnings, Ahead: ahead, Query: &q,
		Grant: t.grant, Certificate: t.certificate,
	})
	if err != nil {
		return nil, fmt.Errorf("encode token: %w", err)
	}
	defer clear(plain)
	aead, err := k.aead()
	if err != nil {
		return nil, fmt.Errorf("seal token: %w", err)
	}
	return &sealedToken{KeyID: k.ID, Sealed: aead.Seal(nil, nil, plain, []byte(key)), ExpireTime: t.ExpireTime.UTC()}, nil
}

var errUnsealed = errors.New("a shared token cannot be opened")

// open decrypts what the record at key holds.
func (s *sealedToken) open(keys []sealingKey, key string) (*sharedToken, error) {
	i := slices.IndexFunc(keys, func(k sealingKey) bool { return k.ID == s.KeyID })
	if i < 0 {
		return nil, errUnsealed
	}
	aead, err := keys[i].aead()
	if err != nil {
		return nil, errUnsealed
	}
	plain, err := aead.Open(nil, nil, s.Sealed, []byte(key))
	if err != nil {
		return nil, errUnsealed
	}
	defer clear(plain)
	var t sharedToken
	if json.Unmarshal(plain, &t) != nil { // its error might quote
		return nil, errUnsealed
	}
	return &t, nil
}

// token returns s as a token of replica at now. ahead is how far the server's clock
// runs ahead of ours, if that is known: it relates our clock to the other replica's.
func (s *sharedToken) token(replica string, c *Client, key tokenKey, ahead *time.Duration, now time.Time) *Token {
	shift := time.Duration(0)
	if ahead != nil && s.Ahead != nil {
		shift = *s.Ahead - *ahead
	}
	lifetime := s.ExpireTime.Sub(s.IssueTime)
	age := max(now.Sub(s.IssueTime.Add(shift)), 0) // it was issued before now, whatever clocks say
	issued := now.Add(-age)                        // with the reading of the clock that only runs forward
	access := secret.NewString(s.Access)
	t := &Token{
		Access: access, Type: s.Type, ID: access.ID(), IssueTime: issued, ExpireTime: issued.Add(lifetime), ExpirySource: s.ExpirySource,
		Scopes: s.Scopes, SecretVersion: s.SecretVersion, warnings: s.Warnings, refreshIn: s.RefreshIn, limited: c.Upstream.limited(), clientID: c.ID, uid: c.UID, generation: c.TokenGeneration,
		subject: key.subject, grant: s.Grant, certificate: s.Certificate,
	}
	t.setWindows(replica, key)
	return t
}
