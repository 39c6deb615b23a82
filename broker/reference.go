package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	// followEvery is how often the owners of secrets in use are looked at; with the
	// jitter of every that is within 30 s.
	followEvery = 27 * time.Second
	// After a failure to follow nobody tries for holdDown, doubled up to maxHoldDown;
	// after a refusal by the authorization server for refusedHold, doubled up to
	// maxRefusedHold: wrong secrets may lock a client out. While the store is away the
	// next look is as good a time as any.
	refusedHold    = time.Minute
	maxRefusedHold = time.Hour
)

// follows remembers which clients could not follow the owner of their secret. The zero
// value is ready for use; safe for concurrent use.
type follows struct {
	mu sync.Mutex
	// failed :: uid → the last failure in a row; guarded by mu
	failed map[string]followFailure
}

type followFailure struct {
	err   error
	count int
	until time.Time
}

// last returns why the last try failed; nil if it did not, or is not known here.
func (f *follows) last(uid string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed[uid].err
}

// heldDown reports whether it is too early for another try.
func (f *follows) heldDown(uid string, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return now.Before(f.failed[uid].until)
}

// note takes in what became of a try; nil is a success.
func (f *follows) note(uid string, err error, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.failed, uid)
		return
	}
	if f.failed == nil {
		f.failed = map[string]followFailure{}
	}
	for other, failure := range f.failed { // of clients that nobody uses any more
		if now.Sub(failure.until) > maxRefusedHold {
			delete(f.failed, other)
		}
	}
	first, most := holdDown, maxHoldDown
	switch {
	case parks(ReasonOf(err)):
		first, most = refusedHold, maxRefusedHold
	case outage(err) || ReasonOf(err) == ReasonStoreSealed:
		most = followEvery
	}
	count := f.failed[uid].count + 1
	wait := max(min(first<<min(count-1, 10), most), min(AsError(err).RetryAfter, maxRetryAfter))
	f.failed[uid] = followFailure{err: err, count: count, until: now.Add(wait)}
}

// follow returns c after its owner's last change of the secret that c refers to was
// taken over, if there is one: the new version becomes pending, and current once a
// token was had with it. Whatever goes wrong with that leaves current as it is, is
// logged, and is not tried again for a while.
func (b *Broker) follow(ctx context.Context, c *Client) *Client {
	current, ok := c.Staged(Current)
	if !ok || current.Reference.IsZero() || b.references == nil || c.usable() != nil || b.follows.heldDown(c.UID, time.Now()) {
		return c
	}
	result, err, _ := b.following.Do(c.UID, func() (any, error) {
		ctx, cancel := context.WithTimeout(ctx, mintTimeout)
		defer cancel()
		followed, err := b.followOwner(ctx, c, current)
		if ReasonOf(err) == ReasonConcurrentChange { // another replica may have been faster
			return b.readClient(ctx, c.ID)
		}
		b.follows.note(c.UID, err, time.Now())
		if err != nil {
			b.log.WarnContext(ctx, "secret does not follow its owner", "client", c.ID, "secret_version", current.Number,
				"reference", current.Reference.String(), "reason", ReasonOf(err), "cause", err)
		}
		return followed, err
	})
	// A flight that began before c was read has read an older one.
	if followed, ok := result.(*Client); ok && err == nil && followed.UID == c.UID && followed.version > c.version {
		return followed
	}
	return c
}

