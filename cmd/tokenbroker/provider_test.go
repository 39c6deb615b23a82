package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// profileFile writes a profile called acme.
func profileFile(t *testing.T, text string) string {
	t.Helper()
	return write(t, "acme.yaml", text)
}

func TestProviderList(t *testing.T) {
	dir := filepath.Dir(profileFile(t, providerExample))
	got := command(t, "provider", "list", "--dir", dir)
	got.want(t, 0)
	for _, line := range []string{"acme ", "aspire ", "generic ", "generic-oidc "} {
		if !strings.Contains(got.stdout, "\n"+line) {
			t.Errorf("it printed\n%s\nwithout %s", got.stdout, line)
		}
	}
	if strings.Contains(command(t, "provider", "list").stdout, "acme") {
		t.Error("without a folder it lists what lies in one")
	}
	got = commandIn(t.Context(), []string{"PATH=/bin"}, "provider", "list", "--dir", filepath.Join(dir, "nowhere"))
	got.want(t, 2, "no such file")
}

func TestProviderShow(t *testing.T) {
	got := command(t, "provider", "show", "aspire")
	got.want(t, 0)
	for _, text := range []string{"/Authorization/RefreshToken", "24h from their last use", "client_id as ClientId", "Not verified: ", "\nname: aspire\n"} {
		if !strings.Contains(got.stdout, text) {
			t.Errorf("it printed\n%s\nwithout %q", got.stdout, text)
		}
	}
	command(t, "provider", "show", "acne").want(t, 2, `no profile "acne"`, "generic-oidc")
}

// TestProviderCheck also holds the example of the help to what it teaches.
func TestProviderCheck(t *testing.T) {
	good := profileFile(t, providerExample)
	got := command(t, "provider", "check", good)
	got.want(t, 0)
	for _, text := range []string{
		"acme: Acme CRM\n", "tenant=t1 (required)", "Tokens are asked for at https://t1.acme.example/oauth/token.", "by POST as form", "client_id as app_id",
		"the token at data.token", "milliseconds at data.expires_ms", "bad_app means CLIENT_REJECTED",
	} {
		if !strings.Contains(got.stdout, text) {
			t.Errorf("it printed\n%s\nwithout %q", got.stdout, text)
		}
	}
	bad := profileFile(t, "name: acme\ntitle: Acme\nrequest:\n  format: xml\n  values: {client_secret: x}\n")
	got = command(t, "provider", "check", good, bad)
	got.want(t, 1, "not all profiles are sound")
	for _, text := range []string{"acme: Acme CRM\n", bad + ":4: request.format: is \"xml\"", bad + ":5: request.values.client_secret: is the name"} {
		if !strings.Contains(got.stdout, text) {
			t.Errorf("it printed\n%s\nwithout %q", got.stdout, text)
		}
	}
	command(t, "provider", "check", bad+".none").want(t, 2, "no such file")
	help := command(t, "provider", "check", "--help")
	help.want(t, 0)
	golden(t, "help-provider-check.txt", help.stdout)
	for _, line := range strings.Split(strings.TrimSpace(providerExample), "\n") {
		if !strings.Contains(help.stdout, line) {
			t.Errorf("the help lacks the line %q", line)
		}
	}
}

// TestProvidersOfTheConfiguration: check-config names file, line and key of a profile
// that is not sound, and takes a folder of sound ones.
func TestProvidersOfTheConfiguration(t *testing.T) {
	config := func(dir string) string {
		return write(t, "config.yaml", "listen:\n  insecure_plaintext: true\nstore:\n  embedded: {file: s.db, key_file: s.key}\naudit: {insecure_off: true}\nproviders:\n  dir: "+dir+"\n")
	}
	bad := profileFile(t, "name: acme\ntitel: Acme\n")
	got := command(t, "check-config", "--config", config(filepath.Dir(bad)))
	got.want(t, 2, ":7: providers.dir: "+bad+":2: unknown key titel")
	good := filepath.Dir(profileFile(t, providerExample))
	command(t, "check-config", "--config", config(good)).want(t, 0)
	command(t, "check-config", "--config", config(filepath.Join(good, "nowhere"))).want(t, 2, ":7: providers.dir: ", "no such file")
	cfg, err := loadConfig(config(good))
	if err != nil {
		t.Fatal(err)
	}
	set, err := cfg.Providers.load()
	if err != nil || set.Profile("acme") == nil {
		t.Errorf("the profile is not there: %v", err)
	}
}
