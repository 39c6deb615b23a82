package broker

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

const maxSubjectLength = 256

// grantRecord is what one subject granted to one client, or is asked to grant. What must
// not be read by who may list the store is sealed.
type grantRecord struct {
	header
	// Client is the client's id.
	Client string `json:"client"`
	// KeyID and Sealed are a [grantSecrets], sealed for this record's path.
	KeyID  string `json:"key_id"`
	Sealed []byte `json:"sealed"`
	// Scopes were granted, sorted; nil before the first grant.
	Scopes []string `json:"scopes,omitempty"`
	// GrantedTo is what the client was to the authorization server then: [grantedTo].
	GrantedTo string `json:"granted_to,omitempty"`
	// Destinations are the origins that the refresh token may be sent to.
	Destinations []string `json:"destinations,omitempty"`
	// SecretVersion is that which it was had with.
	SecretVersion int64 `json:"secret_version,omitempty"`
	// Refreshable says that there is a refresh token, or what takes its place.
	Refreshable bool `json:"refreshable,omitempty"`
	// Rotates says that the server was seen to replace a refresh token by its use.
	Rotates           bool      `json:"rotates,omitempty"`
	GrantTime         time.Time `json:"grant_time,omitzero"`
	RefreshTime       time.Time `json:"refresh_time,omitzero"`
	RefreshExpireTime time.Time `json:"refresh_expire_time,omitzero"`
	// TokenExpireTime is when the last access token ends.
	TokenExpireTime time.Time `json:"token_expire_time,omitzero"`
	// Generation is that of no other grant of the subject, also not of one that was given
	// up before: tokens of another one are not served. 0 before the first grant.
	Generation int64 `json:"generation"`
	// Lease is held by the mint that uses the refresh token; nil if none does. Fence
	// counts the leases that were given.
	Lease *lease `json:"lease,omitempty"`
	Fence int64  `json:"fence"`
	// Spending is journalled before a refresh token is sent and removed with the answer:
	// one that is found by another mint is a use whose answer was lost.
	Spending *spending `json:"spending,omitempty"`
	// Ended is why only new consent mends it; "" while it gives tokens.
	Ended Reason `json:"ended,omitempty"`
	// Consent is what is, or was last, asked for; nil if nothing is.
	Consent *consentRecord `json:"consent,omitempty"`
}

// spending is one use of a refresh token.
type spending struct {
	// ID is the mint's, as in its lease.
	ID string `json:"id"`
	// Time is when the first use was journalled, right before it was sent.
	Time time.Time `json:"time"`
	// Tries counts the uses of one refresh token.
	Tries int `json:"tries"`
}

