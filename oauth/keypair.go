package oauth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// KeyPairRotator changes the keys of clients with private_key_jwt whose authorization
// server takes the public ones from the broker (jwks_uri, RFC 7591 §2). The broker makes
// the pair; the public half is published as soon as the version is staged, so that
// there is nothing to tell a provider. Safe for concurrent use.
type KeyPairRotator struct {
	// MaxAge is how long an authorization server may keep the keys that it fetched.
	MaxAge time.Duration
}

var (
	_ broker.Rotator     = KeyPairRotator{}
	_ broker.SecretMaker = KeyPairRotator{}
)

// RSABitsParameter is the one parameter of [KeyPairRotator]: "2048", "3072" or "4096".
const RSABitsParameter = "rsa_bits"

const (
	defaultRSABits = 3072
	// publishLag is how much later than the stage the last replica may still answer
	// without the new key.
	publishLag = 5 * time.Second
)

// Traits implements [broker.Rotator].
func (r KeyPairRotator) Traits(broker.RotationSettings) broker.RotatorTraits {
	return broker.RotatorTraits{
		Shape: broker.ShapeKeyPair, TakesChosen: true, Propagation: r.MaxAge + publishLag, Optional: []string{RSABitsParameter},
	}
}

// MakeSecret implements [broker.SecretMaker]: a private JWK for the client's
// signing_algorithm. Without one the new key is of the present one's kind, or for RS256.
// Its kid is its thumbprint (RFC 7638).
func (r KeyPairRotator) MakeSecret(call broker.RotatorCall) (secret.Value, error) {
	auth := call.Authentication
	unfit := func(format string, args ...any) (secret.Value, error) {
		return secret.Value{}, &broker.Error{Reason: broker.ReasonRotatorNotSet, Client: call.ID, Detail: "rotator key_pair: " + fmt.Sprintf(format, args...)}
	}
	if auth.Method != broker.PrivateKeyJWT {
		return unfit("the client authenticates by %s, not by %s", auth.Method, broker.PrivateKeyJWT)
	}
	if auth.KeyID != "" {
		return unfit("the client has a key_id, which would be that of all its keys; remove it")
	}
	bits := defaultRSABits
	if text := call.Settings.Parameters[RSABitsParameter]; text != "" {
		var err error
		if bits, err = strconv.Atoi(text); err != nil || bits != 2048 && bits != 3072 && bits != 4096 {
			return unfit("the parameter %s must be 2048, 3072 or 4096", RSABitsParameter)
		}
	}
	algorithm := auth.SigningAlgorithm
	if algorithm == "" {
		algorithm = "RS256"
		if present, err := parseKey(call.Current.Reveal()); err == nil {
			if chosen, err := present.choose(""); err == nil {
				algorithm = string(chosen)
			}
		}
	}
	private, err := newPrivateKey(algorithm, bits)
	if err != nil {
		return secret.Value{}, &broker.Error{Reason: broker.ReasonInternal, Op: "make a key pair", Client: call.ID, Err: err}
	}
	encoded, err := encodeJWK(private, private.Public(), "", algorithm, nil)
	if err != nil {
		return secret.Value{}, &broker.Error{Reason: broker.ReasonInternal, Op: "make a key pair", Client: call.ID, Err: err}
	}
	defer clear(encoded)
	return secret.New(encoded), nil
}

func newPrivateKey(algorithm string, bits int) (crypto.Signer, error) {
	switch algorithm {
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
		return rsa.GenerateKey(rand.Reader, bits)
	}
	return nil, fmt.Errorf("there is no key for %.20q", algorithm)
}

// encodeJWK encodes key with its kid, by default the thumbprint of public, and the
// certificate that it signed itself, if there is one.
func encodeJWK(key any, public crypto.PublicKey, id, algorithm string, certificate *x509.Certificate) ([]byte, error) {
	jwk := jose.JSONWebKey{Key: key, KeyID: id, Algorithm: algorithm, Use: "sig"}
	if certificate != nil {
		jwk.Certificates = []*x509.Certificate{certificate}
	}
	if id == "" {
		thumbprint, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("compute the thumbprint: %w", err)
		}
		jwk.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	}
	return jwk.MarshalJSON()
}

// PublicKey returns the public half of a private key as a JWK. Its kid is that of a
// private JWK, else the thumbprint (RFC 7638). With a self-signed certificate beside the
// key it has that as x5c, as self_signed_tls_client_auth wants it (RFC 8705 §2.2.2).
// SECRET_UNUSABLE if value is no such key.
func PublicKey(value secret.Value) (string, error) {
	key, err := parseKey(value.Reveal())
	if err != nil {
		return "", err
	}
	encoded, err := encodeJWK(key.private.Public(), key.private.Public(), key.id, key.algorithm, selfSigned(value.Reveal(), key.private))
	if err != nil {
		return "", unusable("the public half of the private key cannot be encoded")
	}
	return string(encoded), nil
}

// Create implements [broker.Rotator]: the handle is the chosen key's kid, and nobody
// need be told.
func (r KeyPairRotator) Create(_ context.Context, call broker.RotatorCall) (broker.CreatedSecret, error) {
	key, err := parseKey(call.New.Reveal())
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	return broker.CreatedSecret{Handle: key.id}, nil
}

// Recover implements [broker.Rotator]: no provider ever has anything of a Create.
func (r KeyPairRotator) Recover(context.Context, broker.RotatorCall) (broker.RecoveredCreate, error) {
	return broker.RecoveredCreate{Outcome: broker.CreateNotDone}, nil
}

// Activate implements [broker.Rotator].
func (r KeyPairRotator) Activate(context.Context, broker.RotatorCall) error { return nil }

// Revoke implements [broker.Rotator]: the key leaves the published set with its version.
func (r KeyPairRotator) Revoke(context.Context, broker.RotatorCall) error { return nil }
