package realvault

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

// Addr returns the URL of the API, as VAULT_ADDR has it. It stays the same over Restart.
func (s *Server) Addr() string { return s.address }

// RootToken returns a token that may do everything.
func (s *Server) RootToken() string { return s.token }

// CAFile returns the PEM file that a client of a server with TLS must trust, and "" without TLS.
func (s *Server) CAFile() string { return s.caFile }

// KV returns the name of the KV v2 mount that was made at the start: DefaultKV, what WithKV named, or, on the environment's server, a name
// of its own. Tests on a shared server use NewKV instead.
func (s *Server) KV() string { return s.kv }

// AuditLog returns the file that the audit device writes: one JSON object per line, secrets hashed.
func (s *Server) AuditLog() string {
	s.t.Helper()
	s.ours("AuditLog")
	return s.auditLog
}

// Output returns the last lines that the server printed.
func (s *Server) Output() string { return s.output() }

// Do sends a request with the root token, e.g. Do("GET", "sys/mounts", nil), and returns the status and the decoded answer, which is
// nil for an empty one. A nil body sends none. It ends the test only if there is no answer at all.
func (s *Server) Do(method, path string, body any) (status int, answer map[string]any) {
	s.t.Helper()
	return s.DoAs(s.token, method, path, body)
}

// DoAs is Do with another token; with "" it sends none.
func (s *Server) DoAs(token, method, path string, body any) (status int, answer map[string]any) {
	s.t.Helper()
	status, answer, err := s.do(token, method, path, body)
	if err != nil {
		s.t.Fatalf("asking Vault: %v", err)
	}
	return status, answer
}

// MountKV mounts a KV engine of version 1 or 2 and waits until it takes requests. It is unmounted when the test ends.
func (s *Server) MountKV(name string, version int) {
	s.t.Helper()
	s.must("", s.mountKV(name, version))
	if t, ok := s.t.(testing.TB); ok {
		t.Cleanup(func() {
			// The test may have killed or sealed its server: there is nothing to tidy up then.
			_, _, _ = s.send(s.token, "DELETE", "sys/mounts/"+name, nil)
		})
	}
}

// NewKV is MountKV with version 2 and a name that no other test has, which it returns.
func (s *Server) NewKV() string {
	s.t.Helper()
	name := uniqueMount()
	s.MountKV(name, 2)
	return name
}

// PutPolicy writes an ACL policy in HCL.
func (s *Server) PutPolicy(name, hcl string) {
	s.t.Helper()
	s.must("writing the policy "+name, s.call("PUT", "sys/policies/acl/"+url.PathEscape(name), map[string]any{"policy": hcl}, nil))
}

// AppRole makes a role with these policies and returns what it takes to log in, turning the auth method at auth/approle on if need be.
// The role's other settings can be changed with Do("POST", "auth/approle/role/…").
func (s *Server) AppRole(name string, policies ...string) (roleID, secretID string) {
	s.t.Helper()
	// Two tests may turn it on at once; the loser's 400 says that the path is in use, which is what both want.
	if status, _ := s.Do("GET", "sys/auth/approle/tune", nil); status != http.StatusOK {
		s.Do("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	}
	role := "auth/approle/role/" + url.PathEscape(name)
	s.must("making the role "+name, s.call("POST", role, map[string]any{"token_policies": policies}, nil))
	var id struct {
		Data struct {
			RoleID string `json:"role_id"`
		}
	}
	s.must("reading the role_id of "+name, s.call("GET", role+"/role-id", nil, &id))
	var secret struct {
		Data struct {
			SecretID string `json:"secret_id"`
		}
	}
	s.must("making a secret_id of "+name, s.call("POST", role+"/secret-id", map[string]any{}, &secret))
	return id.Data.RoleID, secret.Data.SecretID
}

// Seal seals the server over its API, as an operator does in an emergency.
func (s *Server) Seal() {
	s.t.Helper()
	s.own("Seal")
	s.must("sealing Vault", s.call("PUT", "sys/seal", map[string]any{}, nil))
}

// Unseal unseals the server and waits until it is active.
func (s *Server) Unseal() {
	s.t.Helper()
	s.own("Unseal")
	s.must("", s.unseal())
}

// Stop kills the server with SIGKILL: connections break, nothing is flushed.
func (s *Server) Stop() {
	s.t.Helper()
	s.own("Stop")
	s.process.Kill()
}

// Restart starts a stopped server on the same data and address, unseals it and waits until it is active.
func (s *Server) Restart() {
	s.t.Helper()
	s.RestartSealed()
	s.Unseal()
}

// RestartSealed starts a stopped server on the same data and address and leaves it sealed, as it is until an operator comes.
func (s *Server) RestartSealed() {
	s.t.Helper()
	s.own("Restart")
	if s.inMem {
		s.t.Fatalf("restarting Vault: an InMemory server has lost its data; use Raft storage, the default")
	}
	s.process.Kill()
	s.must("restarting Vault", s.launch())
}

// own ends the test unless the server is this test's alone.
func (s *Server) own(what string) {
	s.t.Helper()
	if s.shared {
		s.t.Fatalf("realvault: %s would hit the other tests of a Shared server; use Start", what)
	}
	s.ours(what)
}

// ours skips the test if the server is the environment's, which we neither stop nor look into.
func (s *Server) ours(what string) {
	s.t.Helper()
	if !s.external {
		return
	}
	if t, ok := s.t.(testing.TB); ok {
		t.Skipf("realvault: %s needs a server of our own; unset TOKENBROKER_TEST_VAULT_ADDR to run this test", what)
	}
	s.t.Fatalf("realvault: %s needs a server of our own; unset TOKENBROKER_TEST_VAULT_ADDR", what)
}

// must ends the test if there is an error.
func (s *Server) must(doing string, err error) {
	s.t.Helper()
	if err == nil {
		return
	}
	if doing != "" {
		err = fmt.Errorf("%s: %w", doing, err)
	}
	s.t.Fatalf("%v", err)
}
