package oauth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// minRSABits is what RFC 7518 §3.3 demands.
	minRSABits = 2048
	// maxRSABits keeps one signature below some 50 ms of CPU.
	maxRSABits = 8192
)

// signingKey is a private key and what came with it.
type signingKey struct {
	private crypto.Signer // *rsa.PrivateKey, *ecdsa.PrivateKey or ed25519.PrivateKey
	// id and algorithm are the kid and alg of a JWK (RFC 7517 §4.4, §4.5); "" if none.
	id, algorithm string
	// certificate is the one beside it that belongs to it; nil if there is none.
	certificate *x509.Certificate
}

// parseKey reads a private key from PEM (PKCS#1, PKCS#8, SEC 1) or from one JWK.
// Its errors are SECRET_UNUSABLE with texts of our own: those of the parsers may
// quote what they read.
func parseKey(text []byte) (*signingKey, error) {
	trimmed := bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\ufeff")))
	switch {
	case len(trimmed) == 0:
		return nil, unusable("the private key is empty")
	case len(trimmed) > broker.MaxSecretBytes:
		return nil, unusable("the private key has %d bytes; at most %d", len(trimmed), broker.MaxSecretBytes)
	}
	var key *signingKey
	var err error
	switch {
	case trimmed[0] == '{':
		key, err = parseJWK(trimmed)
	case bytes.Contains(trimmed, []byte("-----BEGIN ")):
		key, err = parsePEM(trimmed)
	default:
		return nil, unusable("a private key in PEM or JWK form is needed; this is neither")
	}
	if err != nil {
		return nil, err
	}
	if problem := weakness(key.private); problem != "" {
		return nil, unusable("%s", problem)
	}
	return key, nil
}

// parsePEM reads the one private key among the blocks. Certificates and EC
// parameters may stand beside it, as providers and openssl put them there.
func parsePEM(text []byte) (*signingKey, error) {
	var private *pem.Block
	publicOnly := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			if private != nil {
				return nil, unusable("the PEM has more than one private key; stage one")
			}
			private = block
		case "ENCRYPTED PRIVATE KEY":
			return nil, encryptedKey()
		case "OPENSSH PRIVATE KEY":
			return nil, unusable("the private key is in OpenSSH's own format; convert it with `ssh-keygen -p -m PKCS8`")
		case "DSA PRIVATE KEY":
			return nil, unusable("the private key is a DSA key; RSA, EC (P-256, P-384, P-521) and Ed25519 can be used")
		case "PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE":
			publicOnly = true
		}
	}
	switch {
	case private == nil && publicOnly:
		return nil, publicKey()
	case private == nil && bytes.Contains(text, []byte(`\n`)):
		return nil, unusable(`the PEM has the two characters "\n" where line breaks should be`)
	case private == nil:
		return nil, unusable("the PEM holds no private key that can be read; check that it is whole, line breaks included")
	case strings.Contains(private.Headers["Proc-Type"], "ENCRYPTED") || private.Headers["DEK-Info"] != "":
		return nil, encryptedKey()
	}
	key, err := parseDER(private)
	if err != nil {
		return nil, err
	}
	key.certificate = certificateOf(text, key.private)
	return key, nil
}

// certificateOf returns the certificate of a key among what stands beside it in a PEM;
// nil if there is none that can be read. What needs one says so itself.
func certificateOf(text []byte, private crypto.Signer) *x509.Certificate {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && belongs(c, private) {
			return c
		}
	}
	return nil
}

func parseDER(block *pem.Block) (*signingKey, error) {
	var parsed any
	var err error
	form := "PKCS#8"
	switch block.Type {
	case "RSA PRIVATE KEY":
		form = "PKCS#1"
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		form = "SEC 1"
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, unusable("the private key cannot be read as %s; it may be damaged or of a kind other than RSA, EC and Ed25519", form)
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, unusable("the private key is for key agreement, not for signatures")
	}
	return &signingKey{private: private}, nil
}

func parseJWK(text []byte) (*signingKey, error) {
	var members struct {
		Kty, Use, N string
		Keys        json.RawMessage
	}
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, unusable("the private key begins like a JWK but is not valid JSON of one")
	}
	switch {
	case members.Keys != nil:
		return nil, unusable("this is a set of JWKs; stage the one private key out of it")
	case members.Kty == "oct":
		return nil, unusable("the JWK is a symmetric key (kty oct); RSA, EC or OKP with Ed25519 is needed")
	case members.Use != "" && members.Use != "sig":
		return nil, unusable("the JWK is not for signatures: its use is not sig")
	case base64.RawURLEncoding.DecodedLen(len(members.N))*8 > jose.MaxRSAModulusBits:
		return nil, unusable("an RSA key in a JWK has at most %d bits; give a longer one as PEM", jose.MaxRSAModulusBits)
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(text); err != nil {
		return nil, unusable("the JWK cannot be read: it is damaged, or not RSA, EC (P-256, P-384, P-521) or OKP with Ed25519")
	}
	if key.IsPublic() {
		return nil, publicKey()
	}
	private, ok := key.Key.(crypto.Signer)
	if !ok || !key.Valid() {
		return nil, unusable("the JWK holds no private key that can sign")
	}
	parsed := &signingKey{private: private, id: key.KeyID, algorithm: key.Algorithm}
	if len(key.Certificates) > 0 && belongs(key.Certificates[0], private) { // RFC 7517 §4.7: the first is the key's
		parsed.certificate = key.Certificates[0]
	}
	return parsed, nil
}

// weakness says why a key must not, or cannot, be used; "" if it can.
func weakness(private crypto.Signer) string {
	switch key := private.(type) {
	case *rsa.PrivateKey:
		switch bits := key.N.BitLen(); {
		case bits < minRSABits:
			return "the RSA key is shorter than 2048 bits (RFC 7518 §3.3)"
		case bits > maxRSABits:
			return "the RSA key is longer than 8192 bits"
		}
	case *ecdsa.PrivateKey:
		if naturalAlgorithm(key) == "" {
			return "the EC key's curve is none of P-256, P-384 and P-521"
		}
	case ed25519.PrivateKey:
	default:
		return "the private key is of a kind other than RSA, EC and Ed25519"
	}
	return ""
}

func encryptedKey() *broker.Error {
	return unusable("the private key is encrypted with a passphrase; stage it decrypted (the store encrypts it)")
}

func publicKey() *broker.Error {
	return unusable("this is a public key or certificate only; the private key is needed")
}

// keySpellings returns the parts of a private key's text that must not show up
// anywhere: its body without the armour, whose words are in many an innocent text.
func keySpellings(text []byte) []string {
	var parts []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		parts = append(parts, base64.StdEncoding.EncodeToString(block.Bytes))
	}
	var members map[string]json.RawMessage
	if len(parts) == 0 && json.Unmarshal(text, &members) == nil {
		for _, name := range []string{"d", "p", "q", "dp", "dq", "qi"} {
			var value string
			if json.Unmarshal(members[name], &value) == nil && value != "" {
				parts = append(parts, value)
			}
		}
	}
	return parts
}
