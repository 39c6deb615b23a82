package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

// configFile is the configuration. It holds names of files, never a secret.
type configFile struct {
	// Current is the context that is taken where none is named.
	Current string `yaml:"current,omitempty" json:"current,omitempty"`
	// Contexts are the brokers, by a name of the operator's choice.
	Contexts map[string]contextConfig `yaml:"contexts,omitempty" json:"contexts,omitempty"`
}

// contextConfig is one broker and who the operator is there. Paths are relative to the
// configuration's folder.
type contextConfig struct {
	// Address is the broker's, "host:port".
	Address string `yaml:"address,omitempty" json:"address,omitempty"`
	// UnixSocket is the path of the broker's socket on this machine, in place of Address.
	UnixSocket string `yaml:"unix_socket,omitempty" json:"unix_socket,omitempty"`
	// CAFile holds the authorities that the broker's certificate may come from; by
	// default the system's.
	CAFile string `yaml:"ca_file,omitempty" json:"ca_file,omitempty"`
	// ServerName must stand in the broker's certificate; by default the address's host.
	ServerName string `yaml:"server_name,omitempty" json:"server_name,omitempty"`
	// CertificateFile and KeyFile are the operator's certificate and its key.
	CertificateFile string `yaml:"certificate_file,omitempty" json:"certificate_file,omitempty"`
	KeyFile         string `yaml:"key_file,omitempty" json:"key_file,omitempty"`
	// TokenFile holds a JWT that says who the operator is; read again when it changes.
	TokenFile string `yaml:"token_file,omitempty" json:"token_file,omitempty"`
	// InsecurePlaintext connects without TLS, to loopback addresses only.
	InsecurePlaintext bool `yaml:"insecure_plaintext,omitempty" json:"insecure_plaintext,omitempty"`
}

// contextName is what a context may be called: a name that a shell needs no quotes for.
var contextName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// configPath returns where the configuration is, or would be.
func (s *session) configPath() (string, error) {
	if s.Config != "" {
		return filepath.Abs(s.Config)
	}
	if dir := s.getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) { // else it is to be ignored, says the XDG specification
		return filepath.Join(dir, "tokenctl", "config.yaml"), nil
	}
	home := s.getenv("HOME")
	if home == "" {
		return "", usage("neither HOME nor XDG_CONFIG_HOME is set: name the configuration with --config")
	}
	return filepath.Join(home, ".config", "tokenctl", "config.yaml"), nil
}

// loadConfig reads the configuration; one that is not there is empty. raw is the file
// as it is.
func (s *session) loadConfig() (config configFile, path string, raw []byte, err error) {
	if path, err = s.configPath(); err != nil {
		return config, path, nil, err
	}
	raw, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config, path, nil, nil
	}
	if err != nil {
		return config, path, nil, usage("read configuration: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return config, path, nil, usage("read configuration: %w", err)
	}
	// Whoever may write the file decides where secrets are sent.
	if problem := writableByOthers(info); problem != "" {
		return config, path, nil, usage("%s %s: whoever writes it decides where your secrets go; run `chmod 600 %[1]s`", path, problem)
	}
	problems := strictyaml.Decode(raw, &config)
	document := strictyaml.NewDocument(raw)
	meaning := config.validate()
	document.Locate(meaning)
	problems = slices.Concat(problems, document.Nulls(), document.Aliases(), meaning)
	if err := strictyaml.NewError(path, problems); err != nil {
		return config, path, nil, usage("%w", err)
	}
	return config, path, raw, nil
}

// validate returns what is wrong with a configuration whose form is right.
func (c configFile) validate() []strictyaml.Problem {
	var problems []strictyaml.Problem
	add := func(key, format string, args ...any) {
		problems = append(problems, strictyaml.Problem{Key: key, Text: fmt.Sprintf(format, args...)})
	}
	if _, known := c.Contexts[c.Current]; c.Current != "" && !known {
		add("current", "there is no context %q", c.Current)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Contexts)) {
		key := "contexts." + name
		if !contextName.MatchString(name) {
			add("contexts", "%q is no name of a context: up to 63 of a-z, 0-9, _ and -", name)
			continue
		}
		c.Contexts[name].validate(func(field, format string, args ...any) {
			add(strings.TrimSuffix(key+"."+field, "."), format, args...)
		})
	}
	return problems
}

