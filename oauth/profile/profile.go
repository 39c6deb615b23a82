// Package profile reads provider profiles: declarations, in YAML, of how one kind of
// authorization server departs from the standards. It says what a declaration means and
// whether it is sound; package oauth obeys it.
//
// It guards that a profile cannot send a credential where the operator did not want it:
// what a client may fill in is one part of a URL at a time, escaped, and never its
// scheme.
package profile

import "time"

// Profile is one declaration. Keys are those of its YAML file; what is not said is as in
// the standards; [Parse] fills in the defaults. It is immutable once it was parsed, and
// safe for concurrent use.
type Profile struct {
	// Name is an id as a client's is, and that of its file without ".yaml"; Title is what
	// people call it.
	Name  string `yaml:"name"`
	Title string `yaml:"title"`
	// Sources are the documents that it was made from; at least one of a built-in one.
	Sources []string `yaml:"sources"`
	// Unverified are statements of it that could not be verified.
	Unverified []string `yaml:"unverified"`
	// StatusPage is where the provider says that it is down.
	StatusPage string `yaml:"status_page"`
	// Variables are what a client must or may say, by names of [a-z][a-z0-9_]*.
	Variables map[string]Variable `yaml:"variables"`
	// Issuer, with variables as "{tenant}", fills a client's issuer.
	Issuer string `yaml:"issuer"`
	// Discovery says that what Endpoints does not have stands in the issuer's metadata: a
	// client must then have an issuer.
	Discovery      bool           `yaml:"discovery"`
	Endpoints      Endpoints      `yaml:"endpoints"`
	Grants         []string       `yaml:"grants"`
	Authentication Authentication `yaml:"authentication"`
	Request        Request        `yaml:"request"`
	Consent        Consent        `yaml:"consent"`
	Response       Response       `yaml:"response"`
	Errors         Errors         `yaml:"errors"`
	Expiry         Expiry         `yaml:"expiry"`
	Refresh        Refresh        `yaml:"refresh"`
	Limits         Limits         `yaml:"limits"`
	Secrets        Secrets        `yaml:"secrets"`
	// Hints are what else to look at, by reason.
	Hints map[string]string `yaml:"hints"`

	definition string
	compiled   compiled
}

// Variable is something that a client of the provider must or may say.
type Variable struct {
	Description string `yaml:"description"`
	Example     string `yaml:"example"`
	// Default is taken when it is not said; without one it must be.
	Default string `yaml:"default"`
	// Pattern is a regular expression that the whole value must match; by default
	// [A-Za-z0-9._-]+, so that a value is one label or segment and changes no host that it
	// does not stand in.
	Pattern string `yaml:"pattern"`
}

// Endpoints are URLs with variables as "{tenant}". A client's own win.
type Endpoints struct {
	Token               string `yaml:"token"`
	Refresh             string `yaml:"refresh"`
	Revocation          string `yaml:"revocation"`
	Authorization       string `yaml:"authorization"`
	DeviceAuthorization string `yaml:"device_authorization"`
	Introspection       string `yaml:"introspection"`
	// API is one that takes a token and changes nothing, for the check of a lookup.
	API string `yaml:"api"`
}

// Authentication is how clients prove who they are.
type Authentication struct {
	// Methods has the one first that a client gets that names none.
	Methods []string `yaml:"methods"`
	// SigningAlgorithm and AssertionAudience fill those of a client; the latter may have
	// variables, and "{token_endpoint}" and "{issuer}".
	SigningAlgorithm  string `yaml:"signing_algorithm"`
	AssertionAudience string `yaml:"assertion_audience"`
	// AssertionLifetime is at most an hour; 1 min by default.
	AssertionLifetime time.Duration `yaml:"assertion_lifetime"`
	// AssertionClaims are further claims of the assertion that is the grant of jwt_bearer,
	// with variables and "{client_id}", "{subject}" and "{scope}". One that comes out empty
	// is left out. sub gives way to the subject that a token is asked for.
	AssertionClaims map[string]string `yaml:"assertion_claims"`
}

// Request is how a token request looks.
type Request struct {
	// Format is form (default), json or query; the last one with Method GET only.
	Format string `yaml:"format"`
	// Method is POST (default) or GET.
	Method string `yaml:"method"`
	// Names are the provider's names of parameters, by their standard name: client_id,
	// client_secret, grant_type, scope, audience, resource, refresh_token, access_token,
	// code, assertion, username, password … "" leaves one out.
	Names map[string]string `yaml:"names"`
	// Values are what else is sent, or sent instead, such as another grant_type; with
	// variables.
	Values map[string]string `yaml:"values"`
	// Headers are sent with each request; none that carries a credential.
	Headers map[string]string `yaml:"headers"`
	// ScopeSeparator is between scopes; a space by default.
	ScopeSeparator string `yaml:"scope_separator"`
	// ResourceAs is what resources are sent as, for servers that know one "audience" only.
	ResourceAs string `yaml:"resource_as"`
}

