package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/realvault"
)

// diagnosed is a server with a client whose token is warm, and how the two calls
// that meet a broken store are judged.
type diagnosed struct {
	*node
	t     *testing.T
	store *vaultStore
	warm  *pb.GetTokenResponse
	asked int // cold tokens asked for so far
}

const (
	warmClient = "clients/warm"
	coldClient = "clients/cold"
)

// newDiagnosed starts a server over store with a warm and a cold client.
func newDiagnosed(t *testing.T, store *vaultStore) *diagnosed {
	t.Helper()
	up := newUpstream(t, firstSecret)
	d := &diagnosed{node: newSite(t, store.config(store.Addr()), up.ca).start(t, program(t)), t: t, store: store}
	for _, name := range []string{warmClient, coldClient} {
		d.create(name, up)
	}
	var err error
	if d.warm, err = d.token(t.Context(), warmClient); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *diagnosed) create(name string, up *upstream) *pb.Client {
	d.t.Helper()
	client := newClient(strings.TrimPrefix(name, "clients/"), up.TokenEndpoint())
	client.AllowedResources = resources()
	created, err := d.operator.clients.CreateClient(d.t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(firstSecret)})
	if err != nil {
		d.t.Fatalf("CreateClient %s: %v", name, err)
	}
	return created.GetClient()
}

// broken demands that both calls name the cause, at the stage, with each of texts
// in the operator's evidence, and that the warm token is served all the same.
func (d *diagnosed) broken(what, reason, stage string, texts ...string) {
	d.t.Helper()
	eventually(d.t, 20*time.Second, what, func() error {
		if err := d.diagnose(coldClient, reason, stage, texts...); err != nil {
			return err
		}
		return hasReason("GetToken of a cold token", d.coldToken(), reason)
	})
	for range 3 {
		got, err := d.token(d.t.Context(), warmClient)
		if err != nil || got.GetTokenId() != d.warm.GetTokenId() {
			d.t.Errorf("%s: the warm token is not served: %v", what, err)
		}
	}
}

// diagnose returns how the report about a client differs from what it should say.
func (d *diagnosed) diagnose(client, reason, stage string, texts ...string) error {
	report, err := d.operator.diagnostics.CheckLookup(d.t.Context(), &pb.CheckLookupRequest{Client: client})
	if err != nil {
		return fmt.Errorf("CheckLookup: %w", err)
	}
	cause := report.GetRootCause()
	if cause.GetReason() != reason || cause.GetStage() != stage {
		return fmt.Errorf("CheckLookup: root cause %s at %s, want %s at %s; stages %v", cause.GetReason(), cause.GetStage(), reason, stage, report.GetStages())
	}
	if reason != "" && (cause.GetRemedy() == "" || cause.GetSummary() == "" || cause.GetRecovery() == pb.Recovery_RECOVERY_UNSPECIFIED) {
		return fmt.Errorf("CheckLookup: the root cause has no remedy, summary or recovery: %v", cause)
	}
	failed := false
	for _, s := range report.GetStages() {
		switch {
		case s.GetOutcome() == pb.StageOutcome_STAGE_OUTCOME_FAILED:
			failed = true
			for _, text := range texts {
				if evidence := strings.Join(s.GetEvidence(), " "); !strings.Contains(evidence, text) {
					return fmt.Errorf("CheckLookup: evidence %q, want %q in it", evidence, text)
				}
			}
		case failed && s.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_SKIPPED:
			return fmt.Errorf("CheckLookup: stage %s is %v after the one that failed", s.GetName(), s.GetOutcome())
		}
	}
	return nil
}

// mended demands that the cold client gets a token without a restart.
func (d *diagnosed) mended(what string) {
	d.t.Helper()
	eventually(d.t, 40*time.Second, "recovery from: "+what, func() error {
		if err := d.diagnose(coldClient, "", ""); err != nil {
			return err
		}
		return d.coldToken()
	})
}

// coldToken asks for a token that no call has asked for before: each call names
// another set of resources.
func (d *diagnosed) coldToken() error {
	d.asked++
	request := &pb.GetTokenRequest{Client: coldClient}
	for i, resource := range resources() {
		if d.asked>>i&1 == 1 {
			request.Resources = append(request.Resources, resource)
		}
	}
	_, err := d.caller.tokens.GetToken(d.t.Context(), request)
	return err
}

