package bearer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// maxVerified bounds the tokens that are remembered, at about half a KiB each.
const maxVerified = 1 << 14

// Verifier verifies tokens. All methods are safe for concurrent use.
type Verifier struct {
	issuers  map[string]*issuer // iss → issuer
	inOrder  []*issuer          // as configured
	verified *otter.Cache[[sha256.Size]byte, *Identity]
	started  atomic.Bool
}

// New returns a Verifier whose issuers with a file have keys and whose others get them
// from [Verifier.Run]. Its error is that of [Config.Validate], or that a file cannot
// be used. It uses no network.
func New(cfg Config) (*Verifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	verified, err := otter.New(&otter.Options[[sha256.Size]byte, *Identity]{MaximumSize: maxVerified})
	if err != nil {
		return nil, fmt.Errorf("make the cache of verified tokens: %w", err)
	}
	v := &Verifier{issuers: make(map[string]*issuer), verified: verified}
	for n, entry := range cfg.Issuers {
		ready, err := prepare(entry.withDefaults(), cfg)
		if err != nil {
			return nil, fmt.Errorf("issuers[%d]: %w", n, err)
		}
		v.issuers[entry.Issuer] = ready
		v.inOrder = append(v.inOrder, ready)
	}
	return v, nil
}

// prepare makes an issuer; of one with a file it reads the keys.
func prepare(cfg Issuer, all Config) (*issuer, error) {
	if cfg.JWKSFile != "" {
		file := &fileSource{path: cfg.JWKSFile}
		keys := newKeyring(cfg, file, all.Logger)
		set, _, err := file.fetch(context.Background()) // reads no network
		if err != nil {
			return nil, fmt.Errorf("jwks_file: %w", err)
		}
		keys.mu.Lock()
		defer keys.mu.Unlock()
		keys.replaceLocked(context.Background(), set)
		return newIssuer(cfg, keys)
	}
	remote, err := newRemoteSource(cfg, all.Transport)
	if err != nil {
		return nil, err
	}
	return newIssuer(cfg, newKeyring(cfg, remote, all.Logger))
}

// Run keeps the keys fresh until ctx ends, and then returns nil. It is to be called
// once: without it no keys are fetched, and those that were go stale.
func (v *Verifier) Run(ctx context.Context) error {
	if v.started.Swap(true) {
		return errors.New("bearer: Run was called before")
	}
	var group sync.WaitGroup
	for _, i := range v.inOrder {
		group.Go(func() { i.keys.run(ctx) })
	}
	group.Wait()
	return nil
}

// Verify returns who the token stands for, or an [*Error]. It may wait for a fetch
// that is under way, but never longer than 2 seconds or than ctx lasts.
func (v *Verifier) Verify(ctx context.Context, token string) (*Identity, error) {
	if len(token) > maxToken {
		return nil, &Error{Cause: TooLarge}
	}
	// On the stack, where a conversion of this length would not be; one that has no room
	// there costs an allocation.
	var room [2048]byte
	digest, now := sha256.Sum256(append(room[:0], token...)), time.Now()
	if id, ok := v.verified.GetIfPresent(digest); ok {
		keys := id.issuer.keys.inForce(now)
		if keys != nil && keys.generation == id.generation && !id.expired(now) {
			return id, nil
		}
		v.verified.Invalidate(digest) // what is wrong is found out below
	}
	t, refused := parse(token)
	if refused != nil {
		return nil, refused
	}
	i, ok := v.issuers[t.issuer]
	if !ok {
		return nil, &Error{Cause: UnknownIssuer}
	}
	id, refused := i.judge(t, now)
	if refused == nil {
		refused = i.verify(ctx, t, id)
	}
	if refused != nil {
		refused.Issuer = i.Issuer.Issuer
		return nil, refused
	}
	if !i.SingleUse {
		v.verified.Set(digest, id)
	}
	return id, nil
}

// verify checks the signature, and that a single-use token was not shown before; it
// notes the key in the identity.
func (i *issuer) verify(ctx context.Context, t *unverified, id *Identity) *Error {
	keys, found := i.find(t)
	if found == nil && (keys == nil || t.hasKey) {
		i.keys.await(ctx, keys != nil)
		keys, found = i.find(t)
	}
	switch {
	case keys == nil:
		return i.keys.unavailable()
	case found == nil:
		return &Error{Cause: UnknownKey}
	}
	if cause := t.verify(found); cause != "" {
		return &Error{Cause: cause}
	}
	id.Algorithm, id.KeyID, id.KeyThumbprint, id.generation = t.algorithm, found.id, found.thumbprint, keys.generation
	if i.shown != nil {
		// Last, so that nobody but the issuer can make us remember anything. The clock
		// is read again: the wait above must not let a token outlive its note.
		now := time.Now()
		if id.expired(now) {
			return &Error{Cause: Expired}
		}
		if cause := i.shown.note(id.tokenID, now); cause != "" {
			return &Error{Cause: cause, Claim: "jti"}
		}
	}
	return nil
}

// find returns the keys in force, nil if none are, and the token's among them.
func (i *issuer) find(t *unverified) (*held, *key) {
	keys := i.keys.inForce(time.Now())
	if keys == nil {
		return nil, nil
	}
	return keys, keys.set.find(t.key, t.hasKey, t.algorithm)
}

// Valid reports whether an identity that this Verifier returned is still good: its
// token is not past its time, and its key was not withdrawn. Streams that outlive
// their first message ask.
func (v *Verifier) Valid(id *Identity) bool {
	now := time.Now()
	keys := id.issuer.keys.inForce(now)
	if keys == nil || id.expired(now) {
		return false
	}
	if keys.generation == id.generation {
		return true
	}
	for _, k := range keys.set.keys {
		if k.id == id.KeyID && k.thumbprint == id.KeyThumbprint {
			return true
		}
	}
	return false
}

// Status is the state of one issuer's keys.
type Status struct {
	Issuer string
	// Keys is how many are in force; Generation counts the sets that differed; both
	// are 0 before the first fetch.
	Keys       int
	Generation uint64
	// FetchTime is when the keys were last seen to be the present ones, and StaleTime
	// when they go out of force unless they are seen again.
	FetchTime, StaleTime time.Time
	// Err is why the last fetch failed; nil if it did not.
	Err error
}

// Status returns the state of each issuer's keys in the order of the configuration.
func (v *Verifier) Status() []Status {
	list := make([]Status, 0, len(v.inOrder))
	for _, i := range v.inOrder {
		s := Status{Issuer: i.Issuer.Issuer}
		i.keys.mu.Lock()
		s.Err = i.keys.failure
		i.keys.mu.Unlock()
		if h := i.keys.current.Load(); h != nil {
			s.Keys, s.Generation, s.FetchTime, s.StaleTime = len(h.set.keys), h.generation, h.fetched, h.staleAfter
		}
		list = append(list, s)
	}
	return list
}
