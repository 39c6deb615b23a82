package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
	"github.com/tokenbroker/tokenbroker/plugin"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/bearer"
	"github.com/tokenbroker/tokenbroker/server/notify"
	"github.com/tokenbroker/tokenbroker/vault"
)

// config is the configuration file. Unknown keys are errors. Secrets never stand
// in it, only the paths of files that hold them.
type config struct {
	Listen    listenConfig    `yaml:"listen"`
	Callers   []server.Caller `yaml:"callers"`
	Access    accessConfig    `yaml:"access"`
	JWT       *bearer.Config  `yaml:"jwt"`
	Audit     auditConfig     `yaml:"audit"`
	Store     storeConfig     `yaml:"store"`
	Secrets   vault.Sources   `yaml:"secrets"`
	Upstream  upstreamConfig  `yaml:"upstream"`
	Providers providersConfig `yaml:"providers"`
	Rotators  []plugin.Config `yaml:"rotators"`
	JWKS      jwksConfig      `yaml:"jwks"`
	Tokens    tokensConfig    `yaml:"tokens"`
	// Authorization is how users' consent comes back.
	Authorization authorizationConfig `yaml:"authorization"`
	Notify        notify.Config       `yaml:"notify"`
	Clients       clientsConfig       `yaml:"clients"`
	// Diagnosis says what checks may do.
	Diagnosis diagnosisConfig `yaml:"diagnosis"`
	Limits    server.Limits   `yaml:"limits"`
	Admin     adminConfig     `yaml:"admin"`
	Tracing   tracingConfig   `yaml:"tracing"`
	Process   processConfig   `yaml:"process"`
	Log       logConfig       `yaml:"log"`
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

// tokensConfig says how tokens are got and kept.
type tokensConfig struct {
	// KeepSecret is how long a secret that was read for a token stays in memory, to get
	// tokens while the store is away; 1 h by default, 0 keeps none.
	KeepSecret time.Duration `yaml:"keep_secret"`
	// Unshared makes each replica get tokens of its own.
	Unshared bool `yaml:"unshared"`
	// MaxRequests bounds the requests to authorization servers that are under way,
	// MaxRequestsPerEndpoint those to one token endpoint; 256 and 32 by default.
	MaxRequests            int `yaml:"max_requests"`
	MaxRequestsPerEndpoint int `yaml:"max_requests_per_endpoint"`
	// Prewarm are ids of clients whose tokens are got at the start.
	Prewarm []string `yaml:"prewarm"`
	// CachedClients and CachedTokens are how many are kept in memory; 100,000 by default.
	CachedClients int `yaml:"cached_clients"`
	CachedTokens  int `yaml:"cached_tokens"`
	// MaxBlind is how long tokens are handed out although the feed cannot be read; 0, the
	// default, is for any time.
	MaxBlind time.Duration `yaml:"max_blind"`
}

// clientsConfig says what becomes of clients.
type clientsConfig struct {
	// PurgeDeletedAfter is how long after its deletion a client is purged by itself; 0,
	// the default, means never.
	PurgeDeletedAfter time.Duration `yaml:"purge_deleted_after"`
}

// diagnosisConfig says what checks may do.
type diagnosisConfig struct {
	// WrongTriesPerDay are tries with a missing or wrong secret that checks may make of one
	// client in a day, in the whole fleet; 1 by default, -1 for none.
	WrongTriesPerDay int `yaml:"wrong_tries_per_day"`
}

const mostWrongTries = 100

func (c *diagnosisConfig) validate(add func(key, format string, args ...any)) {
	if n := c.WrongTriesPerDay; n < -1 || n > mostWrongTries {
		add("diagnosis.wrong_tries_per_day", "is %d; it must lie between -1, for none, and %d", n, mostWrongTries)
	}
}

// leastPurgeDeletedAfter leaves a day to undo a deletion.
const leastPurgeDeletedAfter = 24 * time.Hour

func (c *clientsConfig) validate(add func(key, format string, args ...any)) {
	if after := c.PurgeDeletedAfter; after != 0 && after < leastPurgeDeletedAfter {
		add("clients.purge_deleted_after", "is %v; it must be 0 for never, or at least %v", after, leastPurgeDeletedAfter)
	}
}

const (
	defaultKeepSecret = time.Hour
	mostKeepSecret    = 24 * time.Hour
	// leastMaxBlind is above what a slow look at the feed takes.
	leastMaxBlind = 30 * time.Second
)

func (c *tokensConfig) validate(add func(key, format string, args ...any)) {
	if c.KeepSecret < 0 || c.KeepSecret > mostKeepSecret {
		add("tokens.keep_secret", "is %v; it must lie between 0 and %v", c.KeepSecret, mostKeepSecret)
	}
	if c.MaxBlind != 0 && c.MaxBlind < leastMaxBlind {
		add("tokens.max_blind", "is %v; it must be 0, for no limit, or at least %v", c.MaxBlind, leastMaxBlind)
	}
	for i, id := range c.Prewarm {
		if err := broker.CheckID("client", id); err != nil {
			add(fmt.Sprintf("tokens.prewarm[%d]", i), "is %.140q; it must be the id of a client, such as acme-crm", id)
		}
	}
	for key, value := range map[string]int{
		"tokens.max_requests": c.MaxRequests, "tokens.max_requests_per_endpoint": c.MaxRequestsPerEndpoint,
		"tokens.cached_clients": c.CachedClients, "tokens.cached_tokens": c.CachedTokens,
	} {
		if value < 0 {
			add(key, "is negative")
		}
	}
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

// accessConfig says who may do what, for more than roles.
type accessConfig struct {
	// File is an access table (docs/access.md), read again when it changes. It takes
	// the place of callers.
	File string `yaml:"file"`
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

// loadConfig reads and validates a configuration file; its error is a
// *strictyaml.Error with every problem, or that the file cannot be read.
func loadConfig(path string) (*config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	cfg := &config{
		Listen: listenConfig{Address: "127.0.0.1:7443"}, Tracing: defaultTracing,
		Process: processConfig{LockMemory: lockIfAllowed}, Log: logConfig{Level: "info", Format: "json"},
	}
	problems := strictyaml.Decode(raw, cfg)
	if len(problems) == 0 {
		problems = cfg.validate()
		strictyaml.NewDocument(raw).Locate(problems)
	}
	slices.SortStableFunc(problems, func(a, b strictyaml.Problem) int { return cmp.Or(a.Line-b.Line, strings.Compare(a.Key, b.Key)) })
	if err := strictyaml.NewError(path, problems); err != nil {
		return nil, err
	}
	return cfg, nil
}

// validate returns the problems of meaning.
func (cfg *config) validate() []strictyaml.Problem {
	var problems []strictyaml.Problem
	add := func(key, format string, args ...any) {
		problems = append(problems, strictyaml.Problem{Key: key, Text: fmt.Sprintf(format, args...), Line: 1})
	}
	cfg.Listen.validate(add)
	var wrong *strictyaml.Error
	if _, err := server.Callers(cfg.Callers); errors.As(err, &wrong) {
		problems = append(problems, wrong.Problems...)
	}
	for i, c := range cfg.Callers {
		if identity, err := access.NormalIdentity(c.Identity); err == nil {
			cfg.presents(identity, func(format string, args ...any) { add(fmt.Sprintf("callers[%d].identity", i), format, args...) })
		}
	}
	if cfg.Access.File != "" {
		if len(cfg.Callers) > 0 {
			add("access.file", "cannot be combined with callers; the table lists them")
		}
		if table, err := loadTable(cfg.Access.File); err != nil {
			add("access.file", "%v", err)
		} else {
			for _, identity := range table.Identities() {
				cfg.presents(identity, func(format string, args ...any) { add("access.file", format, args...) })
			}
		}
	}
	if cfg.JWT != nil {
		for _, p := range joined(cfg.JWT.Validate()) {
			key, text, _ := strings.Cut(p.Error(), ": ")
			add("jwt."+key, "%s", text)
		}
	}
	for _, p := range joined(cfg.Notify.Validate()) {
		key, text, _ := strings.Cut(p.Error(), ": ")
		add("notify."+key, "%s", text)
	}
	cfg.Audit.validate(add)
	cfg.Store.validate(add)
	cfg.validateSecrets(add)
	mustRead(add, "upstream.ca_file", cfg.Upstream.CAFile)
	cfg.Upstream.prefixes(add)
	cfg.Tokens.validate(add)
	cfg.Providers.validate(add)
	checkRotators(add, cfg.Rotators)
	cfg.JWKS.validate(add, cfg.Listen)
	cfg.Authorization.validate(add, cfg.Listen)
	cfg.Clients.validate(add)
	cfg.Diagnosis.validate(add)
	for key, value := range map[string]int{
		"limits.max_message_bytes": cfg.Limits.MaxMessageBytes, "limits.max_concurrent_requests": cfg.Limits.MaxConcurrentRequests,
		"limits.max_watches": cfg.Limits.MaxWatches, "limits.max_watches_per_caller": cfg.Limits.MaxWatchesPerCaller,
		"limits.max_concurrent_requests_per_caller": cfg.Limits.MaxConcurrentRequestsPerCaller,
		"limits.max_concurrent_streams":             cfg.Limits.MaxConcurrentStreams, "limits.max_connections": cfg.Limits.MaxConnections,
		"limits.max_connections_per_peer": cfg.Limits.MaxConnectionsPerPeer, "limits.max_deadline": int(cfg.Limits.MaxDeadline),
		"limits.shutdown_grace": int(cfg.Limits.ShutdownGrace), "limits.shutdown_delay": int(cfg.Limits.ShutdownDelay),
	} {
		if value < 0 {
			add(key, "is negative")
		}
	}
	if _, err := cfg.Log.level(); err != nil {
		add("log.level", "is %q; it must be debug, info, warn or error", cfg.Log.Level)
	}
	cfg.Admin.validate(add)
	cfg.Tracing.validate(add)
	cfg.Process.validate(add)
	if cfg.Log.Format != "json" && cfg.Log.Format != "text" {
		add("log.format", "is %q; it must be json or text", cfg.Log.Format)
	}
	return problems
}

// presents tells add if no peer can have an identity that is listed.
func (cfg *config) presents(listed string, add func(format string, args ...any)) {
	issuer, ok := access.JWTIssuer(listed)
	if ok && (cfg.JWT == nil || !slices.ContainsFunc(cfg.JWT.Issuers, func(i bearer.Issuer) bool { return i.Issuer == issuer })) {
		add("%s needs an issuer %q under jwt.issuers", listed, issuer)
	}
	cfg.Listen.presents(listed, add)
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
		for key, path := range s.Vault.Files() {
			mustRead(add, "store.vault."+key, path)
		}
	}
}

// validateSecrets validates where secrets may come from besides requests.
func (cfg *config) validateSecrets(add func(key, format string, args ...any)) {
	mount := ""
	if cfg.Store.Vault != nil {
		mount = cfg.Store.Vault.Mount
	} else if len(cfg.Secrets.Wrapping.CreationPaths)+len(cfg.Secrets.References) > 0 {
		add("secrets", "is about secrets in Vault and needs store.vault")
	}
	for _, p := range joined(cfg.Secrets.Validate(mount)) {
		key, text, _ := strings.Cut(p.Error(), ": ")
		add("secrets."+key, "%s", text)
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
