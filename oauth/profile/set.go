package profile

import (
	"embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

// builtin holds the profiles that come with the broker.
//
//go:embed builtin/*.yaml
var builtin embed.FS

const builtinFolder = "builtin"

// Set is the profiles of a server: the built-in ones and those of its configuration,
// which win. It is a [broker.Providers], and safe for concurrent use.
type Set struct {
	profiles map[string]*Profile
	builtIn  map[string]bool
	names    []string
}

// Load returns the built-in profiles and those of a folder's files *.yaml; "" is no
// folder. What lies in it besides is a problem, except for folders and what begins with a
// dot. The error has the problems of all files: *strictyaml.Error, joined.
func Load(folder string) (*Set, error) {
	s := &Set{profiles: map[string]*Profile{}, builtIn: map[string]bool{}}
	entries, err := builtin.ReadDir(builtinFolder)
	if err != nil {
		return nil, fmt.Errorf("read the built-in profiles: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		raw, err := builtin.ReadFile(builtinFolder + "/" + entry.Name())
		if err != nil {
			return nil, fmt.Errorf("read the built-in profiles: %w", err)
		}
		errs = append(errs, s.add(builtinFolder+"/"+entry.Name(), raw, true))
	}
	if folder != "" {
		errs = append(errs, s.addFolder(folder))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.names = slices.Sorted(maps.Keys(s.profiles))
	return s, nil
}

func (s *Set) addFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("read provider profiles: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if entry.IsDir() || strings.HasPrefix(entry.Name(), ".") { // as "..data", where a cluster mounts files
			continue
		}
		file := filepath.Join(folder, entry.Name())
		if filepath.Ext(file) != extension {
			errs = append(errs, strictyaml.NewError(file, []strictyaml.Problem{{Line: 1, Text: "is not called *" + extension}}))
			continue
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("read provider profiles: %w", err))
			continue
		}
		errs = append(errs, s.add(file, raw, false))
	}
	return errors.Join(errs...)
}

func (s *Set) add(file string, raw []byte, builtIn bool) error {
	p, err := Parse(file, raw)
	if err != nil {
		return err
	}
	s.profiles[p.Name], s.builtIn[p.Name] = p, builtIn
	return nil
}

// Profile returns the profile of that name; nil if there is none, or s is nil.
func (s *Set) Profile(name string) *Profile {
	if s == nil {
		return nil
	}
	return s.profiles[name]
}

var _ broker.Providers = (*Set)(nil)

// Names lists all names, sorted. The caller owns it.
func (s *Set) Names() []string { return slices.Clone(s.names) }

// Provider returns what the broker needs to know of the profile of that name.
func (s *Set) Provider(name string) (broker.Provider, bool) {
	p, ok := s.profiles[name]
	if !ok {
		return broker.Provider{}, false
	}
	provider := broker.Provider{
		Name: p.Name, Title: p.Title, BuiltIn: s.builtIn[name], Sources: slices.Clone(p.Sources), Unverified: slices.Clone(p.Unverified),
		StatusPage: p.StatusPage, Hints: map[broker.Reason]string{}, Definition: p.definition, Refresh: p.refreshPolicy(),
		IssuerInAnswer: p.Consent.IssuerInAnswer, LocksOut: p.Limits.LocksOut,
	}
	for _, variable := range slices.Sorted(maps.Keys(p.Variables)) {
		v := p.Variables[variable]
		provider.Variables = append(provider.Variables, broker.ProviderVariable{Name: variable, Description: v.Description, Example: v.Example, Default: v.Default})
	}
	for _, grant := range p.Grants {
		provider.GrantTypes = append(provider.GrantTypes, broker.GrantType(grant))
	}
	for _, method := range p.Authentication.Methods {
		provider.AuthenticationMethods = append(provider.AuthenticationMethods, broker.AuthenticationMethod(method))
	}
	for reason, hint := range p.Hints {
		provider.Hints[broker.Reason(reason)] = hint
	}
	return provider, true
}

func (p *Profile) refreshPolicy() broker.RefreshPolicy {
	policy := broker.RefreshPolicy{
		Grace: p.Refresh.Grace, Lifetime: p.Refresh.Lifetime, IdleLifetime: p.Refresh.IdleLifetime,
		WithAccessToken: p.Refresh.With == RefreshWithAccessToken,
	}
	if p.Refresh.Rotation != rotationUnknown {
		policy.Rotation = broker.RefreshRotation(p.Refresh.Rotation)
	}
	return policy
}
