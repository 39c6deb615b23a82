package server

import (
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// settable copies one field of a mask from the settings sent to the client.
var settable = map[string]func(*broker.Client, settings){
	"labels":              func(c *broker.Client, s settings) { c.Labels = s.labels },
	"token_endpoint":      func(c *broker.Client, s settings) { c.Upstream.TokenEndpoint = s.upstream.TokenEndpoint },
	"revocation_endpoint": func(c *broker.Client, s settings) { c.Upstream.RevocationEndpoint = s.upstream.RevocationEndpoint },
	"issue_budget":        func(c *broker.Client, s settings) { c.Upstream.IssueBudget = s.upstream.IssueBudget },
	"issue_budget.tokens": func(c *broker.Client, s settings) { c.Upstream.IssueBudget.Tokens = s.upstream.IssueBudget.Tokens },
	"issue_budget.period": func(c *broker.Client, s settings) { c.Upstream.IssueBudget.Period = s.upstream.IssueBudget.Period },
	"max_live_tokens":     func(c *broker.Client, s settings) { c.Upstream.MaxLiveTokens = s.upstream.MaxLiveTokens },
	"token_destinations":  func(c *broker.Client, s settings) { c.Upstream.TokenDestinations = s.upstream.TokenDestinations },
	"rotation":            func(c *broker.Client, s settings) { c.Rotation = s.rotation },
	"single_active_token": func(c *broker.Client, s settings) { c.Upstream.SingleActiveToken = s.upstream.SingleActiveToken },
	"client_id":           func(c *broker.Client, s settings) { c.Upstream.ClientID = s.upstream.ClientID },
	"authentication_method": func(c *broker.Client, s settings) {
		c.Upstream.Authentication.Method = s.upstream.Authentication.Method
	},
	"assertion": func(c *broker.Client, s settings) {
		method := c.Upstream.Authentication.Method
		c.Upstream.Authentication = s.upstream.Authentication
		c.Upstream.Authentication.Method = method
	},
	"assertion.signing_algorithm": func(c *broker.Client, s settings) {
		c.Upstream.Authentication.SigningAlgorithm = s.upstream.Authentication.SigningAlgorithm
	},
	"assertion.key_id": func(c *broker.Client, s settings) { c.Upstream.Authentication.KeyID = s.upstream.Authentication.KeyID },
	"assertion.audience": func(c *broker.Client, s settings) {
		c.Upstream.Authentication.AssertionAudience = s.upstream.Authentication.AssertionAudience
	},
	"default_scopes":                  func(c *broker.Client, s settings) { c.Upstream.DefaultScopes = s.upstream.DefaultScopes },
	"allowed_scopes":                  func(c *broker.Client, s settings) { c.Upstream.AllowedScopes = s.upstream.AllowedScopes },
	"audience":                        func(c *broker.Client, s settings) { c.Upstream.Audience = s.upstream.Audience },
	"allowed_audiences":               func(c *broker.Client, s settings) { c.Upstream.AllowedAudiences = s.upstream.AllowedAudiences },
	"resources":                       func(c *broker.Client, s settings) { c.Upstream.Resources = s.upstream.Resources },
	"allowed_resources":               func(c *broker.Client, s settings) { c.Upstream.AllowedResources = s.upstream.AllowedResources },
	"parameters":                      func(c *broker.Client, s settings) { c.Upstream.Parameters = s.upstream.Parameters },
	"token_policy":                    func(c *broker.Client, s settings) { c.TokenPolicy = s.tokenPolicy },
	"token_policy.min_validity":       func(c *broker.Client, s settings) { c.TokenPolicy.MinValidity = s.tokenPolicy.MinValidity },
	"token_policy.assumed_lifetime":   func(c *broker.Client, s settings) { c.TokenPolicy.AssumedLifetime = s.tokenPolicy.AssumedLifetime },
	"token_policy.require_all_scopes": func(c *broker.Client, s settings) { c.TokenPolicy.RequireAllScopes = s.tokenPolicy.RequireAllScopes },
	"token_policy.unshared":           func(c *broker.Client, s settings) { c.TokenPolicy.Unshared = s.tokenPolicy.Unshared },
	"provider":                        func(c *broker.Client, s settings) { c.Upstream.Provider = s.upstream.Provider },
	"provider_variables":              func(c *broker.Client, s settings) { c.Upstream.ProviderVariables = s.upstream.ProviderVariables },
	"grant_type":                      func(c *broker.Client, s settings) { c.Upstream.Grant = s.upstream.Grant },
	"issuer":                          func(c *broker.Client, s settings) { c.Upstream.Issuer = s.upstream.Issuer },
	"authorization_endpoint": func(c *broker.Client, s settings) {
		c.Upstream.AuthorizationEndpoint = s.upstream.AuthorizationEndpoint
	},
	"device_authorization_endpoint": func(c *broker.Client, s settings) {
		c.Upstream.DeviceAuthorizationEndpoint = s.upstream.DeviceAuthorizationEndpoint
	},
	"introspection_endpoint": func(c *broker.Client, s settings) {
		c.Upstream.IntrospectionEndpoint = s.upstream.IntrospectionEndpoint
	},
	"refresh_endpoint":  func(c *broker.Client, s settings) { c.Upstream.RefreshEndpoint = s.upstream.RefreshEndpoint },
	"token_binding":     func(c *broker.Client, s settings) { c.Upstream.TokenBinding = s.upstream.TokenBinding },
	"assertion_subject": func(c *broker.Client, s settings) { c.Upstream.AssertionSubject = s.upstream.AssertionSubject },
	"redirect_uris":     func(c *broker.Client, s settings) { c.Upstream.RedirectURIs = s.upstream.RedirectURIs },
	"api_endpoint":      func(c *broker.Client, s settings) { c.Upstream.APIEndpoint = s.upstream.APIEndpoint },
	"*": func(c *broker.Client, s settings) {
		c.Labels, c.Upstream, c.TokenPolicy, c.Rotation = s.labels, s.upstream, s.tokenPolicy, s.rotation
	},
}

func checkMask(paths []string) error {
	if len(paths) == 0 {
		return broker.Invalid("update_mask", `is required: name the fields to change, or "*" for all`)
	}
	for _, path := range paths {
		if settable[path] == nil {
			known := make([]string, 0, len(settable))
			for name := range settable {
				known = append(known, name)
			}
			slices.Sort(known)
			return broker.Invalid("update_mask", "has %.64q; it may name %s", path, strings.Join(known, ", "))
		}
	}
	return nil
}
