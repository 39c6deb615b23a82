package oauth

import (
	"cmp"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// hmacBytes are how long a secret must be at least to sign with an algorithm, in bytes
// of its UTF-8 form (RFC 7518 §3.2, OpenID Connect Core §10.1) :: algorithm → bytes.
var hmacBytes = map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}

// hmacKey returns the key that client_secret_jwt signs with: the secret's own bytes.
func hmacKey(auth broker.Authentication, s secret.Value) (jose.SigningKey, error) {
	if err := checkClientSecret(auth.Method, s); err != nil {
		return jose.SigningKey{}, err
	}
	algorithm := cmp.Or(auth.SigningAlgorithm, "HS256")
	least, known := hmacBytes[algorithm]
	switch length := len(s.Reveal()); {
	case !known:
		return jose.SigningKey{}, unusable("%s cannot be signed with a client secret; client_secret_jwt has HS256, HS384 and HS512", algorithm)
	case length < least:
		return jose.SigningKey{}, unusable("the client secret has %d bytes; %s needs at least %d (RFC 7518 §3.2)", length, algorithm, least)
	}
	return jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: s.Reveal()}, nil
}

// assertBySecret adds an assertion that is signed with the secret (OpenID Connect Core
// §9). The secret itself is not sent.
func assertBySecret(form url.Values, req broker.TokenRequest, lifetime time.Duration) ([]string, error) {
	key, err := hmacKey(req.Authentication, req.Secret)
	if err != nil {
		return nil, err
	}
	payload, err := assertionClaims(req, lifetime)
	if err != nil {
		return nil, err
	}
	options := new(jose.SignerOptions).WithType("JWT")
	if id := req.Authentication.KeyID; id != "" {
		options.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		return nil, unusable("the client secret cannot sign with %s", key.Algorithm)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return nil, unusable("the client secret cannot sign with %s", key.Algorithm)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		return nil, unusable("the assertion cannot be encoded")
	}
	setAssertion(form, req.ClientID, compact)
	return []string{req.Secret.RevealString(), compact}, nil
}