// consentRecord is what a user is asked for.
type consentRecord struct {
	// Attempt tells this consent from others of the same subject; it is part of the state.
	Attempt     string    `json:"attempt"`
	Scopes      []string  `json:"scopes,omitempty"`
	RedirectURI string    `json:"redirect_uri,omitempty"`
	ExpireTime  time.Time `json:"expire_time"`
	// UserCode, VerificationURI, VerificationURIComplete and Interval are a device's.
	UserCode                string        `json:"user_code,omitempty"`
	VerificationURI         string        `json:"verification_uri,omitempty"`
	VerificationURIComplete string        `json:"verification_uri_complete,omitempty"`
	Interval                time.Duration `json:"interval,omitempty"`
	// Sent says that its code was, or may have been, sent: it is not sent again.
	// SentTime is when that was noted.
	Sent     bool      `json:"sent,omitempty"`
	SentTime time.Time `json:"sent_time,omitzero"`
	// Poller is held by the replica that asks whether a device's consent was given.
	Poller *lease `json:"poller,omitempty"`
	// Reason is why it came to nothing; "" while it is pending.
	Reason Reason `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// grantSecrets is what is sealed.
type grantSecrets struct {
	Subject      string `json:"subject"`
	RefreshToken string `json:"refresh_token,omitempty"`
	// Previous was replaced by RefreshToken. It is kept while a lost answer may need it.
	Previous string `json:"previous,omitempty"`
	// AccessToken is the last one, kept for providers that refresh with it.
	AccessToken string `json:"access_token,omitempty"`
	Username    string `json:"username,omitempty"`
	Password    string `json:"password,omitempty"`
	// CodeVerifier, Nonce and DeviceCode are of the pending consent.
	CodeVerifier string `json:"code_verifier,omitempty"`
	Nonce        string `json:"nonce,omitempty"`
	DeviceCode   string `json:"device_code,omitempty"`
}

// grantedTo is what of a client's settings a grant depends on: a refresh token that was
// issued to another client, or by another server, is not presented.
func (u Upstream) grantedTo() string {
	origin, _ := Origin(u.TokenEndpoint) // checked when saved
	sum := sha256.Sum256([]byte(origin + "\x00" + u.ClientID))
	return hex.EncodeToString(sum[:12])
}

// authorizationID is the last part of an authorization's name: it tells nothing about
// the subject to who has not the store's keys.
func (m *metaRecord) authorizationID(subject string) string {
	mac := hmac.New(sha256.New, m.FingerprintKeys[0].Key)
	mac.Write([]byte("subject\x00" + subject))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// grantPath is where the grant lies that has that id.
func grantPath(uid, authorizationID string) string { return "grants/" + uid + "/" + authorizationID }

// readGrant reads what a subject granted to c; an empty record, with its UID and Client,
// if there is none.
func (b *Broker) readGrant(ctx context.Context, c *Client, path string) (*grantRecord, *grantSecrets, uint64, error) {
	record, err := b.read(ctx, path)
	var absent *AbsentError
	if errors.As(err, &absent) {
		return &grantRecord{header: header{UID: c.UID}, Client: c.ID}, &grantSecrets{}, absent.Version, nil
	}
	if err != nil {
		return nil, nil, 0, fmt.Errorf("read grant: %w", err)
	}
	r := &grantRecord{}
	if err := decode(path, record, r, "client", "sealed"); err != nil {
		return nil, nil, 0, fmt.Errorf("read grant: %w", err)
	}
	if r.UID != c.UID {
		return nil, nil, 0, newError(ReasonRecordCorrupt, c.ID, "%s: holds a grant to another client", path)
	}
	keys, err := b.sealer(ctx)
	if err != nil {
		return nil, nil, 0, err
	}
	secrets, err := r.open(keys, path)
	if err != nil {
		return nil, nil, 0, newError(ReasonRecordCorrupt, c.ID, "%s: cannot be opened", path)
	}
	return r, secrets, record.Version, nil
}

// writeGrant seals and stores a grant by check-and-set.
func (b *Broker) writeGrant(ctx context.Context, path string, version uint64, r *grantRecord, secrets *grantSecrets) (uint64, error) {
	keys, err := b.sealer(ctx)
	if err != nil {
		return 0, err
	}
	if err := r.seal(keys[len(keys)-1], path, secrets); err != nil {
		return 0, err
	}
	return b.write(ctx, path, version, &r.header, r)
}

func (r *grantRecord) seal(k sealingKey, path string, secrets *grantSecrets) error {
	plain, err := json.Marshal(secrets)
	if err != nil {
		return fmt.Errorf("encode grant: %w", err)
	}
	defer clear(plain)
	aead, err := k.aead()
	if err != nil {
		return fmt.Errorf("seal grant: %w", err)
	}
	r.KeyID, r.Sealed = k.ID, aead.Seal(nil, nil, plain, []byte(path))
	return nil
}

func (r *grantRecord) open(keys []sealingKey, path string) (*grantSecrets, error) {
	i := slices.IndexFunc(keys, func(k sealingKey) bool { return k.ID == r.KeyID })
	if i < 0 {
		return nil, errUnsealed
	}
	aead, err := keys[i].aead()
	if err != nil {
		return nil, errUnsealed
	}
	plain, err := aead.Open(nil, nil, r.Sealed, []byte(path))
	if err != nil {
		return nil, errUnsealed
	}
	defer clear(plain)
	secrets := &grantSecrets{}
	if json.Unmarshal(plain, secrets) != nil { // its error might quote
		return nil, errUnsealed
	}
	return secrets, nil
}
