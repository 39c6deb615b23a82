package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// tampering is what somebody with root in Vault did to one client behind the
// broker's back.
type tampering struct {
	name string
	// do is given the client's record and current secret, as keys of the store.
	do            func(v *vaultStore, record, secret string)
	reason, stage string
	evidence      string
	// undo mends it, as the remedy says; nil where a new secret does.
	undo func(v *vaultStore, record, secret string)
	// record says that the record itself is hurt: then no new secret can be staged.
	record bool
}

func tamperings() []tampering {
	versions := func(n ...int) map[string]any { return map[string]any{"versions": n} }
	// edit writes a changed copy of a record over it.
	edit := func(change func(map[string]any)) func(*vaultStore, string, string) {
		return func(v *vaultStore, record, _ string) {
			fields := v.read(record, 0)
			change(fields)
			v.put(record, fields)
		}
	}
	// back rolls a record back to its first version, as an operator would.
	back := func(v *vaultStore, record, _ string) { v.put(record, v.read(record, 1)) }
	return []tampering{
		{
			"secret-deleted", func(v *vaultStore, _, s string) { v.must("DELETE", v.path("data", s), nil) }, "SECRET_DELETED", "SECRET_PRESENT", "deleted at 2",
			func(v *vaultStore, _, s string) { v.must("PUT", v.path("undelete", s), versions(1)) }, false,
		},
		{"secret-destroyed", func(v *vaultStore, _, s string) { v.must("PUT", v.path("destroy", s), versions(1)) }, "SECRET_DESTROYED", "SECRET_PRESENT", "destroyed", nil, false},
		{"secret-metadata-deleted", func(v *vaultStore, _, s string) { v.must("DELETE", v.path("metadata", s), nil) }, "SECRET_ABSENT", "SECRET_PRESENT", "never existed", nil, false},
		{"secret-pushed-out", func(v *vaultStore, _, s string) {
			for range 10 { // Vault keeps 10 by default
				v.put(s, map[string]any{"by": "hand"})
			}
		}, "SECRET_PRUNED", "SECRET_PRESENT", "pruned", nil, false},
		{"secret-replaced", func(v *vaultStore, _, s string) {
			fields := v.read(s, 1)
			fields["value"] = secondSecret
			v.must("DELETE", v.path("metadata", s), nil)
			v.put(s, fields)
		}, "SECRET_CHANGED_OUTSIDE", "SECRET_INTACT", "fingerprint", nil, false},
		{"secret-of-another", func(v *vaultStore, _, s string) {
			fields := v.read(s, 1)
			fields["uid"] = "another"
			v.must("DELETE", v.path("metadata", s), nil)
			v.put(s, fields)
		}, "SECRET_CHANGED_OUTSIDE", "SECRET_INTACT", "fingerprint", nil, false},
		{"secret-corrupt", func(v *vaultStore, _, s string) {
			v.must("DELETE", v.path("metadata", s), nil)
			v.put(s, map[string]any{"schema": 1, "uid": "u", "write_id": "w", "number": "one", "value": 1})
		}, "RECORD_CORRUPT", "SECRET_INTACT", "field", nil, false},
		{"secret-of-the-future", func(v *vaultStore, _, s string) {
			v.must("DELETE", v.path("metadata", s), nil)
			v.put(s, map[string]any{"schema": 2})
		}, "RECORD_SCHEMA_NEWER", "SECRET_INTACT", "schema 2", nil, false},

		{
			"record-deleted", func(v *vaultStore, r, _ string) { v.must("DELETE", v.path("data", r), nil) }, "RECORD_DELETED", "INDEX", "clients/",
			func(v *vaultStore, r, _ string) { v.must("PUT", v.path("undelete", r), versions(1)) }, true,
		},
		{"record-destroyed", func(v *vaultStore, r, _ string) { v.must("PUT", v.path("destroy", r), versions(1)) }, "RECORD_DESTROYED", "INDEX", "clients/", nil, true},
		{"record-gone", func(v *vaultStore, r, _ string) { v.must("DELETE", v.path("metadata", r), nil) }, "CLIENT_NOT_FOUND", "INDEX", "", nil, true},
		{"record-of-the-future", edit(func(f map[string]any) { f["schema"] = 2 }), "RECORD_SCHEMA_NEWER", "INDEX", "schema 2", back, true},
		{"record-without-a-field", edit(func(f map[string]any) { delete(f, "upstream") }), "RECORD_FIELD_MISSING", "INDEX", "upstream", back, true},
		{"record-of-a-wrong-type", edit(func(f map[string]any) { f["next_version"] = "two" }), "RECORD_CORRUPT", "INDEX", "next_version", back, true},
		{"record-of-another", edit(func(f map[string]any) { f["id"] = "another" }), "RECORD_CORRUPT", "INDEX", "another client", back, true},
		{"record-retargeted", edit(func(f map[string]any) {
			f["upstream"].(map[string]any)["token_endpoint"] = "https://evil.example/token"
		}), "DESTINATION_NOT_BOUND", "DESTINATION_BOUND", "evil.example", back, true},
		{"record-without-labels-of-secrets", edit(func(f map[string]any) {
			for _, s := range f["secrets"].([]any) {
				delete(s.(map[string]any), "stage")
			}
		}), "SECRET_NOT_SET", "SECRET_PRESENT", "", back, true},
	}
}

