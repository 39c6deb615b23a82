package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/bearer"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

// identify finds out who calls: what the connection and the bearer token were verified
// to be, and which caller of the table that is. Every credential that is shown must
// hold: one that does not makes the peer nobody, whatever the other says, and leaves
// the reason in v.problem.
func (v *visit) identify(ctx context.Context, now time.Time, table *access.Table, tokens *bearer.Verifier) {
	var err error
	if v.peer, v.notAfter, err = connectionOf(ctx, now); err != nil {
		if !showsNothing(err) {
			v.refuse(err)
			return
		}
		v.stranger = err
	}
	if tokens != nil {
		token, err := bearerOf(ctx, tokens)
		if err != nil {
			v.refuse(err)
			return
		}
		v.add(token)
	}
	if v.peer == nil {
		return
	}
	var listed bool
	if v.caller, listed = v.peer.Caller(table); !listed {
		v.stranger = notListed(v.peer.Identities())
	}
}

// notListed are identities of which no caller comes.
type notListed []string

// Error implements error.
func (l notListed) Error() string {
	return fmt.Sprintf("the access table has no caller, or several, for %q", []string(l))
}

// connectionOf returns who the call's connection is by what is trusted now, and until
// when it is; its error is an *[identity.Error].
func connectionOf(ctx context.Context, now time.Time) (*access.Peer, time.Time, error) {
	info, ok := identity.FromContext(ctx)
	if !ok {
		return nil, time.Time{}, &identity.Error{Cause: identity.CauseNoCredentials}
	}
	peer, err := info.Peer(now)
	if err != nil {
		return nil, time.Time{}, err
	}
	return peer, info.ExpireTime(), nil
}

// showsNothing tells a connection without a credential from one whose credential does
// not hold.
func showsNothing(err error) bool {
	var nobody *identity.Error
	return errors.As(err, &nobody) && (nobody.Cause == identity.CauseNoCredentials || nobody.Cause == identity.CauseNoCertificate)
}

// add makes the peer also who its token stands for; nil adds nobody.
func (v *visit) add(token *bearer.Identity) {
	if token == nil {
		return
	}
	v.bearer = token
	v.peer = access.NewPeer(append(slices.Clone(v.peer.Identities()), token.Name())...)
	if v.notAfter.IsZero() || token.ExpireTime.Before(v.notAfter) {
		v.notAfter = token.ExpireTime
	}
}

// refuse makes the peer nobody. The cause is for the log.
func (v *visit) refuse(cause error) {
	v.peer, v.caller, v.notAfter = nil, access.Caller{}, time.Time{}
	reason := broker.ReasonCallerUnauthenticated
	var refused *bearer.Error
	if errors.As(cause, &refused) && refused.Unavailable() {
		reason = broker.ReasonCallerKeysUnavailable
	}
	v.problem = &broker.Error{Reason: reason, Op: "identify the caller", Err: cause}
}

// bearerOf returns who the call's bearer token stands for (RFC 6750 §2.1); nil if there
// is none.
func bearerOf(ctx context.Context, tokens *bearer.Verifier) (*bearer.Identity, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return nil, nil
	}
	if len(values) > 1 {
		return nil, errors.New("the call has more than one authorization")
	}
	scheme, token, found := strings.Cut(values[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") {
		return nil, errors.New("the call's authorization is no bearer token")
	}
	return tokens.Verify(ctx, token)
}
