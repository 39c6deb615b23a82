package profile_test

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// load returns the built-in profiles and those of a folder.
func load(t *testing.T, folder string) *profile.Set {
	t.Helper()
	set, err := profile.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestBuiltIn: each built-in profile names its sources, and a client that says no more
// than it must gets settings that are whole.
func TestBuiltIn(t *testing.T) {
	files, err := filepath.Glob("builtin/*")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %d profiles: %v", len(files), err)
	}
	set := load(t, "")
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(filepath.Base(file), ".yaml")
			provider, ok := set.Provider(name)
			if !ok || !provider.BuiltIn || provider.Definition != string(raw) {
				t.Fatalf("the set has %q: %t, built-in: %t, or another definition", name, ok, provider.BuiltIn)
			}
			if len(provider.Sources) == 0 {
				t.Error("names no source")
			}
			for _, source := range provider.Sources {
				if u, err := url.Parse(source); err != nil || u.Scheme != "https" || u.Host == "" {
					t.Errorf("source %q is no https URL", source)
				}
			}
			for _, grant := range provider.GrantTypes {
				for _, method := range provider.AuthenticationMethods {
					checkCompletion(t, set, provider, grant, method)
				}
			}
		})
	}
}

// checkCompletion checks the settings of a client that says what examples say.
func checkCompletion(t *testing.T, set *profile.Set, provider broker.Provider, grant broker.GrantType, method broker.AuthenticationMethod) {
	t.Helper()
	p := set.Profile(provider.Name)
	u := broker.Upstream{ClientID: "app", Provider: provider.Name, ProviderVariables: map[string]string{}, Grant: grant}
	u.Authentication.Method = method
	for _, v := range provider.Variables {
		if v.Example != "" {
			u.ProviderVariables[v.Name] = v.Example
		}
	}
	switch {
	case p.Discovery && p.Issuer == "":
		u.Issuer = "https://id.example.com"
	case p.Endpoints.Token == "" && !p.Discovery:
		u.TokenEndpoint = "https://id.example.com/token"
	}
	var policy broker.TokenPolicy
	var rotation broker.RotationSettings
	if violations := set.Complete(&u, &policy, &rotation); len(violations) > 0 {
		t.Errorf("%s, %s: %v", grant, method, violations)
	}
	for name, value := range u.ProviderVariables {
		if value == "" {
			t.Errorf("variable %s has no value", name)
		}
	}
	if u.TokenEndpoint == "" && u.Issuer == "" {
		t.Errorf("%s, %s: neither a token endpoint nor an issuer", grant, method)
	}
	// Generic profiles have the endpoints of users' grants from the client itself.
	if p.Endpoints.Token != "" && !p.Discovery {
		if grant == broker.AuthorizationCode && u.AuthorizationEndpoint == "" || grant == broker.DeviceCode && u.DeviceAuthorizationEndpoint == "" {
			t.Errorf("%s: no endpoint where users consent", grant)
		}
	}
	for _, endpoint := range []string{u.TokenEndpoint, u.RefreshEndpoint, u.RevocationEndpoint, u.AuthorizationEndpoint, u.DeviceAuthorizationEndpoint, u.IntrospectionEndpoint, u.Issuer, p.EndpointAPI(u.ProviderVariables)} {
		if endpoint == "" {
			continue
		}
		if parsed, err := url.Parse(endpoint); err != nil || parsed.Scheme != "https" || parsed.Host == "" || strings.ContainsAny(endpoint, "{}") {
			t.Errorf("made the endpoint %q", endpoint)
		}
	}
	if !slices.Contains(provider.GrantTypes, u.Grant) {
		t.Errorf("made the grant %q", u.Grant)
	}
}
