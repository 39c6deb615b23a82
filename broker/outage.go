package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// outage reports whether err says that the store is away, as opposed to what it
// says or refuses. A sealed store is not away: somebody stopped it.
func outage(err error) bool {
	switch ReasonOf(err) {
	case ReasonStoreUnreachable, ReasonStoreStandby, ReasonStoreRateLimited, ReasonStoreFailed:
		return true
	case ReasonDeadlineExceeded:
		return errors.Is(err, context.DeadlineExceeded)
	}
	return false
}

// secretID names one secret version of one client.
type secretID struct {
	uid    string
	number int64
}

type keptSecret struct {
	value    secret.Value
	readTime time.Time
}

// keptSecrets are the secrets that were last read, for the time that the store is
// away. Each is kept for most since it was read. Safe for concurrent use.
type keptSecrets struct {
	most time.Duration // 0 keeps none

	mu     sync.Mutex // guards what follows
	values map[secretID]keptSecret
	swept  time.Time
}

// keep remembers a copy of value.
func (k *keptSecrets) keep(c *Client, version SecretVersion, value secret.Value) {
	if k.most <= 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if now.Sub(k.swept) > time.Minute {
		k.sweepLocked(now)
	}
	id := secretID{c.UID, version.Number}
	k.values[id].value.Wipe()
	k.values[id] = keptSecret{secret.New(value.Reveal()), now}
}

// get returns a copy that the caller wipes.
func (k *keptSecrets) get(c *Client, version SecretVersion) (secret.Value, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept, ok := k.values[secretID{c.UID, version.Number}]
	if !ok || time.Since(kept.readTime) > k.most {
		return secret.Value{}, false
	}
	return secret.New(kept.value.Reveal()), true
}

// sweep wipes what is kept too long.
func (k *keptSecrets) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweepLocked(time.Now())
}

func (k *keptSecrets) sweepLocked(now time.Time) {
	k.swept = now
	for id, kept := range k.values {
		if now.Sub(kept.readTime) > k.most {
			kept.value.Wipe()
			delete(k.values, id)
		}
	}
}

// forgetClient wipes those of a client that is gone.
func (k *keptSecrets) forgetClient(uid string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, kept := range k.values {
		if id.uid == uid {
			kept.value.Wipe()
			delete(k.values, id)
		}
	}
}

// forget wipes everything.
func (k *keptSecrets) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, kept := range k.values {
		kept.value.Wipe()
	}
	clear(k.values)
}

// mintInOutage gets a token for this replica alone, with what it has in memory, while
// the store is away because of cause. What only the store can say (limits that the
// fleet shares) stops it. While a good token is there it waits for the store, so that
// a restart of it does not make every replica ask.
func (b *Broker) mintInOutage(ctx context.Context, w want, cause error) (*Token, error) {
	loaded, ok := b.clients.GetIfPresent(nameOf(w.query.ClientID))
	if !ok {
		return nil, cause
	}
	c := loaded.client
	current, ok := c.minting()
	if !ok || c.usable() != nil || c.Upstream.limited() || c.Upstream.Grant.ofUsers() || checkBound(c, current) != nil {
		return nil, cause
	}
	now := time.Now()
	if s := w.seen; w.background && s != nil && s.ExpireTime.Sub(now) > s.ExpireTime.Sub(s.RefreshAfter)/2 {
		return nil, cause
	}
	if p, ok := b.parked.GetIfPresent(c.UID); ok && p.about(c, current) {
		return nil, p.refusal(c, now)
	}
	key, err := keyOf(c, w.query)
	if err != nil {
		return nil, err
	}
	value, ok := secret.Value{}, !c.needsSecret()
	if !ok {
		value, ok = b.secrets.get(c, current)
	}
	if !ok {
		return nil, cause
	}
	defer value.Wipe()
	ctx, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	token, err := b.request(ctx, c, current, value, key.ask(w.query))
	if err != nil {
		return nil, b.noteFailure(ctx, c, current, key, err)
	}
	b.install(key, token)
	return token, nil
}
