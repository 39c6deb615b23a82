package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/vault"
)

const (
	mount    = "tokenbroker"
	initFile = "vault-init.json"
)

type vaultCommand struct {
	folder
	Address string        `help:"Vault's address." default:"https://vault:8200"`
	Wait    time.Duration `help:"How long to wait for Vault to answer." default:"1m"`
}

// keys is what Vault's initialisation yields and later starts need.
type keys struct {
	UnsealKeys []string `json:"keys_base64"`
	RootToken  string   `json:"root_token"`
}

// setup speaks to Vault's API as root. Setting up twice changes nothing.
type setup struct {
	address string
	token   string
	http    *http.Client
}

// Run sets Vault up.
func (c *vaultCommand) Run(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	pem, err := os.ReadFile(c.path("ca.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	s := &setup{address: c.Address, http: &http.Client{Transport: transport, Timeout: 10 * time.Second}}
	opened, err := c.open(ctx, s, log)
	if err != nil {
		return err
	}
	s.token = opened.RootToken
	if err := c.configure(ctx, s); err != nil {
		return err
	}
	log.Info("vault is ready", "mount", mount)
	return nil
}

// open initialises Vault if it is new, and unseals it.
func (c *vaultCommand) open(ctx context.Context, s *setup, log *slog.Logger) (keys, error) {
	var status struct {
		Initialized bool `json:"initialized"`
		Sealed      bool `json:"sealed"`
	}
	for {
		err := s.call(ctx, http.MethodGet, "sys/seal-status", nil, &status)
		if err == nil {
			break
		}
		log.Info("waiting for vault", "cause", err)
		select {
		case <-ctx.Done():
			return keys{}, fmt.Errorf("vault does not answer: %w", err)
		case <-time.After(time.Second):
		}
	}
	var opened keys
	if !status.Initialized {
		if err := s.call(ctx, http.MethodPut, "sys/init", map[string]int{"secret_shares": 1, "secret_threshold": 1}, &opened); err != nil {
			return keys{}, err
		}
		encoded, err := json.Marshal(opened)
		if err != nil {
			return keys{}, err
		}
		if err := os.WriteFile(c.path(initFile), encoded, 0o600); err != nil {
			return keys{}, err
		}
	} else {
		encoded, err := os.ReadFile(c.path(initFile))
		if err != nil {
			return keys{}, fmt.Errorf("vault was initialised by somebody else: %w", err)
		}
		if err := json.Unmarshal(encoded, &opened); err != nil {
			return keys{}, err
		}
	}
	for _, key := range opened.UnsealKeys {
		if err := s.call(ctx, http.MethodPut, "sys/unseal", map[string]string{"key": key}, nil); err != nil {
			return keys{}, err
		}
	}
	return opened, s.waitActive(ctx)
}

// waitActive waits until the node leads: right after unsealing it is a standby.
func (s *setup) waitActive(ctx context.Context) error {
	for {
		err := s.call(ctx, http.MethodGet, "sys/health", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// configure mounts, writes the printed policy, and makes the broker's AppRole.
func (c *vaultCommand) configure(ctx context.Context, s *setup) error {
	var mounts map[string]json.RawMessage
	if err := s.call(ctx, http.MethodGet, "sys/mounts", nil, &mounts); err != nil {
		return err
	}
	var methods map[string]json.RawMessage
	if err := s.call(ctx, http.MethodGet, "sys/auth", nil, &methods); err != nil {
		return err
	}
	type step struct {
		path string
		body any
	}
	var steps []step
	if mounts[mount+"/"] == nil {
		steps = append(steps, step{"sys/mounts/" + mount, map[string]any{"type": "kv", "options": map[string]string{"version": "2"}}})
	}
	if methods["approle/"] == nil {
		steps = append(steps, step{"sys/auth/approle", map[string]string{"type": "approle"}})
	}
	steps = append(steps,
		step{"sys/policies/acl/tokenbroker", map[string]string{"policy": vault.Policy(mount, "")}},
		step{"auth/approle/role/tokenbroker", map[string]any{"token_policies": "tokenbroker", "token_ttl": "20m", "token_max_ttl": "4h"}})
	for _, step := range steps {
		if err := s.call(ctx, http.MethodPost, step.path, step.body, nil); err != nil {
			return err
		}
	}
	var role struct {
		Data struct {
			RoleID string `json:"role_id"`
		} `json:"data"`
	}
	if err := s.call(ctx, http.MethodGet, "auth/approle/role/tokenbroker/role-id", nil, &role); err != nil {
		return err
	}
	var issued struct {
		Data struct {
			SecretID string `json:"secret_id"`
		} `json:"data"`
	}
	if err := s.call(ctx, http.MethodPost, "auth/approle/role/tokenbroker/secret-id", struct{}{}, &issued); err != nil {
		return err
	}
	if err := c.write("role-id", []byte(role.Data.RoleID)); err != nil {
		return err
	}
	return c.write("secret-id", []byte(issued.Data.SecretID))
}

// call sends one request to Vault. Its errors hold no body but Vault's own list of
// errors.
func (s *setup) call(ctx context.Context, method, path string, body, into any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, s.address+"/v1/"+path, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	if s.token != "" {
		request.Header.Set("X-Vault-Token", s.token)
	}
	response, err := s.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		var refused struct {
			Errors []string `json:"errors"`
		}
		_ = json.Unmarshal(content, &refused) // without it the status says enough
		return fmt.Errorf("vault: %s %s: %s %s", method, path, response.Status, strings.Join(refused.Errors, "; "))
	}
	if into == nil || len(content) == 0 {
		return nil
	}
	return json.Unmarshal(content, into)
}
