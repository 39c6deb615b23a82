package bearer

import (
	"encoding/base64"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// maxToken bounds a token in bytes. Those of Kubernetes have about 1 KiB; Active
// Directory puts lists of groups into some.
const maxToken = 16 << 10

// unverified is what a token says of itself. None of it is to be believed before
// verify found nothing wrong.
type unverified struct {
	compact              string
	algorithm, kind, key string // alg; typ in normal form; kid
	hasKey               bool
	issuer               string
	claims               object
}

// parse reads a compact JWS. Its error has a cause.
func parse(compact string) (*unverified, *Error) {
	segments := strings.Split(compact, ".") // bounded by maxToken
	if len(segments) != 3 || segments[2] == "" {
		return nil, &Error{Cause: Malformed}
	}
	header, ok := decodeObject(segments[0])
	if !ok {
		return nil, &Error{Cause: Malformed}
	}
	for _, name := range []string{"crit", "b64", "enc"} {
		if _, found := header[name]; found {
			return nil, &Error{Cause: HeaderNotAllowed}
		}
	}
	t := &unverified{compact: compact}
	if t.algorithm, ok = header["alg"].(string); !ok {
		return nil, &Error{Cause: Malformed}
	}
	if kind, found := header["typ"]; found {
		text, ok := kind.(string)
		if !ok || text == "" { // "" must not pass for a header without typ
			return nil, &Error{Cause: Malformed}
		}
		t.kind = normalType(text)
	}
	if key, found := header["kid"]; found {
		if t.key, ok = key.(string); !ok {
			return nil, &Error{Cause: Malformed}
		}
		t.hasKey = true
	}
	if t.claims, ok = decodeObject(segments[1]); !ok {
		return nil, &Error{Cause: Malformed}
	}
	if _, ok := decodeSegment(segments[2]); !ok {
		return nil, &Error{Cause: Malformed}
	}
	if t.issuer, ok = t.claims["iss"].(string); !ok {
		return nil, &Error{Cause: MissingClaim, Claim: "iss"}
	}
	return t, nil
}

// verify returns "" if the signature is the key's, or else the cause.
func (t *unverified) verify(k *key) Cause {
	algorithm := jose.SignatureAlgorithm(t.algorithm)
	signed, err := jose.ParseSignedCompact(t.compact, []jose.SignatureAlgorithm{algorithm})
	if err != nil {
		return Malformed // go-jose reads more of the header than we do
	}
	// The bare key: of a JWK go-jose would compare the kid, which find did.
	if _, err := signed.Verify(k.public); err != nil {
		return BadSignature
	}
	return ""
}

func decodeObject(segment string) (object, bool) {
	text, ok := decodeSegment(segment)
	if !ok {
		return nil, false
	}
	members, err := parseObject(text)
	return members, err == nil
}

// strictBase64 refuses bits that no byte uses: a token has one spelling.
var strictBase64 = base64.RawURLEncoding.Strict()

func decodeSegment(segment string) ([]byte, bool) {
	if strings.ContainsAny(segment, "\r\n") { // which the decoder would skip
		return nil, false
	}
	raw, err := strictBase64.DecodeString(segment)
	return raw, err == nil
}

// normalType brings a typ into the form in which it is compared (RFC 7515 §4.1.9).
func normalType(kind string) string {
	return strings.TrimPrefix(strings.ToLower(kind), "application/")
}