// resources are the targets that every client here may ask for: enough for 2^16
// different tokens.
func resources() []string {
	list := make([]string, 16)
	for i := range list {
		list[i] = fmt.Sprintf("https://api-%d.example", i)
	}
	return list
}

// TestVaultAway seals, kills, restarts and unseals a Vault below a running server.
func TestVaultAway(t *testing.T) {
	t.Parallel()
	d := newDiagnosed(t, ownStore(t))

	d.store.Seal()
	d.broken("sealed", "STORE_SEALED", "STORE_UNSEALED")
	_, err := d.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("new", "https://as.example/token"), Secret: secretInput("x")})
	wantReason(t, "CreateClient while sealed", err, "STORE_SEALED")
	d.store.Unseal()

	d.store.Stop()
	d.broken("killed", "STORE_UNREACHABLE", "STORE_REACHABLE", d.store.Addr())
	if code := status.Code(d.coldToken()); code != codes.Unavailable {
		t.Errorf("GetToken without Vault: code %v, want Unavailable", code)
	}
	d.store.RestartSealed()
	d.broken("restarted", "STORE_SEALED", "STORE_UNSEALED")
	d.store.Unseal()
	d.mended("a restart of Vault")

	d.stop(t)
}

// TestStartsWithoutVault starts a server whose Vault is down: it lives, says so, and
// gets well.
func TestStartsWithoutVault(t *testing.T) {
	t.Parallel()
	store := ownStore(t)
	up := newUpstream(t, firstSecret)
	store.Stop()
	n := newSite(t, store.config(store.Addr()), up.ca).launch(t, program(t))
	if cause, err := n.rootCause(t.Context(), coldClient); cause != "STORE_UNREACHABLE" {
		t.Errorf("CheckLookup without Vault = %q, %v; want STORE_UNREACHABLE", cause, err)
	}
	if got := n.healthOf(t, ""); got != "SERVING" {
		t.Errorf("liveness = %s, want SERVING: an outage of Vault must not restart the fleet", got)
	}
	if got := n.healthOf(t, pb.TokenService_ServiceDesc.ServiceName); got != "NOT_SERVING" {
		t.Errorf("readiness = %s, want NOT_SERVING", got)
	}
	store.Restart()
	if err := n.ready(t); err != nil {
		t.Fatal(err)
	}
	d := &diagnosed{node: n, t: t, store: store}
	d.create(coldClient, up)
	d.mended("a start without Vault")
	n.stop(t)
}

// TestLoginLost takes the broker's token away, then its way to get another one.
func TestLoginLost(t *testing.T) {
	t.Parallel()
	d := newDiagnosed(t, ownStore(t, realvault.InMemory()))
	revoke := func() { d.store.must("PUT", "sys/leases/revoke-prefix/auth/approle", map[string]any{}) }

	revoke()
	d.mended("a revoked token") // it logs in again within the call
	if cause, err := d.rootCause(t.Context(), coldClient); cause != "" || err != nil {
		t.Errorf("after the token was revoked: %q, %v; want a new login that nobody notices", cause, err)
	}

	secretIDs := "auth/approle/role/" + d.store.role + "/secret-id"
	d.store.must("POST", secretIDs+"/destroy", map[string]any{"secret_id": d.store.secretID})
	revoke()
	d.broken("secret id destroyed", "STORE_LOGIN_FAILED", "STORE_AUTHENTICATED", "secret id")
	d.store.useSecretID(d.store.must("POST", secretIDs, map[string]any{})["secret_id"].(string))
	d.mended("a new secret id in the file")

	d.store.must("DELETE", "sys/auth/approle", nil)
	d.broken("auth method gone", "STORE_LOGIN_FAILED", "STORE_AUTHENTICATED", "auth/approle/login")
	d.stop(t)
}

