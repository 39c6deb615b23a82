package authserver

import (
	"net/http"
	"slices"
	"strings"
)

// serveResource is an API that wants a Bearer token in the Authorization header
// (RFC 6750 §2.1; the two other ways are not taken). It answers as §3.1 says: 401
// without an error code if there is no token, 401 invalid_token if it is not a good
// one, 403 insufficient_scope if it is good for something else.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request) {
	headers := r.Header.Values("Authorization")
	scheme, token, _ := strings.Cut(strings.Join(headers, ","), " ")
	if len(headers) != 1 || !strings.EqualFold(scheme, "Bearer") {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tokenbroker authserver"`)
		writeJSON(w, http.StatusUnauthorized, map[string]any{"message": "a bearer token is needed"})
		return
	}
	claims, ok := s.verify(strings.TrimSpace(token))
	if !ok || !slices.Contains(claims.Audience, s.ResourceURL()) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tokenbroker authserver", error="invalid_token"`)
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_token"})
		return
	}
	if s.resourceScope != "" && !slices.Contains(strings.Fields(claims.Scope), s.resourceScope) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tokenbroker authserver", error="insufficient_scope", scope="`+s.resourceScope+`"`)
		writeJSON(w, http.StatusForbidden, map[string]any{"error": "insufficient_scope"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"client_id": claims.ClientID, "scope": claims.Scope, "expires_at": claims.ExpiresAt})
}
