package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// folder is where all services of the demonstration meet.
type folder struct {
	Dir string `arg:"" help:"Folder shared by all containers." type:"path"`
}

func (f folder) path(name string) string { return filepath.Join(f.Dir, name) }

// write writes a file that every container may read; see the package comment.
func (f folder) write(name string, content []byte) error {
	return os.WriteFile(f.path(name), content, 0o644)
}

type filesCommand struct{ folder }

// vaultConfig is Vault's own configuration.
const vaultConfig = `storage "raft" {
  path    = "/vault/file"
  node_id = "vault"
}
listener "tcp" {
  address       = "0.0.0.0:8200"
  tls_cert_file = "/data/vault.pem"
  tls_key_file  = "/data/vault-key.pem"
}
api_addr      = "https://vault:8200"
cluster_addr  = "https://vault:8201"
disable_mlock = true
`

// brokerConfig is the broker's configuration.
const brokerConfig = `listen:
  address: 0.0.0.0:7443
  certificate_file: /data/broker.pem
  key_file: /data/broker-key.pem
  client_ca_file: /data/ca.pem
callers:
  - {name: caller, identity: "spiffe://compose/caller", role: caller}
  - {name: operator, identity: "spiffe://compose/operator", role: operator}
store:
  vault:
    address: https://vault:8200
    ca_file: /data/ca.pem
    approle:
      role_id_file: /data/role-id
      secret_id_file: /data/secret-id
audit:
  key_file: /data/audit/audit.key
  file: {path: /data/audit/audit.log, max_bytes: 104857600}
upstream:
  ca_file: /data/ca.pem
  # The authorization server of the demonstration is in a container network.
  allowed_addresses: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16]
`

const (
	clientIDFile = "client-id"
	secretFile   = "client-secret"
	requestFile  = "create-client.json"
	// auditFolder is the one place that the broker writes to.
	auditFolder = "audit"
)

// Run writes everything that is not there yet.
func (c *filesCommand) Run(log *slog.Logger) error {
	if err := os.MkdirAll(c.path(auditFolder), 0o755); err != nil {
		return err
	}
	// The broker's user writes there; Docker may have made the folder for root.
	if err := os.Chmod(c.path(auditFolder), 0o777); err != nil {
		return err
	}
	if _, err := os.Stat(c.path(requestFile)); err == nil {
		log.Info("files are there already", "folder", c.Dir)
		return nil
	}
	authority, err := devpki.New("tokenbroker compose CA")
	if err != nil {
		return err
	}
	for name, issue := range map[string]func() (certificate, key []byte, err error){
		"vault": func() ([]byte, []byte, error) { return authority.Server("vault", "localhost", "127.0.0.1") },
		"authorization": func() ([]byte, []byte, error) {
			return authority.Server("authorization-server", "localhost", "127.0.0.1")
		},
		"broker":   func() ([]byte, []byte, error) { return authority.Server("tokenbroker", "localhost", "127.0.0.1") },
		"caller":   func() ([]byte, []byte, error) { return authority.Caller("spiffe://compose/caller") },
		"operator": func() ([]byte, []byte, error) { return authority.Caller("spiffe://compose/operator") },
	} {
		certificate, key, err := issue()
		if err != nil {
			return err
		}
		if err := c.write(name+".pem", certificate); err != nil {
			return err
		}
		if err := c.write(name+"-key.pem", key); err != nil {
			return err
		}
	}
	value := rand.Text()
	request := fmt.Sprintf(`{
  "client": {
    "name": "clients/acme-crm",
    "tokenEndpoint": "https://authorization-server:8443%s",
    "clientId": "acme",
    "authenticationMethod": "AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC",
    "defaultScopes": ["contacts.read"]
  },
  "secret": {"clientSecret": %q}
}
`, authserver.TokenPath, value)
	// The request comes last: its presence says that all is there.
	for _, file := range []struct{ name, content string }{
		{"ca.pem", string(authority.PEM())},
		{"vault.hcl", vaultConfig},
		{"tokenbroker.yaml", brokerConfig},
		{clientIDFile, "acme"},
		{secretFile, value},
		{requestFile, request},
	} {
		if err := c.write(file.name, []byte(file.content)); err != nil {
			return err
		}
	}
	log.Info("files written", "folder", c.Dir)
	return nil
}

type authorizationServerCommand struct {
	folder
	Address string `help:"Address to listen on." default:"0.0.0.0:8443"`
}

// Run serves until ctx ends.
func (c *authorizationServerCommand) Run(ctx context.Context, log *slog.Logger) error {
	certificate, err := tls.LoadX509KeyPair(c.path("authorization.pem"), c.path("authorization-key.pem"))
	if err != nil {
		return err
	}
	id, err := os.ReadFile(c.path(clientIDFile))
	if err != nil {
		return err
	}
	value, err := os.ReadFile(c.path(secretFile))
	if err != nil {
		return err
	}
	server, err := authserver.New(authserver.Config{
		Issuer: "https://authorization-server:8443", TokenLifetime: time.Hour, Logger: log,
		Clients: []authserver.Client{{ID: strings.TrimSpace(string(id)), Secrets: []secret.Value{secret.New(value)}, Scopes: []string{"contacts.read"}}},
	})
	if err != nil {
		return err
	}
	// authserver.Start keeps to loopback; a container's network is not.
	listening := &http.Server{
		Addr: c.Address, Handler: server, ReadHeaderTimeout: 5 * time.Second,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}},
	}
	stop := context.AfterFunc(ctx, func() { _ = listening.Close() })
	defer stop()
	if err := listening.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
