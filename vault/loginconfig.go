package vault

import (
	"cmp"
	"fmt"
	"strings"
)

// AppRole says how to log in with Vault's AppRole method. The zero value means
// that it is not used.
type AppRole struct {
	// RoleIDFile and SecretIDFile are read at each login; space around the id is
	// ignored. There is one login at start and one for each token that ends, and
	// each takes one use of a secret id that has a number of them.
	RoleIDFile   string `yaml:"role_id_file"`
	SecretIDFile string `yaml:"secret_id_file"`
	// SecretIDWrapped says that SecretIDFile holds a response-wrapping token with
	// the secret id in it. It is unwrapped once; the secret id is kept in memory,
	// so that each start of the process needs a new one.
	SecretIDWrapped bool `yaml:"secret_id_wrapped"`
	// Mount is the path of the auth method below auth/; "approle" by default.
	Mount string `yaml:"mount"`
}

func (a AppRole) used() bool { return a != AppRole{} }

// Kubernetes says how to log in with Vault's Kubernetes method.
type Kubernetes struct {
	// Role is the role's name in Vault. Required.
	Role string `yaml:"role"`
	// TokenFile holds the service account token; by default the place where a pod
	// finds it. Read at each login, since projected tokens are replaced.
	TokenFile string `yaml:"token_file"`
	// Mount is the path of the auth method below auth/; "kubernetes" by default.
	Mount string `yaml:"mount"`
}

// JWT says how to log in with Vault's JWT method.
type JWT struct {
	// Role is the role's name in Vault. Required.
	Role string `yaml:"role"`
	// TokenFile holds the JWT. Required. Read at each login.
	TokenFile string `yaml:"token_file"`
	// Mount is the path of the auth method below auth/; "jwt" by default.
	Mount string `yaml:"mount"`
}

// Cert says how to log in with Vault's TLS certificate method, by the
// certificate in [Config].ClientCertFile.
type Cert struct {
	// Role is the name of the certificate role in Vault; empty lets Vault try all.
	Role string `yaml:"role"`
	// Mount is the path of the auth method below auth/; "cert" by default.
	Mount string `yaml:"mount"`
}

// podTokenFile is where Kubernetes puts a pod's service account token.
const podTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// withLoginDefaults fills in copies: what the pointers point at is the caller's.
func (c Config) withLoginDefaults() Config {
	if c.AppRole.used() {
		c.AppRole.Mount = cmp.Or(c.AppRole.Mount, "approle")
	}
	if c.Kubernetes != nil {
		own := *c.Kubernetes
		own.TokenFile, own.Mount = cmp.Or(own.TokenFile, podTokenFile), cmp.Or(own.Mount, "kubernetes")
		c.Kubernetes = &own
	}
	if c.JWT != nil {
		own := *c.JWT
		own.Mount = cmp.Or(own.Mount, "jwt")
		c.JWT = &own
	}
	if c.Cert != nil {
		own := *c.Cert
		own.Mount = cmp.Or(own.Mount, "cert")
		c.Cert = &own
	}
	return c
}

// loginMethods returns the keys of the login methods that are configured.
func (c Config) loginMethods() []string {
	var keys []string
	for _, method := range []struct {
		key  string
		used bool
	}{
		{"token_file", c.TokenFile != ""},
		{"approle", c.AppRole.used()},
		{"kubernetes", c.Kubernetes != nil},
		{"jwt", c.JWT != nil},
		{"cert", c.Cert != nil},
	} {
		if method.used {
			keys = append(keys, method.key)
		}
	}
	return keys
}

// validateLogin tells add what is wrong with the login methods.
func (c Config) validateLogin(add func(key, format string, args ...any), checkPath func(key, value string, required bool)) {
	const choice = "set exactly one of token_file, approle, kubernetes, jwt and cert"
	switch methods := c.loginMethods(); len(methods) {
	case 0:
		add("token_file", choice+": the broker must log in somehow")
	case 1:
	default:
		add(methods[1], "%s, not %s", choice, strings.Join(methods, " and "))
	}
	require := func(key, value string) {
		if value == "" {
			add(key, "is required")
		}
	}
	if c.AppRole.used() {
		checkPath("approle.mount", c.AppRole.Mount, true)
		require("approle.role_id_file", c.AppRole.RoleIDFile)
		require("approle.secret_id_file", c.AppRole.SecretIDFile)
	}
	if c.Kubernetes != nil {
		checkPath("kubernetes.mount", c.Kubernetes.Mount, true)
		require("kubernetes.role", c.Kubernetes.Role)
	}
	if c.JWT != nil {
		checkPath("jwt.mount", c.JWT.Mount, true)
		require("jwt.role", c.JWT.Role)
		require("jwt.token_file", c.JWT.TokenFile)
	}
	if c.Cert != nil {
		checkPath("cert.mount", c.Cert.Mount, true)
		if c.ClientCertFile == "" && c.ClientKeyFile == "" {
			add("cert", "needs client_cert_file and client_key_file: that certificate logs in")
		}
		if strings.HasPrefix(c.Address, "http:") {
			add("cert", "needs an https address: the certificate is shown in the TLS handshake")
		}
	}
}

// Files returns the files that the configuration names: key in the configuration
// file → path. Those that are not set are left out, and so are defaults.
func (c Config) Files() map[string]string {
	files := map[string]string{
		"ca_file": c.CAFile, "client_cert_file": c.ClientCertFile, "client_key_file": c.ClientKeyFile, "token_file": c.TokenFile,
		"approle.role_id_file": c.AppRole.RoleIDFile, "approle.secret_id_file": c.AppRole.SecretIDFile,
	}
	if c.Kubernetes != nil {
		files["kubernetes.token_file"] = c.Kubernetes.TokenFile
	}
	if c.JWT != nil {
		files["jwt.token_file"] = c.JWT.TokenFile
	}
	for key, path := range files {
		if path == "" {
			delete(files, key)
		}
	}
	return files
}

// watched returns the files whose change makes another login worth a try.
func (c Config) watched() []string {
	var paths []string
	for key, path := range c.withDefaults().Files() {
		if key != "ca_file" { // which is read once
			paths = append(paths, path)
		}
	}
	return paths
}

// named names a file by its path and its key in the configuration file.
func named(key, path string) string { return fmt.Sprintf("%s (%s)", path, key) }
