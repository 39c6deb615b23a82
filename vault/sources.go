package vault

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Sources says which secrets may enter from elsewhere in Vault. The zero value
// accepts none.
type Sources struct {
	// Wrapping is about response-wrapping tokens.
	Wrapping Wrapping `yaml:"wrapping"`
	// References are the places where clients may refer to secrets of others.
	References []Place `yaml:"references"`
}

// Wrapping says which response-wrapping tokens are unwrapped.
type Wrapping struct {
	// CreationPaths are the requests by which a token may have been made, such as
	// "kv/data/oauth/acme"; one that ends in "*" stands for all that begin so. None by
	// default, so that no token is unwrapped.
	//
	// [RewrapPath] is matched by itself alone and is best left out. Whoever intercepts
	// a token, takes the secret out and wraps it again to hide that, can only do it by
	// that request; a token of another path was wrapped by who could read that path.
	CreationPaths []string `yaml:"creation_paths"`
}

// RewrapPath is where anybody who is logged in may wrap anything.
const RewrapPath = "sys/wrapping/wrap"

// Place is a part of another KV version 2 mount.
type Place struct {
	// Mount is the engine's.
	Mount string `yaml:"mount"`
	// Prefix names one secret and all that lie below it; empty is the whole mount.
	Prefix string `yaml:"prefix"`
}

// Validate returns an error that names every problem, each by its key below
// "secrets", or nil. mount is the broker's own, which nobody may refer to.
func (s Sources) Validate(mount string) error {
	var problems []error
	add := func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	for i, pattern := range s.Wrapping.CreationPaths {
		path, _ := strings.CutSuffix(pattern, "*")
		if !validPath(strings.TrimSuffix(path, "/")) {
			add(fmt.Sprintf("wrapping.creation_paths[%d]", i), "is %q; it must be a path such as kv/data/oauth/acme, or the beginning of one and '*'", pattern)
		}
	}
	for i, p := range s.References {
		key := fmt.Sprintf("references[%d]", i)
		switch {
		case !validPath(p.Mount):
			add(key+".mount", "is %q; it must be a path of letters, digits, '.', '_', '-' and inner slashes", p.Mount)
		case p.Prefix != "" && !validPath(p.Prefix):
			add(key+".prefix", "is %q; it must be a path of letters, digits, '.', '_', '-' and inner slashes", p.Prefix)
		case p.within(orDefault(mount)):
			add(key+".mount", "is %q, where the broker keeps its own records", p.Mount)
		case slices.Contains(s.References[:i], p):
			add(key, "is there twice")
		}
	}
	return errors.Join(problems...)
}

func orDefault(mount string) string {
	if mount == "" {
		return DefaultMount
	}
	return mount
}

// accepts reports whether a token that was made by a request to path is unwrapped.
func (w Wrapping) accepts(path string) bool {
	return slices.ContainsFunc(w.CreationPaths, func(pattern string) bool {
		beginning, open := strings.CutSuffix(pattern, "*")
		return pattern == path || open && strings.HasPrefix(path, beginning) && !strings.HasPrefix(path, "sys/wrapping/")
	})
}

// within reports whether a request to the place would reach the mount own: also where
// Mount is none and own lies below what a request to it begins with.
func (p Place) within(own string) bool {
	for _, tree := range []string{"data", "metadata"} {
		if strings.HasPrefix(strings.TrimSuffix(p.path(tree), "/")+"/", own+"/") {
			return true
		}
	}
	return false
}

// path returns the path below /v1/ of the place in one of KV's trees.
func (p Place) path(tree string) string {
	return strings.TrimSuffix(p.Mount+"/"+tree+"/"+p.Prefix, "/")
}

// holds reports whether path of mount lies in the place. Segments count, not
// characters: "oauth" does not hold "oauth-of-others".
func (p Place) holds(mount, path string) bool {
	return p.Mount == mount && (p.Prefix == "" || path == p.Prefix || strings.HasPrefix(path, p.Prefix+"/"))
}
