package main

import (
	"fmt"
	"sync"

	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/command/server"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/physical/raft"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// newCore makes Vault's core over the chosen storage, sealed. Token auth, policies, response wrapping and identity are part of it.
func newCore(opts options, address string, logger hclog.Logger) (*vault.Core, error) {
	storage, err := newStorage(opts, logger)
	if err != nil {
		return nil, fmt.Errorf("opening %s storage: %w", opts.storage, err)
	}
	config := &vault.CoreConfig{
		RawConfig: &server.Config{
			SharedConfig: &configutil.SharedConfig{},
			Storage:      &server.Storage{Type: opts.storage},
		},
		Physical:           storage,
		StorageType:        opts.storage,
		Logger:             logger,
		LogLevel:           opts.logLevel,
		DisableMlock:       true, // a test process must not pin 150 MB
		DisableAutopilot:   true, // it tends clusters, and there is one node
		BuiltinRegistry:    noPlugins{},
		LogicalBackends:    map[string]logical.Factory{"kv": kv.Factory, "transit": transit.Factory},
		CredentialBackends: map[string]logical.Factory{
			"approle": approle.Factory, "cert": cert.Factory, "jwt": jwt.Factory, "kubernetes": kubernetes.Factory,
		},
		AuditBackends:      map[string]audit.Factory{"file": audit.NewFileBackend},
		ReloadFuncs:        nil,
		ReloadFuncsLock:    &sync.RWMutex{},
	}
	if ha, ok := storage.(physical.HABackend); ok && ha.HAEnabled() {
		config.HAPhysical = ha
		config.RedirectAddr = address
		config.ClusterAddr = "https://127.0.0.1:0" // Vault puts in the port that it gets
	}
	core, err := vault.NewCore(config)
	if err != nil {
		return nil, fmt.Errorf("making the core: %w", err)
	}
	return core, nil
}

// newStorage opens the physical backend.
func newStorage(opts options, logger hclog.Logger) (physical.Backend, error) {
	if opts.storage == "inmem" {
		return inmem.NewInmem(nil, logger.Named("storage.inmem"))
	}
	return raft.NewRaftBackend(map[string]string{
		"path":    opts.dir,
		"node_id": "tests",
		// The tightest timing there is: a lone node waits this long for a leader that cannot exist before it elects itself, at
		// every unseal, and the default of 5 is made for slow networks.
		"performance_multiplier": "1",
	}, logger.Named("storage.raft"))
}

// listenerLimits are the limits that Vault's own server puts on a listener that is configured with an address alone.
func listenerLimits(address string) *configutil.Listener {
	return &configutil.Listener{
		Type:                           "tcp",
		Address:                        address,
		MaxRequestSize:                 vaulthttp.DefaultMaxRequestSize,
		MaxRequestDuration:             vault.DefaultMaxRequestDuration,
		CustomMaxJSONDepth:             vaulthttp.CustomMaxJSONDepth,
		CustomMaxJSONStringValueLength: vaulthttp.CustomMaxJSONStringValueLength,
		CustomMaxJSONObjectEntryCount:  vaulthttp.CustomMaxJSONObjectEntryCount,
		CustomMaxJSONArrayElementCount: vaulthttp.CustomMaxJSONArrayElementCount,
	}
}

// noPlugins is a plugin registry without plugins: every engine that there is was given to the core directly.
type noPlugins struct{}

func (noPlugins) Contains(string, consts.PluginType) bool { return false }

func (noPlugins) Get(string, consts.PluginType) (func() (any, error), bool) { return nil, false }

func (noPlugins) Keys(consts.PluginType) []string { return nil }

func (noPlugins) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Unknown, false
}

func (noPlugins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