// followOwner looks at the owner's latest version, and takes it over if it is another
// one than current's.
func (b *Broker) followOwner(ctx context.Context, c *Client, current SecretVersion) (*Client, error) {
	if checkBound(c, current) != nil {
		return c, nil // a version found now would be bound to where current must not go
	}
	latest, err := b.latestOf(ctx, current.Reference)
	if err != nil || latest == current.OwnerVersion || c.hasLeft(current.Reference, latest) {
		return c, err
	}
	if err := b.noneUnderWay(ctx, c); err != nil {
		return c, err
	}
	pending, ok := c.Staged(Pending)
	switch {
	case ok && !pending.Followed:
		return c, newError(ReasonSecretWrongStage, c.ID, "the owner has version %d, but version %d was staged and is pending", latest, pending.Number)
	case ok && pending.Reference == current.Reference && pending.OwnerVersion == latest:
		if time.Since(b.firstSeen(followPath(c), uint64(pending.Number))) < leaseDuration {
			return c, nil // whoever has found it is at work on it
		}
	default:
		if c, pending, err = b.addFollowed(ctx, c, current, latest); err != nil {
			return c, err
		}
	}
	return b.promoteFollowed(ctx, c, pending)
}

// followPath names what firstSeen is asked about a client's pending version.
func followPath(c *Client) string { return "followed/" + c.UID }

func (b *Broker) latestOf(ctx context.Context, r SecretReference) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return b.references.Version(ctx, r)
}

// hasLeft reports whether c has that version of what it refers to and does not wait
// for it: somebody has rolled it back.
func (c *Client) hasLeft(r SecretReference, ownerVersion int64) bool {
	return slices.ContainsFunc(c.Secrets, func(v SecretVersion) bool {
		return v.Reference == r && v.OwnerVersion == ownerVersion && v.Stage != Pending
	})
}

// addFollowed makes the owner's version pending. One that was pending before, and that
// its owner has replaced since, goes: no value of it lies in our store.
func (b *Broker) addFollowed(ctx context.Context, c *Client, current SecretVersion, latest int64) (*Client, SecretVersion, error) {
	fail := func(err error) (*Client, SecretVersion, error) { return c, SecretVersion{}, err }
	// How the value ends is its owner's business; whether it works is found out.
	input, err := b.referred(ctx, SecretInput{Reference: current.Reference, KeepTrailingSpace: true}, latest)
	if err != nil {
		return fail(err)
	}
	defer input.Value.Wipe()
	var v violations
	if checkValue(&v, "secret", input); len(v) > 0 {
		return fail(&Error{Reason: ReasonReferenceUnreadable, Client: c.ID, Detail: fmt.Sprintf("%s: version %d", current.Reference, latest), Fields: v})
	}
	changed := c.clone()
	changed.forgetReference(Pending)
	if err := changed.roomFor(Pending); err != nil {
		return fail(err)
	}
	version, err := b.writeSecret(ctx, changed, input)
	if err != nil {
		return fail(err)
	}
	for _, origin := range version.bound() {
		if !slices.Contains(current.bound(), origin) { // its owner has not agreed to that
			return fail(newError(ReasonDestinationNotBound, c.ID, "secret version %d is bound to %v, not to %s", current.Number, current.bound(), origin))
		}
	}
	version.Followed = true
	changed.addVersion(version)
	changed.relabel(version.Number, Pending)
	if changed, err = b.commit(ctx, changed); err != nil {
		return fail(err)
	}
	b.firstSeen(followPath(c), uint64(version.Number))
	pending, _ := changed.Secret(version.Number)
	return changed, pending, nil
}

