// Package identity finds out who a connection is: from the certificate that its peer
// presented, from the user id at the other end of a UNIX socket, or, on loopback, that
// it is anybody on this machine.
//
// It guards these invariants: nobody has an identity that was not verified against the
// files in force now, at each call and not just at the handshake; the authorities of
// one SPIFFE trust domain cannot speak for another; a certificate that names two
// workloads names none. What an identity may do is package access's.
package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/tokenbroker/tokenbroker/server/access"
)

// Cause says why a connection is nobody's. The set is closed.
type Cause string

// The causes, from the least that was found out about a peer to the most: of several
// that apply, the last one is told.
const (
	// CauseNoCredentials: the call came over no connection that this package knows.
	CauseNoCredentials Cause = "no_credentials"
	// CauseNoCertificate: the peer presented none.
	CauseNoCertificate Cause = "no_certificate"
	// CauseUnknownAuthority: no authority that is trusted now issued the certificate.
	CauseUnknownAuthority Cause = "unknown_authority"
	// CauseUnsuitable: the certificate is not for clients, or breaks its issuer's constraints.
	CauseUnsuitable Cause = "unsuitable"
	// CauseNotYetValid: the certificate, or one above it, is for later.
	CauseNotYetValid Cause = "not_yet_valid"
	// CauseExpired: the certificate, or one above it, has expired.
	CauseExpired Cause = "expired"
	// CauseNoIdentity: the certificate has no name that could be an identity.
	CauseNoIdentity Cause = "no_identity"
	// CauseInvalidIdentity: its SPIFFE id is none, or it is not that of a workload.
	CauseInvalidIdentity Cause = "invalid_identity"
	// CauseAmbiguous: it has two SPIFFE ids, or one and another URI, or two common names.
	CauseAmbiguous Cause = "ambiguous_identity"
	// CauseWrongTrustDomain: its authority may not speak for the SPIFFE id's trust domain.
	CauseWrongTrustDomain Cause = "wrong_trust_domain"
	// CauseStaleRevocationList: the issuer's revocation list has expired, so that nobody knows.
	CauseStaleRevocationList Cause = "revocation_list_expired"
	// CauseRevoked: the certificate, or one above it, is on a revocation list.
	CauseRevoked Cause = "revoked"
)

// causes orders them as above.
var causes = []Cause{
	CauseNoCredentials, CauseNoCertificate, CauseUnknownAuthority, CauseUnsuitable, CauseNotYetValid, CauseExpired, CauseNoIdentity,
	CauseInvalidIdentity, CauseAmbiguous, CauseWrongTrustDomain, CauseStaleRevocationList, CauseRevoked,
}

// Causes lists all causes.
func Causes() []Cause { return slices.Clone(causes) }

// Error is why a connection is nobody's. It is for the log: peers are told no more
// than that they are not known.
type Error struct {
	// Cause is stable.
	Cause Cause
	// Detail is for people; "" if the cause says it all.
	Detail string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Detail == "" {
		return "peer is nobody: " + string(e.Cause)
	}
	return fmt.Sprintf("peer is nobody: %s: %s", e.Cause, e.Detail)
}

// worse returns the one of two errors that says more; nil is less than any.
func worse(a, b *Error) *Error {
	if a == nil || b != nil && slices.Index(causes, b.Cause) > slices.Index(causes, a.Cause) {
		return b
	}
	return a
}

// Info is what is known of one connection. It is the AuthInfo of its calls and safe
// for concurrent use.
type Info struct {
	kind string
	// own is who the peer is for as long as the connection lasts; nil if err or the
	// certificate says.
	own *access.Peer
	err error

	reloader  *Reloader           // nil without a certificate
	presented []*x509.Certificate // the leaf first
	last      atomic.Pointer[verdict]
	judging   sync.Mutex // held while the chain is verified, so that it is once
}

// verdict is what one generation of the files says about a chain.
type verdict struct {
	trust *trust
	// from and until bound the time in which it holds.
	from, until time.Time
	peer        *access.Peer
	err         error
}

func (v *verdict) holds(t *trust, now time.Time) bool {
	return v != nil && v.trust == t && now.Before(v.until) && !now.Before(v.from)
}

// AuthType implements credentials.AuthInfo.
func (i *Info) AuthType() string { return i.kind }

// Peer returns who is at the other end, by the files in force and the time now; its
// error is an [*Error]. Ask at each call: what was true at the handshake may have been
// revoked since. As long as nothing has changed that costs some nanoseconds.
func (i *Info) Peer(now time.Time) (*access.Peer, error) {
	if i.reloader == nil {
		return i.own, i.err
	}
	if v := i.last.Load(); v.holds(i.reloader.trust.Load(), now) {
		return v.peer, v.err
	}
	return i.judge(now)
}

// ExpireTime returns when the peer's certificate expires; zero without one.
func (i *Info) ExpireTime() time.Time {
	if len(i.presented) == 0 {
		return time.Time{}
	}
	return i.presented[0].NotAfter
}

// judge verifies the chain anew.
func (i *Info) judge(now time.Time) (*access.Peer, error) {
	i.judging.Lock()
	defer i.judging.Unlock()
	current := i.reloader.trust.Load()
	v := i.last.Load()
	if !v.holds(current, now) {
		v = current.judge(i.presented, now)
		i.last.Store(v)
	}
	return v.peer, v.err
}

// FromContext returns what is known of the connection that a call came by; false if
// it did not come by one that [Credentials] made.
func FromContext(ctx context.Context) (*Info, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	info, ok := p.AuthInfo.(*Info)
	return info, ok
}
