package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/rotator"
	"github.com/tokenbroker/tokenbroker/plugin"
)

// keyPairRotator is the rotator of clients whose public keys the broker serves.
const keyPairRotator = "key_pair"

// builtInRotators are names that no rotator of the configuration may have.
var builtInRotators = []string{"rfc7592", "keycloak", "entra", "okta", "auth0", keyPairRotator}

func checkRotators(add func(key, format string, args ...any), rotators []plugin.Config) {
	names := map[string]bool{}
	for i, r := range rotators {
		prefix := fmt.Sprintf("rotators[%d].", i)
		r.Check(func(key, format string, args ...any) { add(prefix+key, format, args...) })
		files := r.Files()
		for _, key := range slices.Sorted(maps.Keys(files)) {
			mustRead(add, prefix+key, files[key])
		}
		switch {
		case slices.Contains(builtInRotators, r.Name):
			add(prefix+"name", "%s is the broker's own rotator; choose another name", r.Name)
		case names[r.Name]:
			add(prefix+"name", "%s is there twice", r.Name)
		}
		names[r.Name] = true
	}
}

// openRotators returns the rotators by their names. They are closed with the service.
func (s *service) openRotators(cfg *config) (map[string]broker.Rotator, error) {
	rotators := rotator.New(s.upstream)
	if cfg.JWKS.Address != "" {
		rotators[keyPairRotator] = oauth.KeyPairRotator{MaxAge: cfg.JWKS.maxAge()}
	}
	for _, settings := range cfg.Rotators {
		r, err := plugin.New(settings)
		if err != nil {
			return nil, fmt.Errorf("rotators: %w", err)
		}
		s.closers = append(s.closers, r.Close)
		rotators[settings.Name] = r
	}
	return rotators, nil
}
