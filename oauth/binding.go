package oauth

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// thumbprints returns what an access token that happens to be a JWT says that it is
// bound to: the certificate of RFC 8705 §3.1 and the key of RFC 9449 §6.1, each "" if it
// says nothing. Nothing is verified: whoever lied there would make its own token useless.
func thumbprints(token secret.Value) (certificate, key string) {
	parts := strings.Split(token.RevealString(), ".")
	if len(parts) != 3 {
		return "", ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", ""
	}
	var claims struct {
		Confirmation struct {
			Certificate string `json:"x5t#S256"`
			Key         string `json:"jkt"`
		} `json:"cnf"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return "", ""
	}
	return digest(claims.Confirmation.Certificate), digest(claims.Confirmation.Key)
}

// digest returns the text if it is a SHA-256 in base64url, which is what both are and
// all that may be shown of them.
func digest(text string) string {
	if sum, err := base64.RawURLEncoding.Strict().DecodeString(text); err != nil || len(sum) != 32 {
		return ""
	}
	return text
}
