package identity

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tokenbroker/tokenbroker/server/access"
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidCommonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
)

// named is who a certificate says its holder is.
type named struct {
	identities []string
	// domain is that of the SPIFFE id; "" without one.
	domain string
}

// namesOf returns the identities of a certificate. A SPIFFE id stands alone among the
// URIs (SPIFFE X.509-SVID §2), and a common name counts only where it is asked for and
// there is no subject alternative name of any kind (RFC 6125 §6.4.4).
func namesOf(leaf *x509.Certificate, commonNames bool) (named, *Error) {
	var n named
	for _, uri := range leaf.URIs {
		if uri.Scheme == "spiffe" {
			if len(leaf.URIs) > 1 {
				return named{}, &Error{CauseAmbiguous, fmt.Sprintf("%d URIs, one of them a SPIFFE id", len(leaf.URIs))}
			}
			domain, err := trustDomainOf(leaf)
			if err != nil {
				return named{}, err
			}
			n.domain = domain
		}
		if identity, ok := access.URIIdentity(uri); ok {
			n.identities = append(n.identities, identity)
		}
	}
	for _, name := range leaf.DNSNames {
		n.identities = append(n.identities, access.DNSIdentity(name))
	}
	switch {
	case len(n.identities) > 0:
		return n, nil
	case hasAlternativeName(leaf):
		return named{}, &Error{CauseNoIdentity, "no subject alternative name is a URI with a host or a DNS name"}
	case !commonNames:
		return named{}, &Error{CauseNoIdentity, "no subject alternative name, and common names do not count"}
	}
	identity, err := commonNameOf(leaf)
	if err != nil {
		return named{}, err
	}
	return named{identities: []string{identity}}, nil
}

// trustDomainOf returns the trust domain of a certificate whose only URI is a SPIFFE
// id, if it is a workload's: those of authorities have no path, and their holders sign
// for others (SPIFFE X.509-SVID §3, §4).
func trustDomainOf(leaf *x509.Certificate) (string, *Error) {
	id, err := spiffeid.FromURI(leaf.URIs[0])
	switch {
	case err != nil:
		return "", &Error{CauseInvalidIdentity, fmt.Sprintf("SPIFFE id: %v", err)}
	case id.Path() == "":
		return "", &Error{CauseInvalidIdentity, "the SPIFFE id is that of a trust domain"}
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return "", &Error{CauseInvalidIdentity, "the SPIFFE id is in the certificate of an authority"}
	}
	return id.TrustDomain().Name(), nil
}

func hasAlternativeName(leaf *x509.Certificate) bool {
	for _, extension := range leaf.Extensions {
		if extension.Id.Equal(oidSubjectAltName) {
			return true
		}
	}
	return false
}

func commonNameOf(leaf *x509.Certificate) (string, *Error) {
	found := 0
	for _, attribute := range leaf.Subject.Names {
		if attribute.Type.Equal(oidCommonName) {
			found++
		}
	}
	if found > 1 {
		return "", &Error{CauseAmbiguous, fmt.Sprintf("%d common names", found)}
	}
	identity, ok := access.CommonNameIdentity(leaf.Subject.CommonName)
	if !ok {
		return "", &Error{CauseNoIdentity, "no subject alternative name, and no common name that can be an identity"}
	}
	return identity, nil
}
