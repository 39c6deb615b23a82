package bearer

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// issuer is an Issuer, ready to judge tokens.
type issuer struct {
	Issuer
	keys     *keyring
	shown    *replays // nil unless SingleUse
	types    []string // in normal form
	subject  claimName
	required []requirement
}

type requirement struct {
	claim claimName
	value string
}

// newIssuer wants a configuration that was validated.
func newIssuer(cfg Issuer, keys *keyring) (*issuer, error) {
	i := &issuer{Issuer: cfg, keys: keys}
	for _, kind := range cfg.Types {
		i.types = append(i.types, normalType(kind))
	}
	if cfg.SingleUse {
		// iat may be a leeway ahead of us and exp is kept to with another.
		i.shown = &replays{window: cfg.MaxLifetime + 2*cfg.Leeway}
	}
	var err error
	if i.subject, err = parseClaimName(cfg.SubjectClaim); err != nil {
		return nil, fmt.Errorf("subject_claim %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.RequiredClaims)) {
		claim, err := parseClaimName(name)
		if err != nil {
			return nil, fmt.Errorf("required_claims %w", err)
		}
		i.required = append(i.required, requirement{claim, cfg.RequiredClaims[name]})
	}
	return i, nil
}

// judge checks everything but the signature, and returns what the token would stand
// for. The identity has no key yet.
func (i *issuer) judge(t *unverified, now time.Time) (*Identity, *Error) {
	switch {
	case !slices.Contains(i.types, t.kind):
		return nil, &Error{Cause: TypeNotAllowed}
	case !slices.Contains(i.Algorithms, t.algorithm):
		return nil, &Error{Cause: AlgorithmNotAllowed}
	}
	id := &Identity{issuer: i, Issuer: i.Issuer.Issuer}
	if err := i.judgeTimes(t.claims, id, now); err != nil {
		return nil, err
	}
	audiences, err := t.claims.audiences()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(i.Audiences, a) }) {
		return nil, &Error{Cause: WrongAudience}
	}
	for _, r := range i.required {
		value, err := t.claims.text(r.claim)
		if err != nil {
			return nil, err
		}
		if value != r.value {
			return nil, &Error{Cause: WrongClaim, Claim: r.claim.text}
		}
	}
	if id.Subject, err = t.claims.text(i.subject); err != nil {
		return nil, err
	}
	if id.Subject == "" || len(id.Subject) > maxSubject || !printable(id.Subject) {
		return nil, &Error{Cause: InvalidClaim, Claim: i.subject.text}
	}
	if i.SingleUse {
		if id.tokenID, err = t.claims.text(tokenIDClaim); err != nil {
			return nil, err
		}
	}
	id.name = "jwt:" + id.Issuer + "#" + id.Subject
	return id, nil
}

var tokenIDClaim = claimName{"jti", []string{"jti"}}

// judgeTimes checks exp, nbf and iat (RFC 7519 §4.1.4 to §4.1.6). A token from the
// future is refused although the RFC does not ask for it: either clock is wrong then,
// and max_lifetime counts from iat.
func (i *issuer) judgeTimes(claims object, id *Identity, now time.Time) *Error {
	var notBefore time.Time
	for _, date := range []struct {
		name string
		into *time.Time
	}{{"exp", &id.ExpireTime}, {"nbf", &notBefore}, {"iat", &id.IssueTime}} {
		var err *Error
		if *date.into, err = claims.time(date.name); err != nil {
			return err
		}
	}
	switch {
	case id.ExpireTime.IsZero():
		return &Error{Cause: MissingClaim, Claim: "exp"}
	case i.MaxLifetime > 0 && id.IssueTime.IsZero():
		return &Error{Cause: MissingClaim, Claim: "iat"}
	case !now.Before(id.ExpireTime.Add(i.Leeway)):
		return &Error{Cause: Expired}
	case now.Before(notBefore.Add(-i.Leeway)), now.Before(id.IssueTime.Add(-i.Leeway)):
		return &Error{Cause: NotYetValid}
	case i.MaxLifetime > 0 && id.ExpireTime.Sub(id.IssueTime) > i.MaxLifetime:
		return &Error{Cause: LifetimeTooLong}
	}
	return nil
}
