// Package vault keeps the broker's records in a KV version 2 engine of
// HashiCorp Vault or OpenBao.
//
// It guards three invariants. Every write is check-and-set and is sent at most
// once per call of [Store].Write, so that a lost answer is reported as lost and
// never turned into a false conflict. A record that is absent is told from a
// mount, a token, a policy or a server that is. And no error, log line or retry
// of this package carries a record, a token or an answer's body.
//
// It does not interpret records, knows no client or secret version, and never
// sends KV's delete, undelete, patch or metadata writes: none of those is
// check-and-set (seen on Vault 1.21).
//
// It is the only package that imports the Vault API. What it found about that
// library is written where it matters: environment.go and transport.go.
package vault

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Store is a [broker.Store] over one KV version 2 mount. [New] makes it; the
// zero value is not usable. All methods are safe for concurrent use.
//
// Read, Write, Destroy and List need a session with Vault, which [Store.Run]
// makes and keeps. A call made before the first login waits for its outcome, for
// twice the configured timeout at most.
type Store struct {
	config Config
	http   *http.Client
	api    *api.Client // without a token: each session has its own copy
	log    *slog.Logger
	gate   gate

	method    method      // nil: the token file
	loginAPI  *api.Client // what the method asks with
	tokenFile *tokenFile  // nil: the method
	lifetime  lifetime

	running  atomic.Bool
	watchers sync.WaitGroup // renewals that were told to stop
}

var _ broker.Store = (*Store)(nil)

// New returns a store for the given configuration. It reads the CA and client
// certificate files and speaks to nobody; [Store.Run] does. The caller must
// Close it after Run has returned.
//
// The error names all problems of the configuration at once.
func New(config Config) (*Store, error) {
	config = config.withDefaults()
	if err := config.Validate(); err != nil {
		return nil, err
	}
	transport, err := newTransport(config)
	if err != nil {
		return nil, err
	}
	s := &Store{config: config, http: newHTTPClient(config, transport), log: config.Logger, gate: newGate(), method: newMethod(config)}
	if s.api, err = newAPIClient(config, s.http); err != nil {
		return nil, err
	}
	s.loginAPI = s.api
	if s.method == nil {
		s.tokenFile = &tokenFile{store: s, path: config.TokenFile}
	}
	if config.Cert != nil {
		// A connection shows the certificate that was there when it was made; a login
		// must show the one that is there now.
		transport = transport.Clone()
		transport.DisableKeepAlives = true
		if s.loginAPI, err = newAPIClient(config, newHTTPClient(config, transport)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run logs in, checks the mount, renews the token and replaces it while the old
// one is still valid, until ctx ends; then it returns nil. It may be called once.
//
// Nothing that Vault does ends it: while login is refused or Vault is away it
// tries again, after 1 s at first and at most 30 s, or when the files change that
// it logs in with; calls that need a session meanwhile get the cause. An AppRole
// pair that was refused twice rests for 16 min: more would lock the role out.
//
// It returns when its renewal has ended, which takes at most the configured
// timeout more: the library's renewal takes no context.
func (s *Store) Run(ctx context.Context) error {
	if s.running.Swap(true) {
		return errors.New("vault: Run was called twice")
	}
	defer s.watchers.Wait()
	defer s.gate.close()
	var sess *session // logged in, not yet found fit
	var quick shortLived
	wait := pause{files: s.config.watched()}
	for ctx.Err() == nil {
		var err *broker.Error
		read := stampsOf(wait.files...) // before reading them
		if sess == nil {
			sess, err = s.login(ctx)
		}
		if err == nil {
			err = s.preflight(ctx, sess)
		}
		if err == nil {
			wait.reset()
			var how ending
			sess, how = s.use(ctx, sess)
			read = stampsOf(wait.files...)
			err = quick.after(sess, how)
			if how != doubted {
				sess = nil
			}
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		s.log.WarnContext(ctx, "no new session with vault", "reason", err.Reason, "error", err)
		s.gate.fail(err)
		// What the mount or the policy lacks, a new token would lack too.
		if sess != nil && (err.Reason == broker.ReasonStoreTokenDead || sess.replaceIn() <= 0) {
			sess = nil
		}
		wait.sleep(ctx, err.Reason, read)
	}
	return nil
}

// Close drops idle connections. Calls made after it may still succeed while the
// token lives; it is meant to come after Run has returned.
func (s *Store) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// call sends r under the current session and returns Vault's answer: a success,
// or a 404 by which KV says that there is nothing. Everything else is an error.
//
// Vault answers 403 for a dead token and for a denial by policy alike, so a 403
// is followed by one lookup-self. If the token is dead, Run logs in, once for
// all callers, and r is sent again. That holds for writes too: Vault checks the
// token before it routes a request, so one that was refused took no effect.
func (s *Store) call(ctx context.Context, r request) (answer, error) {
	const sessions = 3 // the one at hand, one that replaced it meanwhile, a new one
	for range sessions {
		sess, err := s.session(ctx, r.op)
		if err != nil {
			return answer{}, err
		}
		a := s.send(ctx, sess, r)
		if !a.forbidden() {
			return s.judge(r, a)
		}
		if s.gate.peek() != sess {
			continue // somebody else found out already
		}
		isDead, err := s.tokenDead(ctx, sess)
		if err != nil {
			err.Op = r.op
			return answer{}, err
		}
		if !isDead {
			return answer{}, s.denied(ctx, sess, r)
		}
		s.log.InfoContext(ctx, "vault token is dead, logging in")
		s.gate.renounce(sess, dead)
	}
	err := diedAgain()
	err.Op = r.op
	return answer{}, err
}

// session returns the current session, or why there is none.
func (s *Store) session(ctx context.Context, op string) (*session, *broker.Error) {
	sess, err := s.gate.wait(ctx, 2*s.config.Timeout)
	if err == nil {
		return sess, nil
	}
	if !s.running.Load() && ctx.Err() == nil {
		err.Reason, err.Detail = broker.ReasonStoreLoginFailed, "not logged in: Run was not called"
	}
	err.Op = op
	return nil, err
}

// judge turns an answer into an error unless it is one that KV gives to a
// request it has served.
func (s *Store) judge(r request, a answer) (answer, error) {
	if a.ok() || a.absent() && !r.effect {
		return a, nil
	}
	err := classify(a, r.effect)
	err.Op = r.op
	err.Detail = r.path + ": " + err.Detail
	if a.status == 0 {
		err.Detail = s.config.Address + ": " + err.Detail
	}
	return answer{}, err
}
