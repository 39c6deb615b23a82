package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// identify finds out who calls: what the connection and the bearer token were verified
// to be, and which caller of the table that is. Every credential that is shown must
// hold: one that does not makes the peer nobody, whatever the other says, and leaves
// the reason in v.problem.
func (v *visit) identify(ctx context.Context, table *access.Table, tokens *bearer.Verifier) {
	connection, notAfter, err := peerOfConnection(ctx)
	if err != nil {
		v.refuse(err)
		return
	}
	v.peer, v.notAfter = connection, notAfter
	if tokens == nil {
		v.caller, _ = v.peer.Caller(table)
		return
	}
	identity, err := bearerOf(ctx, tokens)
	switch {
	case err != nil:
		v.refuse(err)
		return
	case identity != nil:
		v.peer = access.NewPeer(append(slices.Clone(connection.Identities()), identity.Name())...)
		if v.notAfter.IsZero() || identity.ExpireTime.Before(v.notAfter) {
			v.notAfter = identity.ExpireTime
		}
	}
	v.caller, _ = v.peer.Caller(table)
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
