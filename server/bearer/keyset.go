package bearer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

const (
	// maxKeys bounds a set; issuers publish two to five.
	maxKeys    = 64
	minRSABits = 2048 // RFC 7518 §3.3
)

// algorithmNames lists what an issuer may allow.
func algorithmNames() []string {
	return slices.Concat(rsaAlgorithms, []string{"ES256", "ES384", "ES512", "EdDSA"})
}

var rsaAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}

// key is one public key of an issuer.
type key struct {
	id         string // kid; "" if it has none
	public     crypto.PublicKey
	algorithms []string // that it verifies: those of its type, or the one that its alg names
	thumbprint string   // RFC 7638, SHA-256, base64url
}

func (k *key) line() string {
	return fmt.Sprintf("%q %s %s", k.id, k.thumbprint, strings.Join(k.algorithms, ","))
}

// keySet is what an issuer's JWK Set has for us. It is not changed once made.
type keySet struct {
	keys    []*key
	dropped []string // why keys were left out, in our words
	digest  [sha256.Size]byte
}

// parseKeySet reads a JWK Set (RFC 7517 §5). Keys that are of no use to us are dropped;
// the set is refused only if it is no set.
func parseKeySet(text []byte) (*keySet, error) {
	document, err := parseObject(text)
	if err != nil {
		return nil, fmt.Errorf("the JWK Set %w", err)
	}
	list, ok := document["keys"].([]any)
	switch {
	case !ok:
		return nil, errors.New(`the JWK Set has no list "keys"`)
	case len(list) > maxKeys:
		return nil, fmt.Errorf("the JWK Set has %d keys; at most %d", len(list), maxKeys)
	}
	set := &keySet{}
	for n, item := range list {
		members, _ := item.(map[string]any)
		k, problem := parseKey(members)
		switch {
		case problem != "":
			set.dropped = append(set.dropped, fmt.Sprintf("keys[%d] %s", n, problem))
		case slices.ContainsFunc(set.keys, func(other *key) bool { return other.line() == k.line() }): // listed twice
		default:
			set.keys = append(set.keys, k)
		}
	}
	lines := make([]string, 0, len(set.keys))
	for _, k := range set.keys {
		lines = append(lines, k.line())
	}
	slices.Sort(lines)
	set.digest = sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return set, nil
}

// find returns the one key that has the kid and verifies the algorithm. Of two that
// do none is meant: trying each would let one vouch in the name of the other.
func (s *keySet) find(id string, hasID bool, algorithm string) *key {
	var found *key
	for _, k := range s.keys {
		if hasID && k.id != id || !slices.Contains(k.algorithms, algorithm) {
			continue
		}
		if found != nil {
			return nil
		}
		found = k
	}
	return found
}

// parseKey reads a JWK, or says why it is of no use.
func parseKey(members object) (*key, string) {
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if _, found := members[private]; found {
			return nil, "holds a private or symmetric key, which is no secret any more"
		}
	}
	if use, found := members["use"]; found && use != "sig" {
		return nil, "is not for signatures (use)"
	}
	if operations, found := members["key_ops"]; found {
		if list, _ := operations.([]any); !slices.Contains(list, any("verify")) {
			return nil, "is not for verifying (key_ops)"
		}
	}
	id, found := members["kid"]
	text, ok := id.(string)
	if found && !ok {
		return nil, "has a kid that is not text"
	}
	public, problem := parsePublic(members)
	if problem != "" {
		return nil, problem
	}
	algorithms := algorithmsOf(public)
	if named, found := members["alg"]; found {
		name, _ := named.(string)
		if !slices.Contains(algorithms, name) {
			return nil, "has an alg that does not fit its type"
		}
		algorithms = []string{name}
	}
	thumbprint, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, "has no thumbprint"
	}
	return &key{id: text, public: public, algorithms: algorithms, thumbprint: base64.RawURLEncoding.EncodeToString(thumbprint)}, ""
}

// parsePublic reads the key itself. Certificates beside it are left out: it is the
// set that we trust, not an authority.
func parsePublic(members object) (crypto.PublicKey, string) {
	bare := make(map[string]any)
	for _, name := range []string{"kty", "crv", "n", "e", "x", "y"} {
		if value, found := members[name]; found {
			bare[name] = value
		}
	}
	text, err := json.Marshal(bare)
	if err != nil {
		return nil, "cannot be read"
	}
	var parsed jose.JSONWebKey
	if parsed.UnmarshalJSON(text) != nil {
		return nil, "is damaged, too long, or of a type other than RSA, EC and Ed25519"
	}
	public, ok := parsed.Key.(*rsa.PublicKey)
	switch {
	case ok && public.N.BitLen() < minRSABits:
		return nil, "is RSA with less than 2048 bits"
	case ok && (public.E < 3 || public.E%2 == 0):
		return nil, "is RSA with an exponent that is none"
	case !parsed.Valid() || !parsed.IsPublic() || len(algorithmsOf(parsed.Key)) == 0:
		return nil, "is of a type other than RSA, EC and Ed25519"
	}
	return parsed.Key, ""
}

// algorithmsOf returns what a key of this type can verify; nil if nothing.
func algorithmsOf(public crypto.PublicKey) []string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return rsaAlgorithms
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []string{"ES256"}
		case elliptic.P384():
			return []string{"ES384"}
		case elliptic.P521():
			return []string{"ES512"}
		}
	}
	return nil
}