// Consent is how a user's consent is asked for (RFC 6749 §4.1.1).
type Consent struct {
	// Values are what else is sent, such as access_type=offline.
	Values map[string]string `yaml:"values"`
	// ScopeName is what scopes are sent as; "scope" by default. ScopeSeparator is between
	// them; that of Request by default.
	ScopeName      string `yaml:"scope_name"`
	ScopeSeparator string `yaml:"scope_separator"`
	// PKCE is required or supported (default), for which a challenge is sent, or refused.
	PKCE string `yaml:"pkce"`
	// IssuerInAnswer says that answers name the issuer (RFC 9207): one that does not is
	// then refused.
	IssuerInAnswer bool `yaml:"issuer_in_answer"`
}

// Response is how a good answer looks. Paths are names and [indexes] joined by dots, as
// in "authed_user.access_token"; the standard name by default.
type Response struct {
	// Success must hold of an answer that is to be believed: the member at Path equals
	// Equals, as Slack's ok.
	Success Predicate `yaml:"success"`
	// AccessToken and so on are paths; several are tried in order.
	AccessToken  []string `yaml:"access_token"`
	TokenType    []string `yaml:"token_type"`
	RefreshToken []string `yaml:"refresh_token"`
	IDToken      []string `yaml:"id_token"`
	Scope        []string `yaml:"scope"`
	// ScopeSeparator is between granted scopes; spaces by default.
	ScopeSeparator string `yaml:"scope_separator"`
	// ExpiresIn and RefreshExpiresIn tell when tokens end.
	ExpiresIn        Duration `yaml:"expires_in"`
	RefreshExpiresIn Duration `yaml:"refresh_expires_in"`
	// TokenTypes are further types that mean Bearer, such as "token".
	TokenTypes []string `yaml:"token_types"`
}

// Predicate holds where the member at Path, as text, equals Equals. The zero Predicate
// always holds.
type Predicate struct {
	Path   string `yaml:"path"`
	Equals string `yaml:"equals"`
}

// Duration says where and how an answer tells an end.
type Duration struct {
	// Paths are tried in order.
	Paths []string `yaml:"paths"`
	// Unit is seconds (default), milliseconds, minutes, unix, unix_milliseconds, rfc3339 or
	// clock ("D+:HH:MM"): the last but one and those of unix are points in time.
	Unit string `yaml:"unit"`
	// Zero is what 0 means: absent (default), never or expired.
	Zero string `yaml:"zero"`
}

// Errors is how a bad answer looks.
type Errors struct {
	// Code and Description are paths; several are tried in order.
	Code        []string `yaml:"code"`
	Description []string `yaml:"description"`
	// Aliases are reasons by the provider's codes, in lower case.
	Aliases map[string]string `yaml:"aliases"`
	// Descriptions judge by what a description says, before the code does.
	Descriptions []Description `yaml:"descriptions"`
	// Retryable are codes that may be gone the next moment.
	Retryable []string `yaml:"retryable"`
}

// Description judges a description.
type Description struct {
	// Match is a regular expression; its group "seconds" or "minutes", if it has one, is
	// how long to wait.
	Match  string `yaml:"match"`
	Reason string `yaml:"reason"`
}

// Expiry is how long tokens live where the answer is not to be asked.
type Expiry struct {
	// Policy is answer (default: answer, then token, then Lifetime), declared (Lifetime
	// only) or rolling (Lifetime, which each use of the API begins anew). Of tokens that
	// do not end by themselves Lifetime is years.
	Policy   string        `yaml:"policy"`
	Lifetime time.Duration `yaml:"lifetime"`
}

// Refresh is how tokens are renewed.
type Refresh struct {
	// With is refresh_token (default), access_token, or login: never, but by asking anew.
	With string `yaml:"with"`
	// Rotation is always, never, or unknown (default).
	Rotation string `yaml:"rotation"`
	// Grace is how long a replaced refresh token is taken once more.
	Grace time.Duration `yaml:"grace"`
	// Lifetime and IdleLifetime are those of refresh tokens; 0 if unknown.
	Lifetime     time.Duration `yaml:"lifetime"`
	IdleLifetime time.Duration `yaml:"idle_lifetime"`
	// Names and Values are those of Request where they differ.
	Names  map[string]string `yaml:"names"`
	Values map[string]string `yaml:"values"`
	// Unauthenticated says that no client authentication goes with it.
	Unauthenticated bool `yaml:"unauthenticated"`
}

// Limits fill those of a client.
type Limits struct {
	Tokens            int           `yaml:"tokens"`
	Period            time.Duration `yaml:"period"`
	MaxLiveTokens     int           `yaml:"max_live_tokens"`
	SingleActiveToken bool          `yaml:"single_active_token"`
	// LocksOut says that the provider locks clients out after a few wrong tries: checks
	// then make none.
	LocksOut bool `yaml:"locks_out"`
}

// Secrets fill a client's rotation settings.
type Secrets struct {
	Rotator             string        `yaml:"rotator"`
	Overlapping         bool          `yaml:"overlapping"`
	TokensEndWithSecret bool          `yaml:"tokens_end_with_secret"`
	Propagation         time.Duration `yaml:"propagation"`
	// Lifetime is how long a secret lives, for people to know.
	Lifetime time.Duration `yaml:"lifetime"`
}
