package profile

import (
	"github.com/tokenbroker/tokenbroker/broker"
)

// Set is the profiles of a server: the built-in ones and those of its configuration,
// which win. It is a [broker.Providers], and safe for concurrent use.
type Set struct {
	profiles map[string]*Profile
	builtIn  map[string]bool
	names    []string
}

// Profile returns the profile of that name; nil if there is none.
func (s *Set) Profile(name string) *Profile {
	if s == nil {
		return nil
	}
	return s.profiles[name]
}

var _ broker.Providers = (*Set)(nil)

// Provider is [broker.Providers]'s.
func (s *Set) Provider(string) (broker.Provider, bool) { return broker.Provider{}, false }

// Names is [broker.Providers]'s.
func (s *Set) Names() []string { return s.names }

// Complete is [broker.Providers]'s.
func (s *Set) Complete(*broker.Upstream, *broker.TokenPolicy, *broker.RotationSettings) []broker.FieldViolation {
	return nil
}
