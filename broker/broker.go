// Package broker is the domain: registered clients, their secrets, the tokens
// got with them, and why a lookup fails. It knows no gRPC, no Vault and no HTTP;
// it asks a [Store] and a [RequestToken] function that it is given.
//
// It guards three invariants. A secret leaves it only inside a [TokenRequest]
// whose endpoint the secret is bound to. Each client has at most one current
// secret version at every instant, because stages change by one check-and-set
// write of one record. And no error from upstream deletes or disables anything.
package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Config is what a [Broker] is made of. Store, RequestToken and CheckSecret are required.
type Config struct {
	// Store keeps everything durable. The caller closes it after the Broker.
	Store Store
	// RequestToken asks authorization servers.
	RequestToken RequestToken
	// RevokeToken asks them to revoke tokens; nil revokes none.
	RevokeToken RevokeToken
	// AuthorizationServer asks them for all else; nil for nothing, and then grants of
	// users, discovery and introspection are not to be had.
	AuthorizationServer AuthorizationServer
	// Prober looks at the way to authorization servers and calls APIs for checks; nil for
	// neither.
	Prober Prober
	// WrongTries is how many tries with a missing or wrong credential, or by another
	// method, checks may make of one client in a day; 0 means 1, below 0 none.
	WrongTries int
	// Providers knows profiles; nil knows none.
	Providers Providers
	// CallbackURL is where browsers come back to this service after a user's consent; ""
	// if it hosts no callback.
	CallbackURL string
	// CheckSecret says whether a secret fits an authentication method, with a
	// SECRET_UNUSABLE error if not. It must not quote the secret.
	CheckSecret func(Authentication, secret.Value) error
	// CheckEndpoint says whether a token endpoint is one that RequestToken would
	// connect to at all, with an UPSTREAM_ADDRESS_REFUSED error if not; nil takes
	// every https URL.
	CheckEndpoint func(endpoint string) error
	// CheckDPoPProof says whether a proof (RFC 9449 §4.2) is a good one for a POST to
	// endpoint, and returns the thumbprint of its key (RFC 7638), with a
	// DPOP_PROOF_INVALID error if not; nil takes none. It must not quote the proof.
	CheckDPoPProof func(proof, endpoint string) (thumbprint string, err error)
	// PublicKey returns the public JWK (RFC 7517) of a secret that is a private key, ""
	// for any other; nil knows none. It must not quote the secret.
	PublicKey func(secret.Value) (string, error)
	// SecretExpiry returns when a secret ends by what it says itself, as a certificate
	// does; nil knows of none. It is taken where nobody declares another.
	SecretExpiry func(Authentication, secret.Value) (time.Time, bool)
	// Rotators change secrets at providers, by the names that RotationSettings.Rotator
	// has. The map is the Broker's from then on; who made the rotators closes them.
	Rotators map[string]Rotator
	// CarryTrace returns to, the context of work that belongs to no caller, with what
	// tells that the call of from has begun it, and nothing else of from; nil carries
	// nothing.
	CarryTrace func(from, to context.Context) context.Context
	// Unwrap takes secrets out of wrapping tokens; nil takes none.
	Unwrap Unwrap
	// References reads secrets that are owned elsewhere; nil reads none.
	References References
	// Logger gets what no caller is told; nil discards.
	Logger *slog.Logger
	// CachedClients and CachedTokens bound what is kept in memory; 0 means 100,000.
	CachedClients, CachedTokens int
	// Mints bounds the requests to authorization servers that are under way at one
	// time, MintsPerEndpoint those to one token endpoint; 0 means 256 and 32.
	Mints, MintsPerEndpoint int
	// KeepSecret is how long a secret that was read for a token is kept in memory, to
	// get tokens while the store is away; 0 keeps none.
	KeepSecret time.Duration
	// Unshared makes this Broker get its own tokens and leave those of other replicas
	// alone, except for clients whose tokens are limited.
	Unshared bool
	// Prewarm are ids of clients whose tokens are got, with default scopes and targets,
	// when [Broker.Run] begins, so that their first caller need not wait.
	Prewarm []string
	// Notify, if not nil, is told of each event beside the log; it must not block.
	Notify func(Event)
	// Feed makes this Broker tell other replicas of its changes, and follow theirs
	// while [Broker.Run] runs. Replicas of one store must agree on it; without it they
	// notice each other's changes when a record is used that was read 5 s ago.
	Feed bool
	// PurgeDeletedAfter is how long after their deletion clients are purged while
	// [Broker.Run] runs; 0 purges none.
	PurgeDeletedAfter time.Duration
	// MaxBlind is how long this Broker hands out tokens although it cannot read the feed,
	// and so does not learn that a client was disabled or its tokens revoked; 0 for any
	// time. It needs Feed, and counts from New.
	MaxBlind time.Duration
}

