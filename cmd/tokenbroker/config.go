package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/vault"
)

// config is the configuration file. Unknown keys are errors. Secrets never stand
// in it, only the paths of files that hold them.
type config struct {
	Listen   listenConfig    `yaml:"listen"`
	Callers  []server.Caller `yaml:"callers"`
	Store    storeConfig     `yaml:"store"`
	Upstream upstreamConfig  `yaml:"upstream"`
	Limits   server.Limits   `yaml:"limits"`
	Admin    adminConfig     `yaml:"admin"`
	Log      logConfig       `yaml:"log"`
}

// listenConfig says where the API is served.
type listenConfig struct {
	// Address is host:port; 127.0.0.1:7443 by default.
	Address string `yaml:"address"`
	// CertificateFile, KeyFile and ClientCAFile are PEM files, read again when they change.
	CertificateFile string `yaml:"certificate_file"`
	KeyFile         string `yaml:"key_file"`
	ClientCAFile    string `yaml:"client_ca_file"`
	// InsecurePlaintext serves without TLS, on a loopback address only.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
}

// storeConfig has exactly one of its members.
type storeConfig struct {
	Vault    *vault.Config   `yaml:"vault"`
	Embedded *embeddedConfig `yaml:"embedded"`
}

// embeddedConfig is the store in one encrypted file.
type embeddedConfig struct {
	// File is the store; it and its key are made if neither is there.
	File string `yaml:"file"`
	// KeyFile holds the key that seals it, of mode 0600. Keep it off the backup of File.
	KeyFile string `yaml:"key_file"`
}

// upstreamConfig says which authorization servers may be connected to.
type upstreamConfig struct {
	// CAFile holds authorities besides the system's, PEM.
	CAFile string `yaml:"ca_file"`
	// InsecureHTTPLoopback permits loopback token endpoints, also over plain http.
	InsecureHTTPLoopback bool `yaml:"insecure_http_loopback"`
	// AllowedAddresses are private ranges that may be connected to, such as 10.0.0.0/8.
	AllowedAddresses []string `yaml:"allowed_addresses"`
}

// prefixes returns AllowedAddresses parsed; add is told of each that is no range.
// They are strings in the file's form because an error of a type's own parser
// would end the decoding, and with it the search for further problems.
func (u *upstreamConfig) prefixes(add func(key, format string, args ...any)) []netip.Prefix {
	var list []netip.Prefix
	for i, text := range u.AllowedAddresses {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			add(fmt.Sprintf("upstream.allowed_addresses[%d]", i), "is %q; it must be a range such as 10.0.0.0/8", text)
			continue
		}
		list = append(list, prefix)
	}
	return list
}

// adminConfig says where metrics, health pages and profiles are served over plain HTTP.
type adminConfig struct {
	// Address is host:port; nothing is served if it is empty.
	Address string `yaml:"address"`
}

// logConfig shapes the log on standard error.
type logConfig struct {
	// Level is debug, info, warn or error; info by default.
	Level string `yaml:"level"`
	// Format is json or text; json by default.
	Format string `yaml:"format"`
}

// level returns Level parsed.
func (l logConfig) level() (slog.Level, error) {
	var level slog.Level
	err := level.UnmarshalText([]byte(l.Level))
	return level, err
}

// problem is one thing wrong with a configuration file.
type problem struct {
	key  string // path of the key: "callers[0].role"
	text string
	line int
}

// configError is all that is wrong with a configuration file.
type configError struct {
	file     string
	problems []problem
}

// Error lists the problems, one a line, as file:line: key: text.
func (e *configError) Error() string {
	var b strings.Builder
	for i, p := range e.problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d: ", e.file, p.line)
		if p.key != "" {
			b.WriteString(p.key + ": ")
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// loadConfig reads and validates a configuration file; its error is a
// *configError with every problem, or that the file cannot be read.
func loadConfig(path string) (*config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	cfg := &config{Listen: listenConfig{Address: "127.0.0.1:7443"}, Log: logConfig{Level: "info", Format: "json"}}
	problems := cfg.decode(raw)
	if len(problems) == 0 {
		problems = cfg.validate()
		locate(raw, problems)
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b problem) int { return cmp.Or(a.line-b.line, strings.Compare(a.key, b.key)) })
		return nil, &configError{file: path, problems: problems}
	}
	return cfg, nil
}

var (
	yamlLine   = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	unknownKey = regexp.MustCompile(`^field (\S+) not found in type \S+$`)
)

// decode fills cfg and returns the problems of form: syntax, unknown and duplicate
// keys, wrong types, a second document.
func (cfg *config) decode(raw []byte) []problem {
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	err := decoder.Decode(cfg)
	if errors.Is(err, io.EOF) {
		return nil // an empty file: all defaults
	}
	var texts []string
	var typed *yaml.TypeError
	switch {
	case errors.As(err, &typed):
		texts = typed.Errors
	case err != nil:
		texts = []string{err.Error()}
	default:
		if decoder.Decode(new(yaml.Node)) != io.EOF {
			return []problem{{text: "holds more than one document; put all settings into one", line: 1}}
		}
	}
	var problems []problem
	for _, text := range texts {
		p := problem{text: text, line: 1}
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			p.line, _ = strconv.Atoi(m[1])
			p.text = unknownKey.ReplaceAllString(m[2], "unknown key $1")
		}
		problems = append(problems, p)
	}
	return problems
}