// TestPolicyLacks takes one capability after the other out of the policy.
func TestPolicyLacks(t *testing.T) {
	t.Parallel()
	d := newDiagnosed(t, sharedStore(t))
	mount := d.store.mount
	if _, err := d.operator.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: coldClient, Secret: secretInput(secondSecret)}); err != nil {
		t.Fatal(err)
	}
	retire := func() error {
		_, err := d.operator.rotations.RetireSecret(t.Context(), &pb.RetireSecretRequest{Client: coldClient, SecretVersion: 2})
		return err
	}
	tests := []struct {
		name, old, new string
		call           func() error // nil: the lookup of the cold client
		want           string
	}{
		{"read of data", `["create", "read", "update"]`, `["create", "update"]`, nil, "path " + mount + "/data/prod/eu/clients/"},
		{"all of data", mount + "/data/", mount + "/nothing/", nil, "lacks read"},
		{"create", `["create", "read", "update"]`, `["read", "update"]`, func() error {
			_, err := d.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("denied", "https://as.example/token"), Secret: secretInput("x")})
			return err
		}, "lacks create"},
		{"update", `["create", "read", "update"]`, `["create", "read"]`, func() error {
			_, err := d.operator.clients.DisableClient(t.Context(), &pb.DisableClientRequest{Name: coldClient})
			return err
		}, "lacks update"},
		{"destroy", mount + "/destroy/", mount + "/nothing/", retire, "/destroy/prod/eu/secrets/cold/"},
		{"list", `["list", "read"]`, `["read"]`, func() error {
			_, err := d.operator.clients.ListClients(t.Context(), &pb.ListClientsRequest{})
			return err
		}, "lacks list"},
	}
	for _, test := range tests {
		if !strings.Contains(d.store.policy, test.old) {
			t.Fatalf("the printed policy has no %s", test.old)
		}
		d.store.PutPolicy(d.store.role, strings.ReplaceAll(d.store.policy, test.old, test.new))
		if test.call == nil {
			d.broken(test.name, "STORE_PERMISSION_DENIED", "STORE_PERMITTED", test.want)
		} else {
			wantReason(t, test.name, test.call(), "STORE_PERMISSION_DENIED", test.want)
		}
		d.store.PutPolicy(d.store.role, d.store.policy)
		if test.call == nil {
			continue
		}
		if err := within(10*time.Second, test.call); err != nil {
			t.Errorf("%s: after the policy was mended: %v", test.name, err)
		}
	}
	if _, err := d.operator.clients.EnableClient(t.Context(), &pb.EnableClientRequest{Name: coldClient}); err != nil {
		t.Error(err)
	}
	d.mended("a policy that lacked capabilities")
	d.stop(t)
}

// TestUnfitMounts starts servers over mounts that they must refuse.
func TestUnfitMounts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		change       func(*vaultStore)
		reason, text string
	}{
		{"KV version 1", func(v *vaultStore) {
			v.must("DELETE", "sys/mounts/"+v.mount, nil)
			v.must("POST", "sys/mounts/"+v.mount, map[string]any{"type": "kv", "options": map[string]string{"version": "1"}})
		}, "STORE_NOT_KV2", "KV version 1"},
		{"another engine", func(v *vaultStore) {
			v.must("DELETE", "sys/mounts/"+v.mount, nil)
			v.must("POST", "sys/mounts/"+v.mount, map[string]any{"type": "transit"})
		}, "STORE_NOT_KV2", "transit"},
		{"no mount", func(v *vaultStore) { v.must("DELETE", "sys/mounts/"+v.mount, nil) }, "STORE_MOUNT_MISSING", "mount"},
		{"mount that forgets", func(v *vaultStore) {
			v.must("POST", v.mount+"/config", map[string]any{"delete_version_after": "1h"})
		}, "STORE_EXPIRES_RECORDS", "1h0m0s"},
		{"another program's data", func(v *vaultStore) { v.put("passwords/db", map[string]any{"user": "x"}) }, "STORE_FOREIGN_DATA", "passwords/"},
		{"another program's meta", func(v *vaultStore) { v.put("meta", map[string]any{"user": "x"}) }, "STORE_FOREIGN_DATA", "meta"},
		{"newer store", func(v *vaultStore) { v.put("meta", map[string]any{"schema": 99}) }, "RECORD_SCHEMA_NEWER", "schema 99"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			store := sharedStore(t)
			test.change(store)
			before := store.snapshot()
			n := newSite(t, store.config(store.Addr())).launch(t, program(t))
			d := &diagnosed{node: n, t: t, store: store}
			eventually(t, 20*time.Second, test.name, func() error { return d.diagnose(coldClient, test.reason, "STORE_USABLE", test.text) })
			_, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("new", "https://127.0.0.1:1/token"), Secret: secretInput("x")})
			wantReason(t, "CreateClient", err, test.reason, test.text)
			_, err = n.token(t.Context(), coldClient)
			if reason := reasonOf(err); reason != test.reason && reason != "CLIENT_NOT_FOUND" {
				t.Errorf("GetToken: %v, want %s", err, test.reason)
			}
			if after := store.snapshot(); after != before {
				t.Errorf("the store was written to: it was %s, is %s", before, after)
			}
			n.stop(t)
		})
	}
}