func (c contextConfig) validate(add func(field, format string, args ...any)) {
	usesTLS := c.CAFile != "" || c.ServerName != "" || c.CertificateFile != "" || c.KeyFile != "" || c.TokenFile != ""
	switch {
	case c.Address == "" && c.UnixSocket == "":
		add("", "needs an address or a unix_socket")
	case c.Address != "" && c.UnixSocket != "":
		add("unix_socket", "stands in the place of address; there is both")
	case c.UnixSocket != "" && (usesTLS || c.InsecurePlaintext):
		add("unix_socket", "goes without TLS, files of it and insecure_plaintext: the broker sees which user you are")
	}
	if c.Address != "" {
		c.validateAddress(add)
	}
	if c.InsecurePlaintext && usesTLS {
		add("insecure_plaintext", "goes without TLS and its files, and without token_file")
	}
	if (c.CertificateFile == "") != (c.KeyFile == "") {
		add("certificate_file", "and key_file go together")
	}
	if c.Address != "" && !c.InsecurePlaintext && c.CertificateFile == "" && c.KeyFile == "" && c.TokenFile == "" {
		add("", "does not say who you are: set certificate_file and key_file, or token_file")
	}
}

func (c contextConfig) validateAddress(add func(field, format string, args ...any)) {
	host, port, err := net.SplitHostPort(c.Address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || number == 0 || host == "" || strings.ContainsAny(host, "/ ") {
		add("address", "%q must be host:port, such as broker.example.org:7443", c.Address)
		return
	}
	if ip := net.ParseIP(host); c.InsecurePlaintext && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		add("insecure_plaintext", "is for loopback addresses only, and %s is none", host)
	}
}

// writableByOthers says what is wrong with a file that somebody else may change.
func writableByOthers(info fs.FileInfo) string {
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Sprintf("has mode %04o and can be written by others", info.Mode().Perm())
	}
	if !ownedByUs(info) {
		return "belongs to another user"
	}
	return ""
}

// chosen returns the context that the command line or the configuration names, its
// paths absolute.
func (s *session) chosen() (contextConfig, string, error) {
	config, path, _, err := s.loadConfig()
	if err != nil {
		return contextConfig{}, "", err
	}
	name := orElse(s.Context, config.Current)
	if name == "" {
		return contextConfig{}, "", usage("no context is chosen in %s: make one with `tokenctl context set NAME --address HOST:PORT …`, or choose one with `tokenctl context use NAME`", path)
	}
	c, known := config.Contexts[name]
	if !known {
		return contextConfig{}, "", usage("there is no context %q in %s; `tokenctl context list` shows which there are", name, path)
	}
	return c.within(filepath.Dir(path), s.getenv("HOME")), name, nil
}

// paths are the fields of c that name files.
func (c *contextConfig) paths() []*string {
	return []*string{&c.UnixSocket, &c.CAFile, &c.CertificateFile, &c.KeyFile, &c.TokenFile}
}

// within resolves paths: "~/" is the home folder, others begin at dir.
func (c contextConfig) within(dir, home string) contextConfig {
	for _, path := range c.paths() {
		switch rest, fromHome := strings.CutPrefix(*path, "~/"); {
		case fromHome && home != "":
			*path = filepath.Join(home, rest)
		case *path != "" && !filepath.IsAbs(*path):
			*path = filepath.Join(dir, *path)
		}
	}
	return c
}

// target returns what to connect to and how. It refuses credentials that others can
// read or write.
func (c contextConfig) target() (string, []client.Option, error) {
	options := []client.Option{client.WithUserAgent("tokenctl/" + version)}
	if c.UnixSocket != "" {
		return "unix://" + c.UnixSocket, append(options, client.WithInsecureLoopback()), nil
	}
	if c.InsecurePlaintext {
		return "dns:///" + c.Address, append(options, client.WithInsecureLoopback()), nil
	}
	for _, path := range []string{c.KeyFile, c.TokenFile} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return "", nil, usage("%w", err)
		}
		if mode := info.Mode().Perm(); mode&0o026 != 0 {
			return "", nil, usage("%s has mode %04o: it says who you are, so nobody else may read or write it; run `chmod 600 %[1]s`", path, mode)
		}
	}
	options = append(options, client.WithTLS(client.TLSFiles{Certificate: c.CertificateFile, Key: c.KeyFile, CA: c.CAFile, ServerName: c.ServerName}))
	if c.TokenFile != "" {
		options = append(options, client.WithBearerTokenFile(c.TokenFile))
	}
	return "dns:///" + c.Address, options, nil
}
