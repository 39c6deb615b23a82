package oauth

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// dialect is how one request is spelled and its answer read. The zero dialect is that
// of client_credentials at a server that follows the standards.
type dialect struct {
	// profile says how the server departs from the standards; nil if it does not.
	profile *profile.Profile
	// variables are the client's, for profile.
	variables map[string]string
	// grant is the grant of the request; "" is client_credentials.
	grant broker.GrantType
	// pollInterval is how long a device's consent was waited for before this poll.
	pollInterval time.Duration
}

// dialectOf returns the dialect of a request. PROVIDER_UNKNOWN.
func (c *Client) dialectOf(req broker.TokenRequest) (dialect, error) {
	d := dialect{
		variables: req.ProviderVariables, grant: req.Grant.Type, pollInterval: req.Grant.PollInterval,
	}
	if req.Provider == "" {
		return d, nil
	}
	if d.profile = c.profiles.Profile(req.Provider); d.profile == nil {
		return d, &broker.Error{Reason: broker.ReasonProviderUnknown, Op: op, Detail: fmt.Sprintf("there is no profile %q", req.Provider)}
	}
	return d, nil
}

// standards is the profile of what does not depart from them. It never changes.
var standards = new(profile.Profile)

// declared returns the profile, or one that declares nothing.
func (d dialect) declared() *profile.Profile {
	if d.profile == nil {
		return standards
	}
	return d.profile
}

// name returns what the server calls a parameter; "" if it is not sent.
func (d dialect) name(standard string) string {
	switch {
	case d.profile == nil:
		return standard
	case d.grant == broker.RefreshToken:
		return d.profile.RefreshShape().Name(standard)
	}
	return d.profile.RequestShape().Name(standard)
}

// values returns what else is sent, or sent instead, by standard names or others.
func (d dialect) values() map[string]string {
	switch {
	case d.profile == nil:
		return nil
	case d.grant == broker.RefreshToken:
		return d.profile.RefreshShape().Values(d.variables)
	}
	return d.profile.RequestShape().Values(d.variables)
}

// unauthenticated reports whether no client authentication goes with the request: where
// the profile says so of refreshes, and where an assertion is the grant and the secret
// its key (RFC 7521 §4.1 makes client authentication optional there, and the client_id
// stands in the assertion).
func (d dialect) unauthenticated(auth broker.Authentication) bool {
	switch d.grant {
	case broker.RefreshToken:
		return d.declared().Refresh.Unauthenticated
	case broker.JWTBearer:
		return auth.Method == broker.NoAuthentication
	}
	return false
}

// splitScopes splits what was granted. Spaces separate in any case, since no scope has one
// (RFC 6749 §3.3).
func (d dialect) splitScopes(list string) []string {
	if separator := d.declared().Response.ScopeSeparator; separator != "" {
		list = strings.ReplaceAll(list, separator, " ")
	}
	return strings.Fields(list)
}

func (d dialect) scopeSeparator() string { return cmp.Or(d.declared().Request.ScopeSeparator, " ") }

// assertionLifetime is how long an assertion of the client is good for.
func (d dialect) assertionLifetime() time.Duration {
	return cmp.Or(d.declared().Authentication.AssertionLifetime, assertionLifetime)
}