// Broker is the service without its border. It is safe for concurrent use. Its
// goroutines end with Close.
type Broker struct {
	store         Store
	requestToken  RequestToken
	revokeToken   RevokeToken
	server        AuthorizationServer // nil if there is none
	providers     Providers           // nil if there are none
	prober        Prober              // nil if there is none
	wrongTries    int
	callbackURL   string
	checkSecret   func(Authentication, secret.Value) error
	checkEndpoint func(string) error
	checkProof    func(proof, endpoint string) (string, error) // nil if none is taken
	rotators      map[string]Rotator
	publicKey     func(secret.Value) (string, error)                   // nil if none are known
	secretExpiry  func(Authentication, secret.Value) (time.Time, bool) // nil if none is known
	carryTrace    func(from, to context.Context) context.Context
	unwrap        Unwrap
	references    References
	log           *slog.Logger

	// replica tells this process from every other one, also of the past.
	replica   string
	endpoints *endpoints
	leases    *ownLeases
	secrets   *keptSecrets
	notShared bool
	prewarmed []string
	feedOn    bool
	maxBlind  time.Duration
	made      time.Time
	follower  follower
	announcer announcer
	rotations rotations
	watchers  watchers
	ledger    ledger
	devices   devicePolls
	notify    func(Event)
	follows   follows
	// expiriesTold :: uid → what this replica told, or knows to be told, of secrets that
	// expire soon; it belongs to the goroutine of keepBooks.
	expiriesTold map[string]toldExpiry
	schedule     schedule
	outcomes     outcomes
	// sinces are what must be so for some time before it is acted on, destroyed the
	// paths of secret values that need not be looked at again.
	sinces, destroyed sinces
	valuesSwept       atomic.Int64
	names             names
	sweeping          sync.Mutex // held by the one sweep that runs
	census            atomic.Pointer[Census]
	purgeDeletedAfter time.Duration

	metaCache atomic.Pointer[metaRecord]
	clients   *otter.Cache[clientName, *loadedClient] // id → record as last read
	tokens    *otter.Cache[tokenKey, *Token]          // key → latest token
	// scopeLists are those of tokens.
	scopeLists sharedLists
	failures   *otter.Cache[tokenKey, *failure] // key → why the last mint failed

	parked *otter.Cache[string, *parking] // uid → that its credentials are rejected

	seen  *otter.Cache[string, seenVersion]   // path of a token record → its version
	skews *otter.Cache[string, time.Duration] // token endpoint → how far its clock is ahead

	publicKeys *otter.Cache[string, string] // fingerprint → public half, of versions whose record has none

	grants *otter.Cache[grantID, *grantSeen] // whose → what is known of that grant
	saves  grantSaves

	reads      singleflight.Group // of client records, by id
	grantReads singleflight.Group // of grants, by uid and subject
	flights    singleflight.Group // of mints, by token key
	// following are looks at the owners of secrets, by uid.
	following singleflight.Group

	// stopping ends when the Broker is to stop, and with it all that only waits; working,
	// on which detached work hangs, ends with Close.
	stopping, working context.Context
	stop, abandon     context.CancelFunc
	tasks             tasks
}

