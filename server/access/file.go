package access

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds on a file. They keep reading it, and the comparison of its rows with each
// other, within a moment.
const (
	maxFileBytes    = 1 << 20
	maxCallers      = 5000
	maxRules        = 1000
	maxPatterns     = 10_000
	maxNameLength   = 128
	maxIdentity     = 1024
	maxScopes       = 100
	maxScopeLength  = 256
	maxTargets      = 20
	maxTargetLength = 2048
	maxRate         = 1_000_000
)

// endMarker is the last line of an access table: YAML's own end of a document.
const endMarker = "..."

// File is the form of an access table.
type File struct {
	// Callers gives identities a name. A peer whose identity is not listed is nobody.
	Callers []FileCaller `yaml:"callers"`
	// Rules are the rows of the table. Their order has no meaning.
	Rules []Rule `yaml:"rules"`
}

// FileCaller is one caller: a service or a person, by whichever credential.
type FileCaller struct {
	// Name stands in rows, logs and the audit trail.
	Name string `yaml:"name"`
	// Identities are the forms of [NormalIdentity]; each belongs to one caller.
	Identities []string `yaml:"identities"`
	// Requires are identities of which the peer must show one besides: those of the
	// connection that a token must come over, for one. Absent means none.
	Requires []string `yaml:"requires"`
}

// Rule is one row. It grants each of its permissions to each of its callers for each
// of its clients.
type Rule struct {
	// Callers are names; "*" is every caller that the file lists.
	Callers []string `yaml:"callers"`
	// Permissions are names of permissions; "role:caller" is token.get and token.watch,
	// "role:operator" is all but client.retarget.
	Permissions []string `yaml:"permissions"`
	// Clients are ids, "prefix:acme-", "label:team=crm", or "*" for all. What is about
	// no client, such as audit.read, needs "*".
	Clients []string `yaml:"clients"`
	// Except takes callers and clients out of this row; other rows may have them.
	Except *Except `yaml:"except"`
	// Subjects are those whom calls for tokens and authorizations may name: subjects,
	// "prefix:users/", or "*" for all. Absent means calls that name no subject only.
	Subjects []string `yaml:"subjects"`
	// Scopes, Audiences and Resources restrict token.get and token.watch further than
	// the client's settings do. Absent means no further; present, they also say what a
	// request gets that names none.
	Scopes    *Restriction `yaml:"scopes"`
	Audiences *Restriction `yaml:"audiences"`
	Resources *Restriction `yaml:"resources"`
	// Limits bound what one caller may use this row for; absent means no bound.
	Limits *Limits `yaml:"limits"`
}

// Except names what a row does not match.
type Except struct {
	// Callers are names; only for a row whose callers are "*".
	Callers []string `yaml:"callers"`
	// Clients are ids and "prefix:acme-". Labels cannot take away: else removing one
	// would widen what is granted.
	Clients []string `yaml:"clients"`
}

// Restriction says which scopes, audiences or resources a request may name. The lists
// that a [Decision] has are shared and must not be changed.
type Restriction struct {
	// Default is what a request gets that names none. Without a default it is refused.
	// Of audiences there is at most one.
	Default []string `yaml:"default"`
	// Allowed may be asked for besides Default.
	Allowed []string `yaml:"allowed"`
}

// allows reports whether a request may name value.
func (r *Restriction) allows(value string) bool {
	return slices.Contains(r.Default, value) || slices.Contains(r.Allowed, value)
}

// equal reports whether both, of which either may be nil, say the same.
func (r *Restriction) equal(other *Restriction) bool {
	if r == nil || other == nil {
		return r == other
	}
	all := func(s *Restriction) []string {
		list := slices.Concat(s.Default, s.Allowed)
		slices.Sort(list)
		return slices.Compact(list)
	}
	return slices.Equal(sorted(r.Default), sorted(other.Default)) && slices.Equal(all(r), all(other))
}

func sorted(list []string) []string {
	s := slices.Clone(list)
	slices.Sort(s)
	return s
}

// String says what r allows, for people.
func (r *Restriction) String() string {
	if r == nil {
		return "what the client has"
	}
	text := "must be named"
	if len(r.Default) > 0 {
		text = "by default " + strings.Join(r.Default, " ")
	}
	if len(r.Allowed) > 0 {
		text += "; allowed " + strings.Join(r.Allowed, " ")
	}
	return text
}

// Limits bound what one caller may use one row for. 0 is no bound.
type Limits struct {
	// RequestsPerSecond and Burst, over all clients of the row together, fill a token bucket; a Burst that is absent is
	// RequestsPerSecond rounded up.
	RequestsPerSecond float64 `yaml:"requests_per_second"`
	Burst             int     `yaml:"burst"`
	// Concurrent is how many calls may be under way.
	Concurrent int `yaml:"concurrent"`
	// ClientRequestsPerSecond, ClientBurst and ClientConcurrent bound the same for each
	// client by itself.
	ClientRequestsPerSecond float64 `yaml:"client_requests_per_second"`
	ClientBurst             int     `yaml:"client_burst"`
	ClientConcurrent        int     `yaml:"client_concurrent"`
	// ScopeSets is how many distinct sets of scopes may be asked for, for one client:
	// each is a token of its own at the authorization server.
	ScopeSets int `yaml:"scope_sets"`
}

// String says what l allows, for people.
func (l *Limits) String() string {
	if l == nil {
		return "none"
	}
	var parts []string
	add := func(set bool, format string, args ...any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(l.RequestsPerSecond > 0, "%v requests a second", l.RequestsPerSecond)
	add(l.Burst > 0, "bursts of %d", l.Burst)
	add(l.Concurrent > 0, "%d at once", l.Concurrent)
	add(l.ClientRequestsPerSecond > 0, "%v requests a second for a client", l.ClientRequestsPerSecond)
	add(l.ClientBurst > 0, "bursts of %d for a client", l.ClientBurst)
	add(l.ClientConcurrent > 0, "%d at once for a client", l.ClientConcurrent)
	add(l.ScopeSets > 0, "%d scope sets", l.ScopeSets)
	return strings.Join(parts, ", ")
}