// promoteFollowed gets a token with pending, which is then the fleet's, and makes it
// current. Where none can be had alone the owner is believed: a secret that is refused
// then is told by the previous one, which is fallen back to.
func (b *Broker) promoteFollowed(ctx context.Context, c *Client, pending SecretVersion) (*Client, error) {
	var key tokenKey
	var token *Token
	if c.alone() {
		var err error
		if key, err = keyOf(c, TokenQuery{}); err != nil {
			return c, err
		}
		if token, err = b.requestWith(ctx, c, pending, tokenAsk{tokenKey: key}); err != nil {
			return c, fmt.Errorf("verify secret version %d: %w", pending.Number, err)
		}
	}
	changed := c.clone()
	changed.forgetReference(Previous)
	if err := changed.roomFor(Current); err != nil {
		return c, err
	}
	now := time.Now().UTC()
	changed.promote(pending.Number, now)
	i := slices.IndexFunc(changed.Secrets, func(v SecretVersion) bool { return v.Number == pending.Number })
	if token != nil {
		changed.Secrets[i].VerifyTime = now
	}
	if token != nil && c.Upstream.SingleActiveToken { // it has ended the one that all hold, whatever comes of the write
		b.publish(ctx, c, key, token)
	}
	changed, err := b.commit(ctx, changed)
	if err != nil {
		return c, err
	}
	if token != nil && !c.Upstream.SingleActiveToken && b.shares(c) {
		b.publish(ctx, changed, key, token) // so that nobody asks for another one
	}
	b.log.InfoContext(ctx, "secret has followed its owner", "client", c.ID, "secret_version", pending.Number,
		"reference", pending.Reference.String(), "owner_version", pending.OwnerVersion)
	return changed, nil
}

// forgetReference takes the version at stage out of c if it is a reference: there is
// nothing to destroy. c must be a clone.
func (c *Client) forgetReference(stage Stage) {
	c.Secrets = slices.DeleteFunc(c.Secrets, func(v SecretVersion) bool { return v.Stage == stage && !v.Reference.IsZero() })
}

// followUsed looks at the owners of the secrets that were used lately: a token that is
// warm for an hour must not hide for so long that its secret was changed.
func (b *Broker) followUsed(ctx context.Context) {
	now := time.Now()
	used := map[string]bool{}
	for _, held := range b.tokens.All() {
		if held.used.Load() && held.aliveAt(now) {
			used[held.clientID] = true
		}
	}
	for id := range used {
		loaded, ok := b.clients.GetIfPresent(nameOf(id))
		if !ok {
			continue
		}
		if current, ok := loaded.client.Staged(Current); !ok || current.Reference.IsZero() {
			continue
		}
		if c, err := b.readClient(ctx, id); err == nil {
			b.follow(ctx, c)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// readReferenced reads the very version that a secret version refers to, and makes
// sure that it is the one that was staged, for this client and these destinations.
func (b *Broker) readReferenced(ctx context.Context, c *Client, version SecretVersion) (secret.Value, error) {
	const op = "read referenced secret"
	meta, err := b.meta(ctx)
	if err != nil {
		return secret.Value{}, err
	}
	read, err := b.referred(ctx, SecretInput{Reference: version.Reference}, version.OwnerVersion)
	if err != nil {
		e := AsError(err)
		return secret.Value{}, &Error{Reason: e.Reason, Op: op, Client: c.ID, Detail: fmt.Sprintf("version %d: %s", version.Number, e.Detail), RetryAfter: e.RetryAfter, Err: err}
	}
	if problem := meta.mismatch(c.UID, version, read.Value); problem != "" {
		read.Value.Wipe()
		e := newError(ReasonSecretChangedOutside, c.ID, "version %d, which is version %d of %s: %s", version.Number, version.OwnerVersion, version.Reference, problem)
		e.Op = op
		return secret.Value{}, e
	}
	return read.Value, nil
}

// mismatch says why value is not what the fingerprint of a version of the client of
// that uid was made of; "" if it is.
func (m *metaRecord) mismatch(uid string, version SecretVersion, value secret.Value) string {
	key, known := m.fingerprintKeyOf(version.Fingerprint)
	switch {
	case !known:
		return "its fingerprint was made with a key that the store's meta record does not have"
	case key.fingerprint(uid, version.Number, version.bound(), value) != version.Fingerprint:
		return "the fingerprint differs"
	}
	return ""
}

// place says where the value of a version lies.
func (c *Client) place(version SecretVersion) string {
	if version.Reference.IsZero() {
		return secretKey(c.ID, c.UID, version.Number)
	}
	return fmt.Sprintf("version %d of %s", version.OwnerVersion, version.Reference)
}
