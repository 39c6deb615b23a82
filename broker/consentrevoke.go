package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// RevokeAuthorization gives an authorization up: no token of it is served any more, its
// refresh token is revoked where the client has a revocation endpoint (RFC 7009), and
// then its record is destroyed. With force it is destroyed also if it could not be
// revoked. It reports whether the authorization server has confirmed the revocation.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, AUTHORIZATION_NOT_FOUND, what the ref's Permit
// returns, CONCURRENT_CHANGE, a reason of the store, or, without force, a SECRET_ reason
// or one of the authorization server, after which it is ended but still there.
func (b *Broker) RevokeAuthorization(ctx context.Context, ref AuthorizationRef, force bool) (revoked bool, err error) {
	c, err := b.GetClient(ctx, ref.ClientID)
	if err != nil {
		return false, err
	}
	g, err := b.existing(ctx, c, ref)
	if err != nil {
		return false, err
	}
	return b.endGrant(ctx, c, g.path, force)
}

// endGrant ends a grant, revokes and destroys it.
func (b *Broker) endGrant(ctx context.Context, c *Client, path string, force bool) (revoked bool, err error) {
	defer b.grantChanging(ctx, c, path)()
	begun := time.Now()
	g, err := b.editGrant(ctx, c, path, func(r *grantRecord, secrets *grantSecrets) error {
		r.Ended, r.Lease, r.Spending, r.Consent = ReasonAuthorizationRequired, nil, nil, nil
		r.Generation++
		r.Fence++
		secrets.CodeVerifier, secrets.Nonce, secrets.DeviceCode, secrets.AccessToken = "", "", "", ""
		return nil
	})
	if err != nil {
		return false, err
	}
	b.noteGrant(c, g.secrets.Subject, path, g.record.Generation, begun)
	revoked, err = b.revokeGrant(ctx, c, g)
	if err != nil && !force {
		return false, fmt.Errorf("revoke the authorization: %w", err)
	}
	if err != nil {
		b.log.WarnContext(ctx, "authorization destroyed without being revoked", "client", c.ID, "reason", ReasonOf(err))
	}
	if err := b.store.Destroy(ctx, path); err != nil {
		return revoked, fmt.Errorf("destroy the authorization: %w", err)
	}
	return revoked, nil
}

// revokeGrant revokes what a grant is renewed with, if there is a way.
func (b *Broker) revokeGrant(ctx context.Context, c *Client, g *storedGrant) (bool, error) {
	token := g.secrets.RefreshToken
	if token == "" || c.Upstream.RevocationEndpoint == "" || b.revokeToken == nil || g.record.GrantedTo != c.Upstream.grantedTo() {
		return false, nil
	}
	version, value, err := b.consentSecret(ctx, c)
	if err != nil {
		return false, err
	}
	defer value.Wipe()
	err = b.endpoints.do(ctx, c.Upstream.RevocationEndpoint, func() error {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		return b.revokeToken(ctx, RevocationRequest{
			Endpoint: c.Upstream.RevocationEndpoint, TokenEndpoint: c.Upstream.TokenEndpoint, Destinations: version.Destinations,
			Authentication: c.Upstream.Authentication, ClientID: c.Upstream.ClientID, Secret: value, Token: secret.NewString(token), Kind: RefreshTokenKind,
		})
	})
	return err == nil, err
}

// SubjectDeletion is what DeleteSubject did.
type SubjectDeletion struct {
	// Deleted is how many authorizations were destroyed, Revoked of them the
	// authorization server has confirmed.
	Deleted, Revoked int
}

// DeleteSubject gives up all authorizations of a subject, as RevokeAuthorization does
// with force. It reads one record for each client that has any authorizations, and can
// be repeated until it succeeds. INVALID_REQUEST or a reason of the store.
func (b *Broker) DeleteSubject(ctx context.Context, subject string) (SubjectDeletion, error) {
	var did SubjectDeletion
	var v violations
	if checkSubject(&v, subject); len(v) > 0 {
		return did, v.err()
	}
	meta, err := b.meta(ctx)
	if err != nil {
		return did, err
	}
	uids, err := b.store.List(ctx, "grants/")
	if err != nil {
		return did, fmt.Errorf("list authorizations: %w", err)
	}
	for _, uid := range uids {
		revoked, err := b.deleteOne(ctx, strings.TrimSuffix(uid, "/"), meta.authorizationID(subject))
		switch {
		case errors.Is(err, errUnchanged):
		case err != nil:
			return did, err
		default:
			did.Deleted++
			if revoked {
				did.Revoked++
			}
		}
	}
	return did, nil
}

// deleteOne gives up one authorization; errUnchanged if there is none. One whose client
// is gone is destroyed.
func (b *Broker) deleteOne(ctx context.Context, uid, id string) (revoked bool, err error) {
	path := grantPath(uid, id)
	record, err := b.read(ctx, path)
	if _, absent := absence(err); absent {
		return false, errUnchanged
	}
	if err != nil {
		return false, fmt.Errorf("read grant: %w", err)
	}
	r := &grantRecord{}
	if err := decode(path, record, r, "client"); err != nil {
		return false, fmt.Errorf("read grant: %w", err)
	}
	c, err := b.fetchClient(ctx, r.Client)
	switch {
	case ReasonOf(err) == ReasonClientNotFound || err == nil && (c.UID != uid || c.State() == StatePurged):
		return false, b.destroyRecord(ctx, path)
	case err != nil:
		return false, err
	}
	return b.endGrant(ctx, c, path, true)
}
