package identity

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// list is one revocation list, as far as it is needed to check certificates.
type list struct {
	issuer     []byte // the issuer's name, DER
	issuerName string // the same for people
	// scope tells the lists of one issuer apart that each speak for some of its
	// certificates; nil for a list of all.
	scope                  []byte
	thisUpdate, nextUpdate time.Time
	revoked                map[string]struct{} // :: serial number, big-endian
}

func (l *list) has(c *x509.Certificate) bool {
	// Serial numbers are unique for an issuer's name, whichever of its keys signed.
	_, ok := l.revoked[string(c.SerialNumber.Bytes())]
	return ok
}

// Extensions of revocation lists and their entries (RFC 5280 §5.2, §5.3).
var (
	oidAuthorityKeyID    = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidCRLNumber         = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidDeltaCRL          = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidReasonCode        = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidityDate    = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidCertificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
)

// clockSkew is how far an issuer's clock may be ahead of ours.
const clockSkew = 5 * time.Minute

// parseLists reads a file of revocation lists, DER or PEM, of which each must be
// signed by one of the authorities.
func parseLists(content []byte, authorities []*x509.Certificate, now time.Time) ([]*list, error) {
	blocks := [][]byte{content}
	if bytes.Contains(content, []byte("-----BEGIN ")) {
		var err error
		if blocks, err = decodePEM(content, "X509 CRL"); err != nil {
			return nil, err
		}
	}
	lists := make([]*list, 0, len(blocks))
	for i, der := range blocks {
		l, err := parseList(der, authorities, now)
		if err != nil {
			return nil, fmt.Errorf("revocation list %d: %w", i+1, err)
		}
		lists = append(lists, l)
	}
	return lists, nil
}

func parseList(der []byte, authorities []*x509.Certificate, now time.Time) (*list, error) {
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if err := signedByOneOf(parsed, authorities); err != nil {
		return nil, err
	}
	switch {
	case parsed.NextUpdate.IsZero():
		return nil, errors.New("does not say when it is to be replaced (RFC 5280 §5.1.2.5)")
	case parsed.ThisUpdate.After(now.Add(clockSkew)):
		return nil, fmt.Errorf("is of %s, which is yet to come", parsed.ThisUpdate.Format(time.RFC3339))
	}
	l := &list{
		issuer: parsed.RawIssuer, issuerName: parsed.Issuer.String(), thisUpdate: parsed.ThisUpdate, nextUpdate: parsed.NextUpdate,
		revoked: make(map[string]struct{}, len(parsed.RevokedCertificateEntries)),
	}
	if l.scope, err = scopeOf(parsed.Extensions); err != nil {
		return nil, err
	}
	for _, entry := range parsed.RevokedCertificateEntries {
		if err := checkEntry(entry.Extensions); err != nil {
			return nil, fmt.Errorf("entry of serial number %x: %w", entry.SerialNumber, err)
		}
		l.revoked[string(entry.SerialNumber.Bytes())] = struct{}{}
	}
	return l, nil
}

func signedByOneOf(parsed *x509.RevocationList, authorities []*x509.Certificate) error {
	err := fmt.Errorf("its issuer %s is none of the bundle's authorities", parsed.Issuer)
	for _, authority := range authorities {
		if !bytes.Equal(authority.RawSubject, parsed.RawIssuer) {
			continue
		}
		if err = parsed.CheckSignatureFrom(authority); err == nil {
			return nil
		}
	}
	return err
}

// scopeOf returns what a list speaks for, or why it cannot be used: a delta list and
// one that holds other issuers' certificates mean something else than they seem to, and
// so may one with an extension that we do not know and are told not to ignore.
func scopeOf(extensions []pkix.Extension) ([]byte, error) {
	var scope []byte
	for _, e := range extensions {
		switch {
		case e.Id.Equal(oidDeltaCRL):
			return nil, errors.New("is a delta list, which says only what has changed")
		case e.Id.Equal(oidDistributionPoint):
			if err := checkDistributionPoint(e.Value); err != nil {
				return nil, err
			}
			scope = e.Value
		case e.Critical && !e.Id.Equal(oidAuthorityKeyID) && !e.Id.Equal(oidCRLNumber):
			return nil, fmt.Errorf("has the unknown critical extension %s", e.Id)
		}
	}
	return scope, nil
}

// distributionPoint is IssuingDistributionPoint of RFC 5280 §5.2.5.
type distributionPoint struct {
	Name                       asn1.RawValue  `asn1:"optional,tag:0"`
	OnlyContainsUserCerts      bool           `asn1:"optional,tag:1"`
	OnlyContainsCACerts        bool           `asn1:"optional,tag:2"`
	OnlySomeReasons            asn1.BitString `asn1:"optional,tag:3"`
	IndirectCRL                bool           `asn1:"optional,tag:4"`
	OnlyContainsAttributeCerts bool           `asn1:"optional,tag:5"`
}

func checkDistributionPoint(value []byte) error {
	var point distributionPoint
	rest, err := asn1.Unmarshal(value, &point)
	switch {
	case err != nil || len(rest) > 0:
		return fmt.Errorf("its issuing distribution point cannot be read (%w)", errors.Join(err, trailing(rest)))
	case point.IndirectCRL:
		return errors.New("is an indirect list, which speaks for other issuers")
	case point.OnlySomeReasons.BitLength > 0:
		return errors.New("leaves out some reasons of revocation")
	case point.OnlyContainsAttributeCerts:
		return errors.New("is of attribute certificates")
	}
	return nil
}

func trailing(rest []byte) error {
	if len(rest) == 0 {
		return nil
	}
	return fmt.Errorf("%d bytes after its end", len(rest))
}

func checkEntry(extensions []pkix.Extension) error {
	for _, e := range extensions {
		switch {
		case e.Id.Equal(oidCertificateIssuer):
			return errors.New("names another issuer, as in an indirect list")
		case e.Critical && !e.Id.Equal(oidReasonCode) && !e.Id.Equal(oidInvalidityDate):
			return fmt.Errorf("has the unknown critical extension %s", e.Id)
		}
	}
	return nil
}

// newest leaves out lists that another one of the same issuer and scope replaces.
func newest(lists []*list) []*list {
	var kept []*list
next:
	for _, l := range lists {
		for i, other := range kept {
			if bytes.Equal(l.issuer, other.issuer) && bytes.Equal(l.scope, other.scope) {
				if l.thisUpdate.After(other.thisUpdate) {
					kept[i] = l
				}
				continue next
			}
		}
		kept = append(kept, l)
	}
	return kept
}

// decodePEM reads PEM blocks of one kind to the end. pem.Decode skips what it cannot
// read, and half a file would lock out the callers of the other half or let in those
// whose certificates it revokes.
func decodePEM(content []byte, kind string) ([][]byte, error) {
	var blocks [][]byte
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != kind {
			return nil, fmt.Errorf("holds a %s", block.Type)
		}
		blocks = append(blocks, block.Bytes)
	}
	if begun := bytes.Count(content, []byte("-----BEGIN ")); len(blocks) == 0 || len(blocks) != begun {
		return nil, fmt.Errorf("holds %d PEM blocks, of which %d are whole", begun, len(blocks))
	}
	return blocks, nil
}
