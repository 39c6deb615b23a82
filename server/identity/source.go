package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// pairSource makes the server's certificate of its files.
type pairSource struct {
	watched
	sum  [sha256.Size]byte // of what pair was made
	pair *tls.Certificate  // the last good one; nil before the first
}

func newPairSource(certificate, key string) *pairSource {
	return &pairSource{watched: watched{paths: []string{certificate, key}}}
}

// load reads the files and reports whether there is another certificate than before.
// On an error the last good one stays.
func (s *pairSource) load() (changed bool, err error) {
	contents, errs := s.read()
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return false, fmt.Errorf("server certificate %s: %w", s.paths[0], err)
	}
	sum := sha256.Sum256(bytes.Join(contents, []byte{0}))
	changed = s.pair == nil || sum != s.sum
	s.sum, s.pair = sum, &pair
	return changed, nil
}

// bundleSource makes a trust bundle of its files. Each file counts for itself: an
// authority that is removed is gone although its list was left behind, and a list that
// cannot be read keeps no other from being replaced.
type bundleSource struct {
	watched // the authorities first, then the lists
	config  TrustBundle
	// good has, for each file, the hash of what was taken from it.
	good        [][sha256.Size]byte
	authorities []*x509.Certificate
	lists       [][]*list // by file
}

func newBundleSource(config TrustBundle) *bundleSource {
	paths := append([]string{config.CAFile}, config.CRLFiles...)
	return &bundleSource{
		watched: watched{paths: paths}, config: config,
		good: make([][sha256.Size]byte, len(paths)), lists: make([][]*list, len(config.CRLFiles)),
	}
}

// load reads the files and reports whether they mean something else than before. The
// error names the files of which the last good content stays in force.
func (s *bundleSource) load(now time.Time) (changed bool, err error) {
	contents, errs := s.read()
	take := func(i int) {
		sum := sha256.Sum256(contents[i])
		changed = changed || sum != s.good[i]
		s.good[i] = sum
	}
	if errs[0] == nil {
		var authorities []*x509.Certificate
		if authorities, errs[0] = parseAuthorities(contents[0]); errs[0] == nil {
			s.authorities = authorities
			take(0)
		} else {
			errs[0] = fmt.Errorf("authorities %s: %w", s.paths[0], errs[0])
		}
	}
	for i := range s.lists {
		if errs[i+1] != nil {
			continue
		}
		lists, err := parseLists(contents[i+1], s.authorities, now)
		if err != nil {
			errs[i+1] = fmt.Errorf("revocation lists %s: %w", s.paths[i+1], err)
			continue
		}
		s.lists[i] = lists
		take(i + 1)
	}
	return changed, errors.Join(errs...)
}

// bundle returns what the last good files say.
func (s *bundleSource) bundle() *bundle {
	b := &bundle{
		name: s.config.Name, domain: s.config.TrustDomain, authorities: s.authorities,
		anchors: x509.NewCertPool(), intermediates: x509.NewCertPool(),
	}
	for _, authority := range s.authorities {
		if issuedByAnother(authority, s.authorities) {
			b.intermediates.AddCert(authority) // so that the lists of its issuer count
		} else {
			b.anchors.AddCert(authority)
		}
	}
	var lists []*list
	for _, of := range s.lists {
		lists = append(lists, of...)
	}
	b.lists = newest(lists)
	return b
}

func issuedByAnother(authority *x509.Certificate, authorities []*x509.Certificate) bool {
	if isSelfIssued(authority) {
		return false
	}
	for _, other := range authorities {
		if bytes.Equal(other.RawSubject, authority.RawIssuer) && authority.CheckSignatureFrom(other) == nil {
			return true
		}
	}
	return false
}

func parseAuthorities(content []byte) ([]*x509.Certificate, error) {
	blocks, err := decodePEM(content, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	authorities := make([]*x509.Certificate, 0, len(blocks))
	for i, der := range blocks {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
		authorities = append(authorities, certificate)
	}
	return authorities, nil
}