// TestTampering hurts clients in Vault by hand, one after the other. The root cause
// is named, by CheckLookup and GetToken alike; others are served; the remedy mends.
func TestTampering(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	up := newUpstream(t, firstSecret, secondSecret)
	n := newSite(t, store.config(store.Addr()), up.ca).start(t, program(t))
	d := &diagnosed{node: n, t: t, store: store}
	d.create("clients/unhurt", up)
	for _, x := range tamperings() {
		name := "clients/" + x.name
		client := d.create(name, up)
		record, secret := store.clientKey(x.name), fmt.Sprintf("secrets/%s/%s-1", x.name, client.GetUid())
		x.do(store, record, secret)
		if err := d.diagnose(name, x.reason, x.stage, x.evidence); err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
		_, err := n.token(t.Context(), name)
		wantReason(t, x.name, err, x.reason)
		if text := fmt.Sprint(err); strings.Contains(text, store.mount) || strings.Contains(text, "secrets/") {
			t.Errorf("%s: a caller is shown the store's paths: %s", x.name, text)
		}
		switch {
		case x.undo != nil:
			x.undo(store, record, secret)
		case !x.record:
			rotate(t, n, name, secondSecret)
		default:
			continue
		}
		if err := d.diagnose(name, "", ""); err != nil {
			t.Errorf("%s, mended: %v", x.name, err)
		}
		if _, err := n.token(t.Context(), name); err != nil {
			t.Errorf("%s, mended: %v", x.name, err)
		}
	}

	// What was written over a secret is not read, whatever it is.
	over := d.create("clients/overwritten", up)
	store.put(fmt.Sprintf("secrets/overwritten/%s-1", over.GetUid()), map[string]any{"value": "evil"})
	if err := d.diagnose("clients/overwritten", "", ""); err != nil {
		t.Errorf("a secret that was written over: %v", err)
	}
	if _, err := n.token(t.Context(), "clients/overwritten"); err != nil {
		t.Errorf("a secret that was written over: %v", err)
	}
	if _, err := n.token(t.Context(), "clients/unhurt"); err != nil {
		t.Errorf("a client that nobody touched: %v", err)
	}
	// A list shows what can be read, and names what cannot.
	list, err := n.operator.clients.ListClients(t.Context(), &pb.ListClientsRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var unreadable []string
	for _, u := range list.GetUnreadable() {
		unreadable = append(unreadable, u.GetName()+" "+u.GetReason())
	}
	if want := []string{"clients/record-destroyed RECORD_DESTROYED"}; !slices.Equal(unreadable, want) || len(list.GetClients()) != len(tamperings()) {
		t.Errorf("ListClients: %d clients, unreadable %q; want %d and %q", len(list.GetClients()), unreadable, len(tamperings()), want)
	}
	n.stop(t)
}