// New returns a Broker. It does not touch the store: see [Broker.Ready].
func New(cfg Config) (*Broker, error) {
	if cfg.Store == nil || cfg.RequestToken == nil || cfg.CheckSecret == nil {
		return nil, errors.New("broker: Store, RequestToken and CheckSecret are required")
	}
	if cfg.MaxBlind < 0 || cfg.MaxBlind > 0 && !cfg.Feed {
		return nil, errors.New("broker: MaxBlind is negative or lacks Feed")
	}
	b := &Broker{
		store: cfg.Store, requestToken: cfg.RequestToken, revokeToken: cfg.RevokeToken, server: cfg.AuthorizationServer, providers: cfg.Providers, prober: cfg.Prober, wrongTries: max(cmp.Or(cfg.WrongTries, 1), 0), callbackURL: cfg.CallbackURL, checkSecret: cfg.CheckSecret,
		checkEndpoint: cfg.CheckEndpoint, checkProof: cfg.CheckDPoPProof, rotators: cfg.Rotators, carryTrace: cfg.CarryTrace, publicKey: cfg.PublicKey, log: cfg.Logger,
		unwrap: cfg.Unwrap, references: cfg.References, secretExpiry: cfg.SecretExpiry,
		replica: newID(), endpoints: newEndpoints(cfg.Mints, cfg.MintsPerEndpoint), notShared: cfg.Unshared, prewarmed: cfg.Prewarm, feedOn: cfg.Feed, maxBlind: cfg.MaxBlind, made: time.Now(),
		watchers: watchers{byClient: map[string]map[chan struct{}]bool{}},
		ledger:   ledger{clients: map[string]*clientLedger{}, sole: map[string]*notedUse{}}, notify: cfg.Notify,
		devices: devicePolls{running: map[string]*devicePoll{}},
		saves:   grantSaves{byPath: map[string]chan struct{}{}},
		leases:  &ownLeases{ids: map[string]bool{}}, secrets: &keptSecrets{most: cfg.KeepSecret, values: map[secretID]keptSecret{}},
		purgeDeletedAfter: cfg.PurgeDeletedAfter,
		rotations:         rotations{listing: semaphore.NewWeighted(1)},
	}
	if b.checkEndpoint == nil {
		b.checkEndpoint = httpsOnly
	}
	if b.carryTrace == nil {
		b.carryTrace = func(_, to context.Context) context.Context { return to }
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	bound := func(n int) int {
		if n <= 0 {
			return 100_000
		}
		return n
	}
	var errs [8]error
	b.clients, errs[0] = otter.New(&otter.Options[clientName, *loadedClient]{MaximumSize: bound(cfg.CachedClients)})
	b.tokens, errs[1] = otter.New(&otter.Options[tokenKey, *Token]{
		MaximumSize:      bound(cfg.CachedTokens),
		OnAtomicDeletion: func(e otter.DeletionEvent[tokenKey, *Token]) { e.Value.gone.Store(true) },
	})
	b.failures, errs[2] = otter.New(&otter.Options[tokenKey, *failure]{MaximumSize: bound(cfg.CachedTokens)})
	b.parked, errs[3] = otter.New(&otter.Options[string, *parking]{MaximumSize: bound(cfg.CachedClients)})
	b.seen, errs[4] = otter.New(&otter.Options[string, seenVersion]{MaximumSize: bound(cfg.CachedTokens)})
	b.skews, errs[5] = otter.New(&otter.Options[string, time.Duration]{MaximumSize: bound(cfg.CachedClients)})
	b.publicKeys, errs[6] = otter.New(&otter.Options[string, string]{MaximumSize: bound(cfg.CachedClients)})
	b.grants, errs[7] = otter.New(&otter.Options[grantID, *grantSeen]{MaximumSize: bound(cfg.CachedTokens)})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("make caches: %w", err)
	}
	b.stopping, b.stop = context.WithCancel(context.Background())
	b.working, b.abandon = context.WithCancel(context.Background())
	return b, nil
}

// httpsOnly is the CheckEndpoint of a Config that has none.
func httpsOnly(endpoint string) error {
	if origin, err := Origin(endpoint); err != nil || !strings.HasPrefix(origin, "https:") {
		return newError(ReasonUpstreamAddressRefused, "", "the token endpoint is not an https URL")
	}
	return nil
}

// Ready reports whether the store was read once and is the broker's own; it makes
// the meta record in an empty store. Call it again after an error.
func (b *Broker) Ready(ctx context.Context) error {
	_, err := b.meta(ctx)
	return err
}
