package broker

import (
	"context"
	"slices"
	"time"
)

// storeGranted stores what the authorization server gave for a consent as the grant of
// its subject. STATE_INVALID if another consent was asked for since; CONCURRENT_CHANGE,
// or a reason of the store.
func (b *Broker) storeGranted(ctx context.Context, c *Client, version SecretVersion, path, attempt string, answer TokenResponse) (*storedGrant, error) {
	return b.editGrant(ctx, c, path, func(r *grantRecord, secrets *grantSecrets) error {
		k := r.Consent
		if k == nil || k.Attempt != attempt {
			return newError(ReasonStateInvalid, c.ID, "another consent was asked for since")
		}
		scopes := answer.Scopes
		if scopes == nil {
			scopes = k.Scopes
		}
		r.grantAnew(c, version, scopes, time.Now().UTC())
		secrets.RefreshToken, secrets.Previous = answer.RefreshToken.RevealString(), ""
		secrets.AccessToken = answer.AccessToken.RevealString()
		r.Refreshable = secrets.RefreshToken != ""
		if answer.RefreshExpiresIn != nil {
			r.RefreshExpireTime = answer.SentTime.Add(*answer.RefreshExpiresIn).UTC()
		}
		r.Consent = nil
		secrets.CodeVerifier, secrets.Nonce, secrets.DeviceCode = "", "", ""
		return nil
	})
}

// grantAnew makes r the record of a grant that begins now: whoever is at work on the
// one before has lost its lease.
func (r *grantRecord) grantAnew(c *Client, version SecretVersion, scopes []string, now time.Time) {
	r.Scopes = slices.Sorted(slices.Values(scopes))
	r.GrantedTo, r.Destinations, r.SecretVersion = c.Upstream.grantedTo(), version.Destinations, version.Number
	r.GrantTime, r.RefreshTime, r.RefreshExpireTime = now, time.Time{}, time.Time{}
	r.Generation++
	r.Lease, r.Spending, r.Ended, r.Rotates = nil, nil, "", false
	r.Fence++
}
