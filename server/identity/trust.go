package identity

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbroker/tokenbroker/server/access"
)

// lookAgain is how long a refusal holds. Time alone may end it, as when a clock is put
// right, and a peer that keeps calling must not cost a verification each time.
const lookAgain = time.Second

// trust is whom the files of one moment trust. It is immutable: each change of the
// files makes another, so that its address is its generation.
type trust struct {
	generation uint64
	bundles    []*bundle
	settings   settings
}

// settings are what does not change with the files.
type settings struct {
	commonNames      bool
	acceptStaleLists bool
	// domains are the trust domains that a bundle has to itself :: name → index.
	domains map[string]int
}

// bundle is some authorities and their revocation lists.
type bundle struct {
	name   string
	domain string // the only one whose SPIFFE ids it may issue; "" for any that is nobody's
	// authorities are all of the bundle; anchors those that none of the others issued.
	authorities            []*x509.Certificate
	anchors, intermediates *x509.CertPool
	lists                  []*list
}

// judge verifies a chain, of which the leaf is first, and finds out who it names.
func (t *trust) judge(presented []*x509.Certificate, now time.Time) *verdict {
	refused := func(err *Error) *verdict {
		return &verdict{trust: t, from: now, until: now.Add(lookAgain), err: err}
	}
	names, unnamed := namesOf(presented[0], t.settings.commonNames)
	var best *verdict
	var untrusted *Error
	for i, b := range t.bundles {
		found, refusal := b.verify(t, presented, now)
		if refusal != nil && refusal.Cause == CauseRevoked {
			return refused(refusal) // whatever other bundles say
		}
		if refusal == nil && !t.maySpeakFor(i, names.domain) {
			refusal = &Error{CauseWrongTrustDomain, fmt.Sprintf("trust bundle %q may not issue for %s", b.name, names.domain)}
		}
		if refusal != nil {
			untrusted = worse(untrusted, refusal)
			continue
		}
		if best == nil || found.until.After(best.until) {
			best = found
		}
	}
	switch {
	case best == nil:
		return refused(worse(untrusted, &Error{Cause: CauseUnknownAuthority}))
	case unnamed != nil: // told of certificates only that are trusted otherwise
		return refused(unnamed)
	}
	best.peer = access.NewPeer(names.identities...)
	return best
}

// maySpeakFor reports whether the bundle may issue SPIFFE ids of a trust domain; ""
// stands for certificates without one.
func (t *trust) maySpeakFor(bundle int, domain string) bool {
	if domain == "" {
		return true
	}
	if own := t.bundles[bundle].domain; own != "" {
		return own == domain
	}
	_, taken := t.settings.domains[domain]
	return !taken
}

// verify looks for a chain to one of the bundle's anchors that nothing speaks against,
// and returns how long it holds.
func (b *bundle) verify(t *trust, presented []*x509.Certificate, now time.Time) (*verdict, *Error) {
	intermediates := b.intermediates
	if len(presented) > 1 {
		intermediates = intermediates.Clone()
		for _, certificate := range presented[1:] {
			intermediates.AddCert(certificate)
		}
	}
	chains, err := presented[0].Verify(x509.VerifyOptions{
		Roots: b.anchors, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, verificationError(err, now)
	}
	var best *verdict
	var refusal *Error
	for _, chain := range chains {
		found, err := b.chain(t, chain, now)
		if err != nil {
			refusal = worse(refusal, err)
			continue
		}
		if best == nil || found.until.After(best.until) {
			best = found
		}
	}
	if best == nil {
		return nil, refusal
	}
	return best, nil
}

// chain checks each certificate of a verified chain against the lists of its issuer,
// and returns how long none of them expires.
func (b *bundle) chain(t *trust, chain []*x509.Certificate, now time.Time) (*verdict, *Error) {
	v := &verdict{trust: t, from: chain[0].NotBefore, until: chain[0].NotAfter}
	for i, certificate := range chain {
		v.from, v.until = latest(v.from, certificate.NotBefore), earliest(v.until, certificate.NotAfter)
		if i == len(chain)-1 && isSelfIssued(certificate) {
			break // what vouches for it is the file that it is in
		}
		for _, l := range b.lists {
			if !bytes.Equal(l.issuer, certificate.RawIssuer) {
				continue
			}
			if l.has(certificate) {
				return nil, &Error{CauseRevoked, describe(certificate)}
			}
			if t.settings.acceptStaleLists {
				continue
			}
			if !now.Before(l.nextUpdate) {
				return nil, &Error{CauseStaleRevocationList, fmt.Sprintf("that of %s was to be replaced by %s", l.issuerName, l.nextUpdate.Format(time.RFC3339))}
			}
			v.until = earliest(v.until, l.nextUpdate)
		}
	}
	return v, nil
}

// isSelfIssued reports whether a certificate is its own issuer's.
func isSelfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawIssuer, c.RawSubject) }

// describe names a certificate in a log as its issuer's records do.
func describe(c *x509.Certificate) string {
	return fmt.Sprintf("serial number %x of %s", c.SerialNumber, c.Issuer)
}

// verificationError finds the cause in an error of x509.
func verificationError(err error, now time.Time) *Error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return &Error{Cause: CauseUnknownAuthority}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil && now.Before(invalid.Cert.NotBefore):
		return &Error{CauseNotYetValid, fmt.Sprintf("%s, until %s", describe(invalid.Cert), invalid.Cert.NotBefore.Format(time.RFC3339))}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return &Error{CauseExpired, fmt.Sprintf("%s, since %s", describe(invalid.Cert), invalid.Cert.NotAfter.Format(time.RFC3339))}
	}
	return &Error{CauseUnsuitable, err.Error()}
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
