package vault

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Config says where Vault is and how to log in. Nothing else does: VAULT_*
// variables and the proxy variables of the environment are not used.
type Config struct {
	// Address is Vault's URL: https, or http to a loopback address. Required.
	Address string `yaml:"address"`
	// CAFile holds the PEM certificates that Vault's is verified with; empty
	// means the system's. Read once by New.
	CAFile string `yaml:"ca_file"`
	// ClientCertFile and ClientKeyFile hold the PEM certificate and key that are
	// shown to Vault in the TLS handshake, both or neither. Read at each
	// handshake, so that they may be replaced at any time.
	ClientCertFile string `yaml:"client_cert_file"`
	ClientKeyFile  string `yaml:"client_key_file"`
	// Namespace is a namespace of Vault Enterprise or OpenBao; empty for none.
	// A server that does not know namespaces is refused: community Vault would
	// ignore it and use the root namespace.
	Namespace string `yaml:"namespace"`
	// Mount is where the KV version 2 engine is mounted; "tokenbroker" by default.
	Mount string `yaml:"mount"`
	// Prefix is put before all keys within the mount, as in "prod/eu"; may be empty.
	Prefix string `yaml:"prefix"`
	// TokenFile holds a token, put there and kept fresh by somebody else such as
	// Vault Agent. Looked at once a second while its token is in use: another token
	// in it is used as soon as Vault has accepted it.
	//
	// Exactly one of TokenFile, AppRole, Kubernetes, JWT and Cert is required.
	TokenFile string `yaml:"token_file"`
	// AppRole logs in by role id and secret id.
	AppRole AppRole `yaml:"approle"`
	// Kubernetes logs in by the pod's service account token; nil means not.
	Kubernetes *Kubernetes `yaml:"kubernetes"`
	// JWT logs in by a JWT from a file; nil means not.
	JWT *JWT `yaml:"jwt"`
	// Cert logs in by ClientCertFile and ClientKeyFile; nil means not.
	Cert *Cert `yaml:"cert"`
	// Timeout bounds one exchange with Vault; 5 s by default. A read with all its
	// tries takes at most twice as long, and so does the wait for a login.
	Timeout time.Duration `yaml:"timeout"`
	// Logger gets logins, renewals and their failures; nil means nobody.
	Logger *slog.Logger `yaml:"-"`
	// OnLogin is called after each attempt to log in, with the key of the method in
	// the configuration file ("approle") and the error, nil for success. For
	// TokenFile an attempt is a look-up of the token in it. It runs on the goroutine
	// of [Store.Run], which it must not hold up; nil means nobody.
	OnLogin func(method string, err error) `yaml:"-"`
}

const (
	// DefaultMount is where the KV version 2 engine is looked for unless Config.Mount says otherwise.
	DefaultMount   = "tokenbroker"
	defaultTimeout = 5 * time.Second
	maxTimeout     = time.Minute
)

func (c Config) withDefaults() Config {
	if c.Mount == "" {
		c.Mount = DefaultMount
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnLogin == nil {
		c.OnLogin = func(string, error) {}
	}
	return c.withLoginDefaults()
}

// pathPattern is narrower than what Vault accepts: no wildcards, because mount
// and prefix also stand in the printed policy, and nothing that needs escaping.
var pathPattern = regexp.MustCompile(`^[a-zA-Z0-9._-]+(/[a-zA-Z0-9._-]+)*$`)

// Validate returns an error that names every problem, each by its key in the
// configuration file, or nil. It looks at no file; New does.
func (c Config) Validate() error {
	c = c.withDefaults()
	var problems []error
	add := func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if problem := addressProblem(c.Address); problem != "" {
		add("address", "%s", problem)
	}
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		add("client_cert_file", "set both client_cert_file and client_key_file, or neither")
	}
	checkPath := func(key, value string, required bool) {
		if value == "" && !required {
			return
		}
		if !validPath(value) {
			add(key, "%q is not a path of letters, digits, '.', '_', '-' and inner slashes", value)
		}
	}
	checkPath("namespace", strings.Trim(c.Namespace, "/"), false)
	checkPath("mount", c.Mount, true)
	checkPath("prefix", c.Prefix, false)
	c.validateLogin(add, checkPath)
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		add("timeout", "%s is not between 0 and %s", c.Timeout, maxTimeout)
	}
	return errors.Join(problems...)
}

// addressProblem says what is wrong with Vault's address, or "". The address
// itself is not quoted: somebody may have put a password into it.
func addressProblem(address string) string {
	if address == "" {
		return "is required, as in https://vault.example.com:8200"
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "":
		return "is not a URL with a host, as in https://vault.example.com:8200"
	case u.User != nil:
		return "must not hold a user or password"
	case u.RawQuery != "" || u.Fragment != "":
		return "must not have a query or fragment"
	case u.Scheme == "https":
		return ""
	case u.Scheme != "http":
		return "must be an https URL"
	case !loopback(u.Hostname()):
		return "must be an https URL: plain http would show tokens and secrets to the network; only loopback is allowed"
	}
	return ""
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// validPath reports whether each segment is harmless: net/url and Vault would
// resolve "." and "..", and so reach another path.
func validPath(path string) bool {
	if !pathPattern.MatchString(path) {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return true
}
