package oauth

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"reflect"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// maxChain is how many certificates a chain may have; real ones have up to four.
const maxChain = 10

// byCertificate reports whether a method authenticates by the certificate of the
// connection (RFC 8705 §2).
func byCertificate(method broker.AuthenticationMethod) bool {
	return method == broker.TLSClientAuth || method == broker.SelfSignedTLSClientAuth
}

// presented returns the certificate that the connection of a request presents; nil if
// the client authenticates in another way.
func presented(auth broker.Authentication, s secret.Value) (*tls.Certificate, error) {
	if !byCertificate(auth.Method) {
		return nil, nil
	}
	return parseCertificate(auth.Method, s, time.Now())
}

// parseCertificate reads a private key and the chain of the certificate that belongs to
// it, both PEM, in any order. A certificate that is no longer or not yet good is an
// error that says since or from when, by this host's clock.
func parseCertificate(method broker.AuthenticationMethod, s secret.Value, now time.Time) (*tls.Certificate, error) {
	if text := bytes.TrimSpace(s.Reveal()); len(text) > 0 && !bytes.Contains(text, []byte("-----BEGIN ")) {
		return nil, unusable("%s needs a private key and the certificate chain that goes with it, in PEM form; this is not PEM", method)
	}
	key, err := parseKey(s.Reveal())
	if err != nil {
		return nil, err
	}
	chain, err := parseChain(s.Reveal())
	if err != nil {
		return nil, err
	}
	certificate := &tls.Certificate{PrivateKey: key.private}
	for _, c := range chain {
		if certificate.Leaf == nil && belongs(c, key.private) {
			certificate.Leaf = c
			certificate.Certificate = append([][]byte{c.Raw}, certificate.Certificate...)
			continue
		}
		certificate.Certificate = append(certificate.Certificate, c.Raw)
	}
	switch leaf := certificate.Leaf; {
	case len(chain) == 0:
		return nil, unusable("there is no certificate beside the private key; %s presents one: stage the key and the chain in one PEM", method)
	case leaf == nil:
		return nil, unusable("the certificate does not belong to the private key")
	case now.After(leaf.NotAfter):
		return nil, unusable("the certificate expired at %s", utc(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return nil, unusable("the certificate is good only from %s on, and this host's clock says %s", utc(leaf.NotBefore), utc(now))
	}
	return certificate, nil
}

func parseChain(text []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, unusable("certificate %d of the PEM cannot be read; it may be damaged", len(chain)+1)
		}
		if chain = append(chain, c); len(chain) > maxChain {
			return nil, unusable("the PEM has more than %d certificates; stage the chain of one", maxChain)
		}
	}
	return chain, nil
}

// belongs reports whether a certificate is for a private key.
func belongs(c *x509.Certificate, private crypto.Signer) bool {
	public, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(private.Public())
}

// selfSigned returns the certificate in text that belongs to a key and that it signed
// itself, which an authorization server knows from a key set (RFC 8705 §2.2.2); nil if
// there is none.
func selfSigned(text []byte, private crypto.Signer) *x509.Certificate {
	chain, err := parseChain(text)
	if err != nil {
		return nil
	}
	for _, c := range chain {
		if belongs(c, private) && bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			return c
		}
	}
	return nil
}

// SecretExpiry returns when a secret ends by what it says itself: the NotAfter of a
// client certificate. It reports false for secrets that say nothing, and for those that
// [CheckSecret] refuses.
func SecretExpiry(auth broker.Authentication, s secret.Value) (time.Time, bool) {
	if !byCertificate(auth.Method) {
		return time.Time{}, false
	}
	certificate, err := parseCertificate(auth.Method, s, time.Now())
	if err != nil {
		return time.Time{}, false
	}
	return certificate.Leaf.NotAfter.UTC(), true
}

// certificateAlerts are what a server ends TLS with when it does not take the client's
// certificate (RFC 8446 §6.2) :: alert → what it says.
var certificateAlerts = map[uint64]string{
	42: "it is damaged or its signature is wrong", 43: "its type is not supported", 44: "it was revoked",
	45: "it expired", 46: "it is not accepted", 48: "its authority is unknown", 49: "it may not connect",
	116: "none was presented that it takes",
}

// certificateRefused reports whether the server ended TLS because of the certificate that
// the connection presented, which is then the client's credential that was refused.
func (a *attempt) certificateRefused(err error) (string, bool) {
	var network *net.OpError
	if !a.certified || !errors.As(err, &network) || network.Op != "remote error" {
		return "", false
	}
	// The type is crypto/tls's own, but its number is the RFC's.
	number := reflect.ValueOf(network.Err)
	if number.Kind() != reflect.Uint8 {
		return "", false
	}
	said, known := certificateAlerts[number.Uint()]
	return "the server does not take the client's certificate: " + said, known
}
