package bearer

import "time"

// Identity is who a verified token stands for. It is not changed once made and may be
// shared.
type Identity struct {
	// Issuer and Subject are as in the token; Issuer is a configured one.
	Issuer, Subject string
	// IssueTime is zero if the token does not say. Until ExpireTime, and the issuer's
	// leeway beyond, the token is good.
	IssueTime, ExpireTime time.Time
	// Algorithm, KeyID ("" if it has none) and KeyThumbprint (RFC 7638, SHA-256) name
	// what the token was signed with.
	Algorithm, KeyID, KeyThumbprint string

	issuer     *issuer
	name       string
	tokenID    string // only of an issuer with SingleUse
	generation uint64 // of the key set that it was verified with
}

// Name returns "jwt:ISSUER#SUBJECT". The first "#" ends the issuer.
func (i *Identity) Name() string { return i.name }

// expired reports whether the token is past its time.
func (i *Identity) expired(now time.Time) bool {
	return !now.Before(i.ExpireTime.Add(i.issuer.Leeway))
}
