package oidcprovider

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/tokenbroker/tokenbroker/test/registration"
)

// Registration says what the server does of what RFC 7592 leaves open.
type Registration struct {
	// NewSecretAtUpdate has an update of a registration bring a new secret: by a registration policy, the provider's only way.
	NewSecretAtUpdate bool
	// NewTokenAtUpdate has it bring a new registration access token (rotateRegistrationAccessToken, on by default there).
	NewTokenAtUpdate bool
}

// Register registers a client for client credentials with client_secret_basic, as anybody can who has an initial access token.
func (s *Server) Register(name string, scopes ...string) registration.Client {
	s.t.Helper()
	answer, err := s.ask(http.MethodPost, "/initial-access-tokens", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	var initial struct{ Token string }
	if err := json.Unmarshal(answer, &initial); err != nil {
		s.t.Fatalf("getting an initial access token: %v", err)
	}
	body, err := json.Marshal(map[string]any{
		"client_name": name, "grant_types": []string{"client_credentials"}, "response_types": []string{}, "redirect_uris": []string{},
		"token_endpoint_auth_method": Basic, "scope": strings.Join(scopes, " "),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, s.issuer+"/reg", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+initial.Token)
	request.Header.Set("Content-Type", "application/json")
	return registration.Register(s.t, s.client, request, s.TokenEndpoint())
}
