package oauth

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
)

// assertionLifetime is how long an assertion may be presented. Servers cap it, and
// it bounds what a stolen one is good for; a minute is what clocks need.
const assertionLifetime = time.Minute

// claims are those of RFC 7523 §3. nbf is left out: a server whose clock is a
// second behind ours would refuse it, and exp and jti do its work.
type claims struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"`
	ID        string `json:"jti"`
	IssuedAt  int64  `json:"iat"`
	ExpiresAt int64  `json:"exp"`
}

// assertionClaims are those of one request.
func assertionClaims(req broker.TokenRequest, lifetime time.Duration) ([]byte, error) {
	now := time.Now()
	payload, err := json.Marshal(claims{
		Issuer: req.ClientID, Subject: req.ClientID,
		Audience:  cmp.Or(req.Authentication.AssertionAudience, req.Endpoint),
		ID:        rand.Text(), // at least 128 bits
		IssuedAt:  now.Unix(),
		ExpiresAt: now.Add(lifetime).Unix(),
	})
	if err != nil {
		return nil, unusable("the assertion's claims cannot be encoded")
	}
	return payload, nil
}

// assertion returns a client assertion that is good for one request.
func (k *signingKey) assertion(req broker.TokenRequest, lifetime time.Duration) (string, error) {
	payload, err := assertionClaims(req, lifetime)
	if err != nil {
		return "", err
	}
	return k.compact(req.Authentication, payload)
}

// compact signs a payload as one string (RFC 7515 §7.1).
func (k *signingKey) compact(auth broker.Authentication, payload []byte) (string, error) {
	signed, err := k.sign(auth, payload)
	if err != nil {
		return "", err
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		return "", unusable("the assertion cannot be encoded")
	}
	return compact, nil
}

// check signs something and verifies it, which finds a JWK whose private and
// public halves are of different keys.
func (k *signingKey) check(auth broker.Authentication) error {
	signed, err := k.sign(auth, []byte("tokenbroker tries a key"))
	if err != nil {
		return err
	}
	if _, err := signed.Verify(k.private.Public()); err != nil {
		return unusable("the private key does not belong to the public key beside it")
	}
	return nil
}

func (k *signingKey) sign(auth broker.Authentication, payload []byte) (*jose.JSONWebSignature, error) {
	algorithm, err := k.choose(auth.SigningAlgorithm)
	if err != nil {
		return nil, err
	}
	options := new(jose.SignerOptions).WithType("JWT")
	if id := cmp.Or(auth.KeyID, k.id); id != "" {
		options.WithHeader("kid", id)
	}
	if k.certificate != nil { // RFC 7515 §4.1.8; by it Microsoft Entra ID finds the key
		sum := sha256.Sum256(k.certificate.Raw)
		options.WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(sum[:]))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: k.private}, options)
	if err != nil {
		return nil, unusable("the private key cannot sign with %s", algorithm)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return nil, unusable("the private key does not sign; it may be damaged")
	}
	return signed, nil
}

// choose returns the algorithm to sign with: the configured one, else the JWK's
// own, else the natural one of the key. One that the key cannot do, or that the
// JWK is not meant for, is an error: signing with another would be refused by the
// server as a wrong key.
func (k *signingKey) choose(configured string) (jose.SignatureAlgorithm, error) {
	if k.algorithm != "" && !slices.Contains(broker.SigningAlgorithms(), k.algorithm) {
		return "", unusable("the JWK's alg is not one of %v", broker.SigningAlgorithms())
	}
	if configured != "" && k.algorithm != "" && configured != k.algorithm {
		return "", unusable("the JWK is for %s, the client's signing_algorithm is %s", k.algorithm, configured)
	}
	natural := naturalAlgorithm(k.private)
	algorithm := cmp.Or(configured, k.algorithm, natural)
	if _, isRSA := k.private.(*rsa.PrivateKey); isRSA && slices.Contains([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, algorithm) {
		return jose.SignatureAlgorithm(algorithm), nil
	}
	if algorithm != natural {
		return "", unusable("%s cannot be signed with this key, which is for %s", algorithm, natural)
	}
	return jose.SignatureAlgorithm(algorithm), nil
}

// naturalAlgorithm returns the algorithm that goes with a key when none is named,
// "" if none does. For all but RSA it is the only one (RFC 7518 §3.4, RFC 8037).
func naturalAlgorithm(private crypto.Signer) string {
	switch key := private.(type) {
	case *rsa.PrivateKey:
		return "RS256"
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return "ES256"
		case elliptic.P384():
			return "ES384"
		case elliptic.P521():
			return "ES512"
		}
	case ed25519.PrivateKey:
		return "EdDSA"
	}
	return ""
}
