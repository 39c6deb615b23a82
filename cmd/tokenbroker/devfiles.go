package main

import (
	"crypto/rand"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/server"
)

// Identities of the development set-up.
const (
	devCaller   = "spiffe://tokenbroker.dev/caller"
	devOperator = "spiffe://tokenbroker.dev/operator"
)

// devFiles is the folder of a development set-up.
type devFiles struct{ dir string }

func (f devFiles) path(name string) string { return filepath.Join(f.dir, name) }

// writeCertificates makes an authority, whose key is thrown away, and certificates
// of the server, a caller and an operator.
func (f devFiles) writeCertificates() error {
	authority, err := devpki.New("tokenbroker development CA")
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.path("ca.pem"), authority.PEM(), 0o644); err != nil {
		return err
	}
	for name, issue := range map[string]func() (certificate, key []byte, err error){
		"server":   func() ([]byte, []byte, error) { return authority.Server("localhost", "127.0.0.1", "::1") },
		"caller":   func() ([]byte, []byte, error) { return authority.Caller(devCaller) },
		"operator": func() ([]byte, []byte, error) { return authority.Caller(devOperator) },
	} {
		certificate, key, err := issue()
		if err != nil {
			return err
		}
		if err := writePrivate(f.path(name+"-key.pem"), key); err != nil {
			return err
		}
		if err := os.WriteFile(f.path(name+".pem"), certificate, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writePrivate writes a file that only its owner may read, also where an older one
// was open to more.
func writePrivate(path string, content []byte) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// writeConfig writes a configuration file that `serve` takes too.
func (f devFiles) writeConfig(address, callback string, once bool) error {
	cfg := map[string]any{
		"listen": map[string]any{
			"address": address, "certificate_file": f.path("server.pem"), "key_file": f.path("server-key.pem"), "client_ca_file": f.path("ca.pem"),
		},
		"callers": []map[string]any{
			{"name": "dev-caller", "identity": devCaller, "role": string(server.RoleCaller)},
			{"name": "dev-operator", "identity": devOperator, "role": string(server.RoleOperator)},
		},
		"store":    map[string]any{"embedded": map[string]any{"file": f.path("store.db"), "key_file": f.path("store.key")}},
		"audit":    map[string]any{"key_file": f.path("audit.key"), "file": map[string]any{"path": f.path("audit.log")}},
		"upstream": map[string]any{"insecure_http_loopback": true},
		"log":      map[string]any{"level": "warn", "format": "text"},
	}
	if callback != "" {
		cfg["authorization"] = map[string]any{
			"callback_url": "http://" + callback + "/authorization/callback", "callback_listen": callback, "insecure_plaintext": true,
		}
	}
	if once { // nobody looks, and many may run at once
		cfg["admin"] = map[string]any{"address": adminOff}
	}
	encoded, err := yaml.Marshal(cfg)
	if err != nil {
		return err
	}
	header := "# Written by `tokenbroker dev` at each start. Not for production: the authorization\n# server is a demonstration and token requests go over plain http on loopback.\n"
	return os.WriteFile(f.path("config.yaml"), append([]byte(header), encoded...), 0o644)
}

// newSecret returns a random client secret with the characters that providers use
// and that naive encodings break.
func newSecret() secret.Value {
	return secret.NewString("s3cr3t~" + rand.Text() + "+/=%")
}
