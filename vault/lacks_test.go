package vault_test

import (
	"slices"
	"strings"
	"testing"
)

// TestLacks takes one capability after the other out of the printed policy, before
// anything fails for want of it.
func TestLacks(t *testing.T) {
	c := newCorner(t)
	fill := strings.NewReplacer("MOUNT", c.mount, "BELOW", c.prefix)
	for _, test := range []struct{ name, old, new, want string }{
		{"nothing", "", "", ""},
		{"create", `"create", "read", "update"`, `"read", "update"`, "path MOUNT/data/BELOW/clients/00/policy-check lacks create"},
		{"list", `"list", "read"`, `"read"`, "path MOUNT/metadata/BELOW/clients/00/policy-check lacks list"},
		{"destroy", `/destroy/`, `/nothing/`, "path MOUNT/destroy/BELOW/clients/00/policy-check lacks update"},
		{"wrapping", `sys/wrapping/lookup`, `sys/nothing`, "path sys/wrapping/lookup lacks update"},
		{"asking", `sys/capabilities-self`, `sys/nothing`, "path sys/capabilities-self lacks update"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.PutPolicy(c.role, c.policy())
			store := start(t, c.config)
			if _, err := store.List(t.Context(), "clients/"); err != nil {
				t.Fatal(err)
			}
			changed := c.policy()
			if test.old != "" {
				changed = strings.ReplaceAll(changed, fill.Replace(test.old), test.new)
			}
			c.PutPolicy(c.role, changed)
			t.Cleanup(func() { c.PutPolicy(c.role, c.policy()) })
			got, err := store.Lacks(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			if test.want != "" {
				want = []string{fill.Replace(test.want)}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
