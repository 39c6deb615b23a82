package oidcprovider

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// defaultLifetime is that of access tokens where Config says nothing.
const defaultLifetime = 10 * time.Minute

// wireConfig is Config as server.mjs reads it.
type wireConfig struct {
	Clients         []map[string]any `json:"clients"`
	Resources       []wireResource   `json:"resources"`
	DefaultResource string           `json:"defaultResource"`
	Scopes          []string         `json:"scopes"`
	Lifetime        int              `json:"lifetime"` // seconds
	CertFile        string           `json:"certFile"`
	KeyFile         string           `json:"keyFile"`
	ClockTolerance  int              `json:"clockTolerance"` // seconds
	ClientCAFile    string           `json:"clientCAFile"`
	DPoPNonce       bool             `json:"dpopNonce"`
	// Users is nil where no client asks users.
	Users *wireUsers `json:"users,omitempty"`
	// Registration is nil where there is none.
	Registration *wireRegistration `json:"registration,omitempty"`
}

// wireUsers is what Config says of users' grants, as server.mjs reads it.
type wireUsers struct {
	RotateRefreshTokens bool `json:"rotateRefreshTokens"`
	DeviceLifetime      int  `json:"deviceLifetime"` // seconds
}

// wireRegistration is Registration as server.mjs reads it.
type wireRegistration struct {
	NewSecretAtUpdate bool `json:"newSecretAtUpdate"`
	NewTokenAtUpdate  bool `json:"newTokenAtUpdate"`
}

// wireResource is Resource as server.mjs reads it.
type wireResource struct {
	URI      string   `json:"uri"`
	Scopes   []string `json:"scopes"`
	Lifetime int      `json:"lifetime"` // seconds
	Opaque   bool     `json:"opaque"`
}

// wire translates. The server's scopes are all that occur: a scope that it does not know is invalid in a client's metadata.
func (c Config) wire() wireConfig {
	w := wireConfig{
		Clients:         []map[string]any{},
		Resources:       []wireResource{},
		Scopes:          []string{},
		DefaultResource: c.DefaultResource,
		Lifetime:        int(c.Lifetime / time.Second),
		ClockTolerance:  int(c.ClockTolerance / time.Second),
		DPoPNonce:       c.DPoPNonce,
	}
	if c.Lifetime == 0 {
		w.Lifetime = int(defaultLifetime / time.Second)
	}
	for _, client := range c.Clients {
		w.Clients = append(w.Clients, client.metadata())
		w.Scopes = append(w.Scopes, client.Scopes...)
		if client.asksUsers() {
			w.Users = &wireUsers{RotateRefreshTokens: c.RotateRefreshTokens, DeviceLifetime: int(cmp.Or(c.DeviceLifetime, 10*time.Minute) / time.Second)}
			w.Scopes = append(w.Scopes, "openid", "offline_access")
		}
	}
	for _, resource := range c.Resources {
		w.Resources = append(w.Resources, wireResource{
			URI:      resource.URI,
			Scopes:   append([]string{}, resource.Scopes...),
			Lifetime: int(resource.Lifetime / time.Second),
			Opaque:   resource.Opaque,
		})
		w.Scopes = append(w.Scopes, resource.Scopes...)
	}
	if c.Registration != nil {
		w.Registration = &wireRegistration{NewSecretAtUpdate: c.Registration.NewSecretAtUpdate, NewTokenAtUpdate: c.Registration.NewTokenAtUpdate}
	}
	slices.Sort(w.Scopes)
	w.Scopes = slices.Compact(w.Scopes)
	return w
}

// asksUsers reports whether the client's tokens need a user's consent.
func (c Client) asksUsers() bool {
	return slices.Contains(c.Grants, AuthorizationCode) || slices.Contains(c.Grants, DeviceCode)
}

// metadata is the client in the words of RFC 7591.
func (c Client) metadata() map[string]any {
	method := c.AuthMethod
	if method == "" {
		method = Basic
	}
	metadata := map[string]any{
		"client_id":                  c.ID,
		"token_endpoint_auth_method": method,
		"grant_types":                []string{ClientCredentials},
		"response_types":             []string{},
		"redirect_uris":              append([]string{}, c.RedirectURIs...),
	}
	if len(c.Grants) > 0 {
		metadata["grant_types"] = c.Grants
	}
	if slices.Contains(c.Grants, AuthorizationCode) {
		metadata["response_types"] = []string{"code"}
	}
	if c.CertificateSubject != "" {
		metadata["tls_client_auth_subject_dn"] = c.CertificateSubject
	}
	if c.SigningAlgorithm != "" {
		metadata["token_endpoint_auth_signing_alg"] = c.SigningAlgorithm
	}
	if c.BoundToCertificate {
		metadata["tls_client_certificate_bound_access_tokens"] = true
	}
	if c.BoundByDPoP {
		metadata["dpop_bound_access_tokens"] = true
	}
	if c.Secret != "" {
		metadata["client_secret"] = c.Secret
	}
	if len(c.Scopes) > 0 {
		metadata["scope"] = strings.Join(c.Scopes, " ")
	}
	if c.JWKS != nil {
		metadata["jwks"] = c.JWKS
	}
	if c.JWKSURI != "" {
		metadata["jwks_uri"] = c.JWKSURI
	}
	return metadata
}
