package vault_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/vault"
)

// TestPolicyLacks takes one capability after the other out of the printed policy.
func TestPolicyLacks(t *testing.T) {
	read := func(t *testing.T, s *vault.Store) error { _, err := s.Read(t.Context(), "clients/a"); return err }
	create := func(t *testing.T, s *vault.Store) error {
		_, err := s.Write(t.Context(), "clients/b", object(1), 0)
		return err
	}
	update := func(t *testing.T, s *vault.Store) error {
		_, err := s.Write(t.Context(), "clients/a", object(1), 1)
		return err
	}
	destroy := func(t *testing.T, s *vault.Store) error { return s.Destroy(t.Context(), "clients/a") }
	list := func(t *testing.T, s *vault.Store) error { _, err := s.List(t.Context(), "clients/"); return err }
	absent := func(t *testing.T, s *vault.Store) error { _, err := s.Read(t.Context(), "secrets/a/u-1"); return err }

	tests := []struct {
		name string
		old  string // of the policy
		new  string
		call func(t *testing.T, s *vault.Store) error
		want string // MOUNT and BELOW are replaced
	}{
		{"read", `"create", "read", "update"`, `"create", "update"`, read, "path MOUNT/data/BELOW/clients/a lacks read"},
		{"create", `"create", "read", "update"`, `"read", "update"`, create, "path MOUNT/data/BELOW/clients/b lacks create"},
		{"update", `"create", "read", "update"`, `"create", "read"`, update, "path MOUNT/data/BELOW/clients/a lacks update"},
		{"list", `"list", "read"`, `"read"`, list, "path MOUNT/metadata/BELOW/clients/ lacks list"},
		{"metadata of what is to be destroyed", `"list", "read"`, `"list"`, destroy, "path MOUNT/metadata/BELOW/clients/a lacks read"},
		{"metadata of what is absent", `"list", "read"`, `"list"`, absent, "path MOUNT/metadata/BELOW/secrets/a/u-1 lacks read"},
		{"destroy", `/destroy/`, `/nothing/`, destroy, "path MOUNT/destroy/BELOW/clients/a lacks update"},
		{"data altogether", `/data/`, `/nothing/`, read, "path MOUNT/data/BELOW/clients/a lacks read"},
		{"another prefix", `BELOW`, `elsewhere`, read, "path MOUNT/data/BELOW/clients/a lacks read"},
		{"a parameter", `capabilities = ["create", "read", "update"]`, `capabilities = ["create", "read", "update"]
		  denied_parameters = { "options" = [] }`, update, "path MOUNT/data/BELOW/clients/a: denied although the policy grants update"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCorner(t)
			fill := strings.NewReplacer("MOUNT", c.mount, "BELOW", c.prefix)
			store := start(t, c.config)
			mustWrite(t, store, "clients/a", object(1), 0)
			changed := strings.Replace(c.policy(), fill.Replace(test.old), test.new, -1)
			if changed == c.policy() {
				t.Fatalf("the policy has no %q", test.old)
			}
			c.PutPolicy(c.role, changed)
			wantReason(t, test.name, test.call(t, store), broker.ReasonStorePermissionDenied, fill.Replace(test.want))
			c.PutPolicy(c.role, c.policy())
			if _, err := store.Read(t.Context(), "clients/a"); err != nil {
				t.Errorf("Read after the policy was mended: %v", err)
			}
		})
	}
}

// TestNoCapabilitiesSelf has a token that may not ask what it may not.
func TestNoCapabilitiesSelf(t *testing.T) {
	c := newCorner(t)
	store := start(t, c.config)
	mustWrite(t, store, "clients/a", object(1), 0)
	c.PutPolicy(c.role, strings.NewReplacer(`/capabilities-self`, `/nothing`, `"read", "update"`, `"update"`).Replace(c.policy()))
	_, err := store.Read(t.Context(), "clients/a")
	wantReason(t, "Read", err, broker.ReasonStorePermissionDenied, c.path("data", "clients/a"), "capabilities-self does not say")
}

// TestPreflightLacks takes away what the preflight needs; it recovers by itself.
func TestPreflightLacks(t *testing.T) {
	tests := []struct {
		name string
		old  string
		want string
	}{
		{"config of the mount", "/config", "/config lacks read"},
		{"lookup-self", "/lookup-self", "path auth/token/lookup-self lacks read"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCorner(t)
			c.PutPolicy(c.role, strings.Replace(c.policy(), test.old, "/nothing", 1))
			store := start(t, c.config)
			wantAll(t, store, broker.ReasonStorePermissionDenied, test.want)
			c.PutPolicy(c.role, c.policy())
			within(t, 10*time.Second, "after the policy was mended", func() error {
				_, err := store.List(t.Context(), "")
				return err
			})
		})
	}
}
