package oauth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// assertionType is the client_assertion_type of RFC 7523 §2.2.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// CheckSecret says before a secret is stored whether it fits the method, with a
// SECRET_UNUSABLE error that names what is wrong and quotes nothing if it does
// not. A key is tried out: it signs, and its own public half verifies. Whether the
// authorization server takes the secret only the authorization server can say.
func CheckSecret(auth broker.Authentication, s secret.Value) error {
	switch auth.Method {
	case broker.ClientSecretBasic, broker.ClientSecretBasicRaw, broker.ClientSecretPost:
		return checkClientSecret(auth.Method, s)
	case broker.ClientSecretJWT:
		_, err := hmacKey(auth, s)
		return err
	case broker.PrivateKeyJWT, broker.PrivateKeyBearer:
		key, err := parseKey(s.Reveal())
		if err != nil {
			return err
		}
		return key.check(auth)
	case broker.TLSClientAuth, broker.SelfSignedTLSClientAuth:
		_, err := parseCertificate(auth.Method, s, time.Now())
		return err
	case broker.NoAuthentication:
		return checkAssertionKey(s)
	default:
		return unknownMethod()
	}
}

// checkAssertionKey judges the secret of a client that does not authenticate: it has
// none, or the key of the assertions that are its grant.
func checkAssertionKey(s secret.Value) error {
	if len(s.Reveal()) == 0 {
		return nil
	}
	key, err := parseKey(s.Reveal())
	if err != nil {
		return unusable("with authentication method none a secret can only be the private key of jwt_bearer assertions: %s", broker.AsError(err).Detail)
	}
	return key.check(broker.Authentication{})
}

// authenticate adds exactly one way of client authentication (RFC 6749 §2.3) to
// the form or the header, and returns the spellings of the credential. The methods of
// RFC 8705 authenticate by the connection: see [presented]. An assertion is good for
// lifetime.
func authenticate(form url.Values, header http.Header, req broker.TokenRequest, lifetime time.Duration) ([]string, error) {
	if err := setProof(header, req); err != nil {
		return nil, err
	}
	switch method := req.Authentication.Method; method {
	case broker.PrivateKeyJWT:
		return assert(form, req, lifetime)
	case broker.ClientSecretJWT:
		return assertBySecret(form, req, lifetime)
	case broker.PrivateKeyBearer:
		return bear(header, req)
	case broker.TLSClientAuth, broker.SelfSignedTLSClientAuth, broker.NoAuthentication:
		form.Set("client_id", req.ClientID) // RFC 8705 §2, RFC 6749 §3.2.1
		return keySpellings(req.Secret.Reveal()), nil
	case broker.ClientSecretBasic, broker.ClientSecretBasicRaw, broker.ClientSecretPost:
		return showSecret(form, header, req)
	default:
		return nil, unknownMethod()
	}
}

// showSecret sends the secret itself.
func showSecret(form url.Values, header http.Header, req broker.TokenRequest) ([]string, error) {
	method := req.Authentication.Method
	if err := checkClientSecret(method, req.Secret); err != nil {
		return nil, err
	}
	id, value := req.ClientID, req.Secret.RevealString()
	credentials := []string{value}
	switch method {
	case broker.ClientSecretBasic:
		// RFC 6749 §2.3.1: form-encoded first, so that a colon in the id and
		// characters that Basic has no charset for survive.
		credentials = append(credentials, setBasic(header, url.QueryEscape(id), url.QueryEscape(value)))
	case broker.ClientSecretBasicRaw:
		if strings.Contains(id, ":") {
			return nil, unusable("the client_id has a colon, which client_secret_basic_raw cannot carry (RFC 7617 §2); use client_secret_basic or client_secret_post")
		}
		credentials = append(credentials, setBasic(header, id, value))
	default:
		form.Set("client_id", id)
		form.Set("client_secret", value)
	}
	return credentials, nil
}

func setBasic(header http.Header, user, password string) string {
	encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	header.Set("Authorization", "Basic "+encoded)
	return encoded
}

// assert adds a signed assertion (RFC 7523 §2.2). client_id goes with it although
// RFC 7521 §4.2 makes it optional: several servers find the client's keys by it.
func assert(form url.Values, req broker.TokenRequest, lifetime time.Duration) ([]string, error) {
	key, err := parseKey(req.Secret.Reveal())
	if err != nil {
		return nil, err
	}
	signed, err := key.assertion(req, lifetime)
	if err != nil {
		return nil, err
	}
	setAssertion(form, req.ClientID, signed)
	return append(keySpellings(req.Secret.Reveal()), signed), nil
}

func setAssertion(form url.Values, clientID, signed string) {
	form.Set("client_id", clientID)
	form.Set("client_assertion_type", assertionType)
	form.Set("client_assertion", signed)
}

// checkClientSecret refuses what cannot be a client secret. RFC 6749 appendix A.2
// allows printable ASCII only; letters beyond it are let through because they are
// in use and form encoding carries them.
func checkClientSecret(method broker.AuthenticationMethod, s secret.Value) error {
	value := s.Reveal()
	switch {
	case len(value) == 0:
		return unusable("the client secret is empty")
	case len(value) > broker.MaxSecretBytes:
		return unusable("the client secret has %d bytes; at most %d", len(value), broker.MaxSecretBytes)
	case bytes.Contains(value, []byte("-----BEGIN ")):
		return unusable("the client secret is PEM, such as a key or certificate; %s sends it as it is: use private_key_jwt for a private key", method)
	case isJWK(value):
		return unusable("the client secret is a JWK; %s sends it as it is: use private_key_jwt for a private key", method)
	case !utf8.Valid(value):
		return unusable("the client secret is not UTF-8; if it is binary, take the text form that the provider shows")
	case bytes.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufeff' }):
		return unusable("the client secret has a control character such as a line break, which no authorization server issues; remove it")
	}
	return nil
}

func isJWK(value []byte) bool {
	if trimmed := bytes.TrimSpace(value); len(trimmed) == 0 || trimmed[0] != '{' {
		return false
	}
	var members struct {
		Kty  json.RawMessage `json:"kty"`
		Keys json.RawMessage `json:"keys"`
	}
	return json.Unmarshal(value, &members) == nil && (members.Kty != nil || members.Keys != nil)
}

func unknownMethod() error {
	return broker.Invalid("authentication_method", "is not one of %v", broker.AuthenticationMethods())
}