// validate returns the problems of meaning.
func (cfg *config) validate() []problem {
	var problems []problem
	add := func(key, format string, args ...any) {
		problems = append(problems, problem{key: key, text: fmt.Sprintf(format, args...), line: 1})
	}
	cfg.Listen.validate(add)
	seen := map[string]int{}
	for i, c := range cfg.Callers {
		at := fmt.Sprintf("callers[%d]", i)
		if err := c.Validate(); err != nil {
			add(at, "%v", err)
		}
		if first, twice := seen[c.Identity]; twice {
			add(at+".identity", "%q is that of callers[%d] already", c.Identity, first)
		}
		if (c.Identity == server.InsecureIdentity) && !cfg.Listen.InsecurePlaintext {
			add(at+".identity", "%s needs listen.insecure_plaintext", server.InsecureIdentity)
		}
		seen[c.Identity] = i
	}
	cfg.Store.validate(add)
	mustRead(add, "upstream.ca_file", cfg.Upstream.CAFile)
	cfg.Upstream.prefixes(add)
	for key, value := range map[string]int{
		"limits.max_message_bytes": cfg.Limits.MaxMessageBytes, "limits.max_concurrent_requests": cfg.Limits.MaxConcurrentRequests,
		"limits.max_concurrent_streams": cfg.Limits.MaxConcurrentStreams, "limits.max_deadline": int(cfg.Limits.MaxDeadline),
		"limits.shutdown_grace": int(cfg.Limits.ShutdownGrace),
	} {
		if value < 0 {
			add(key, "is negative")
		}
	}
	if _, err := cfg.Log.level(); err != nil {
		add("log.level", "is %q; it must be debug, info, warn or error", cfg.Log.Level)
	}
	if cfg.Admin.Address != "" {
		if _, _, err := net.SplitHostPort(cfg.Admin.Address); err != nil {
			add("admin.address", "is %q; it must be host:port", cfg.Admin.Address)
		}
	}
	if cfg.Log.Format != "json" && cfg.Log.Format != "text" {
		add("log.format", "is %q; it must be json or text", cfg.Log.Format)
	}
	return problems
}

func (l *listenConfig) validate(add func(key, format string, args ...any)) {
	host, _, err := net.SplitHostPort(l.Address)
	if err != nil {
		add("listen.address", "is %q; it must be host:port", l.Address)
	}
	if l.InsecurePlaintext {
		if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() {
			add("listen.insecure_plaintext", "plaintext is served on loopback only, and %s is not", l.Address)
		}
		if l.CertificateFile+l.KeyFile+l.ClientCAFile != "" {
			add("listen.insecure_plaintext", "cannot be combined with certificate files; remove one or the other")
		}
		return
	}
	for key, path := range map[string]string{
		"listen.certificate_file": l.CertificateFile, "listen.key_file": l.KeyFile, "listen.client_ca_file": l.ClientCAFile,
	} {
		if path == "" {
			add(key, "is required, because callers are identified by mutual TLS")
		}
		mustRead(add, key, path)
	}
}

func (s *storeConfig) validate(add func(key, format string, args ...any)) {
	switch {
	case (s.Vault == nil) == (s.Embedded == nil):
		add("store", "needs exactly one of vault and embedded")
	case s.Embedded != nil:
		if s.Embedded.File == "" {
			add("store.embedded.file", "is required")
		}
		if s.Embedded.KeyFile == "" {
			add("store.embedded.key_file", "is required")
		}
	case s.Vault != nil:
		for _, p := range joined(s.Vault.Validate()) {
			key, text, _ := strings.Cut(p.Error(), ": ")
			add("store.vault."+key, "%s", text)
		}
		for key, path := range map[string]string{
			"ca_file": s.Vault.CAFile, "client_cert_file": s.Vault.ClientCertFile, "client_key_file": s.Vault.ClientKeyFile,
			"token_file": s.Vault.TokenFile, "approle.role_id_file": s.Vault.AppRole.RoleIDFile, "approle.secret_id_file": s.Vault.AppRole.SecretIDFile,
		} {
			mustRead(add, "store.vault."+key, path)
		}
	}
}

// joined takes an error made by errors.Join apart.
func joined(err error) []error {
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		return list.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

func mustRead(add func(key, format string, args ...any), key, path string) {
	if path == "" {
		return
	}
	file, err := os.Open(path)
	if err != nil {
		add(key, "%v", err)
		return
	}
	_ = file.Close()
}

// locate gives each problem the line of its key, or of the nearest key above it
// that the file has.
func locate(raw []byte, problems []problem) {
	var document yaml.Node
	if yaml.Unmarshal(raw, &document) != nil || len(document.Content) == 0 {
		return
	}
	for i := range problems {
		node := document.Content[0]
		problems[i].line = node.Line
		for _, step := range strings.FieldsFunc(problems[i].key, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
			next, line := child(node, step)
			if next == nil {
				break
			}
			node, problems[i].line = next, line
		}
	}
}

// child returns the value of a key or index and the line that it is written on.
func child(node *yaml.Node, step string) (*yaml.Node, int) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i+1], node.Content[i].Line
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i < len(node.Content) {
			return node.Content[i], node.Content[i].Line
		}
	}
	return nil, 0
}
