package authserver

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// assertionType is the client_assertion_type of RFC 7523 §2.2.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// authenticate finds out which client asks. A request must use exactly one method
// (RFC 6749 §2.3): one that uses two is refused even if both are right.
func (s *Server) authenticate(r *http.Request, form url.Values) (Client, *oauthError) {
	headers := r.Header.Values("Authorization")
	post, asserted := form.Has("client_secret"), form.Has("client_assertion") || form.Has("client_assertion_type")
	methods := len(headers)
	for _, used := range []bool{post, asserted} {
		if used {
			methods++
		}
	}
	switch {
	case methods > 1:
		return Client{}, invalidRequest("more than one method of client authentication is used")
	case methods == 0:
		return Client{}, invalidClient()
	case asserted:
		return s.byAssertion(form)
	case post:
		return s.bySecret(MethodPost, form.Get("client_id"), form.Get("client_secret"))
	}
	id, value, problem := basicCredentials(headers[0])
	if problem != nil {
		return Client{}, problem
	}
	if form.Has("client_id") && form.Get("client_id") != id {
		return Client{}, invalidRequest("client_id differs from the one that authenticates")
	}
	return s.bySecret(MethodBasic, id, value)
}

func (s *Server) bySecret(method, id, value string) (Client, *oauthError) {
	client, known := s.find(id)
	// An unknown client has no secrets, so that accepts says no in its stead.
	if accepted := client.accepts(secret.NewString(value)); !known || !accepted || !client.may(method) {
		return Client{}, invalidClient()
	}
	return client, nil
}

// basicCredentials decodes RFC 6749 §2.3.1 as it is written: id and secret are
// form-encoded each. What no form encoder writes is refused as malformed, as
// oidc-provider does, rather than let pass and decoded to something else.
func basicCredentials(header string) (id, value string, problem *oauthError) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", invalidClient()
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(strings.TrimLeft(encoded, " "))
	if err != nil {
		return "", "", invalidRequest("the Basic credentials are not base64")
	}
	user, password, found := strings.Cut(string(decoded), ":")
	if !found {
		return "", "", invalidRequest("the Basic credentials have no colon")
	}
	for _, part := range []struct {
		encoded string
		to      *string
	}{{user, &id}, {password, &value}} {
		if strings.ContainsFunc(part.encoded, func(r rune) bool { return !isFormEncoded(r) }) {
			return "", "", invalidRequest("the Basic credentials are not form-encoded")
		}
		if *part.to, err = url.QueryUnescape(part.encoded); err != nil {
			return "", "", invalidRequest("the Basic credentials are not form-encoded")
		}
	}
	return id, value, nil
}

// isFormEncoded reports whether a form encoder lets r stand; '~' and '*' are what
// encoders differ on (RFC 3986 leaves the first as it is, WHATWG the second).
func isFormEncoded(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._~*+%", r)
}
