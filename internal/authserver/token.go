package authserver

import (
	"encoding/json"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// oauthError is an error answer of RFC 6749 §5.2.
type oauthError struct {
	status            int
	code, description string
}

func invalidRequest(description string) *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_request", description: description}
}

// invalidClient says the same of an unknown client, a wrong secret and a bad
// assertion: which it was is not for the one who is not yet authenticated.
func invalidClient() *oauthError {
	return &oauthError{status: http.StatusUnauthorized, code: "invalid_client", description: "client authentication failed"}
}

// repeatable are the parameters that may stand in a request more than once
// (RFC 8707 §2; audience by custom). RFC 6749 §3.2 forbids it of all others.
var repeatable = []string{"resource", "audience"}

// serveToken is the token endpoint.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	w.Header().Set("Cache-Control", "no-store") // RFC 6749 §5.1, for errors too: they are about credentials
	w.Header().Set("Pragma", "no-cache")
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		s.refuse(w, r, "", &oauthError{status: http.StatusMethodNotAllowed, code: "invalid_request", description: "the token endpoint takes POST only"})
		return
	}
	form, problem := readForm(w, r)
	if problem != nil {
		s.refuse(w, r, "", problem)
		return
	}
	client, problem := s.authenticate(r, form)
	if problem != nil {
		s.refuse(w, r, "", problem)
		return
	}
	scopes, problem := grant(client, form)
	if problem != nil {
		s.refuse(w, r, client.ID, problem)
		return
	}
	lifetime := time.Duration(s.lifetime.Load())
	token, err := s.issue(client.ID, slices.Concat(form["audience"], form["resource"]), scopes, lifetime)
	if err != nil {
		s.refuse(w, r, client.ID, &oauthError{status: http.StatusInternalServerError, code: "server_error"})
		return
	}
	s.log.InfoContext(r.Context(), "token issued", slog.String("client_id", client.ID))
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "token_type": "Bearer",
		"expires_in": int64(lifetime.Seconds()), "scope": strings.Join(scopes, " "),
	})
}

// readForm reads the body and drops empty parameters, which count as omitted (RFC
// 6749 §3.2). The URL must have no query: a secret there would be in access logs.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, *oauthError) {
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return nil, invalidRequest("the URL must have no query; parameters belong in the body")
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, invalidRequest("the content type must be application/x-www-form-urlencoded")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, invalidRequest("the body cannot be read or is too large")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalidRequest("the body is not form-encoded")
	}
	for name, values := range form {
		if len(values) > 1 && !slices.Contains(repeatable, name) {
			return nil, invalidRequest("a parameter is repeated")
		}
		if form[name] = slices.DeleteFunc(values, func(v string) bool { return v == "" }); len(form[name]) == 0 {
			delete(form, name)
		}
	}
	return form, nil
}

// grant decides on grant type and scope of an authenticated client.
func grant(client Client, form url.Values) ([]string, *oauthError) {
	switch form.Get("grant_type") {
	case "client_credentials":
	case "":
		return nil, invalidRequest("grant_type is missing")
	default:
		return nil, &oauthError{status: http.StatusBadRequest, code: "unsupported_grant_type", description: "only client_credentials is supported"}
	}
	if !form.Has("scope") {
		return client.Scopes, nil
	}
	asked := strings.Split(form.Get("scope"), " ")
	for _, scope := range asked {
		if !slices.Contains(client.Scopes, scope) {
			return nil, &oauthError{status: http.StatusBadRequest, code: "invalid_scope", description: "a scope is unknown or not allowed to the client"}
		}
	}
	slices.Sort(asked)
	return slices.Compact(asked), nil
}

// refuse writes an error. clientID is "" before authentication: whatever a request
// claims may be a secret in the wrong field and is not logged.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, clientID string, e *oauthError) {
	if e.status == http.StatusUnauthorized {
		// RFC 6749 §5.2 demands it in answer to Basic, RFC 9110 §15.5.2 of every 401.
		w.Header().Set("WWW-Authenticate", `Basic realm="tokenbroker authserver", charset="UTF-8"`)
	}
	s.log.InfoContext(r.Context(), "token refused", slog.String("client_id", clientID), slog.String("error", e.code))
	body := map[string]any{"error": e.code}
	if e.description != "" {
		body["error_description"] = e.description
	}
	writeJSON(w, e.status, body)
}

func writeJSON(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone if it fails
}
