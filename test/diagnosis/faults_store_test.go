package diagnosis_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/realvault"
	"github.com/tokenbroker/tokenbroker/vault"
)

// storeFault is a row about a store that is a real Vault.
type storeFault struct {
	name string
	// own has a Vault of its own, which may be sealed and stopped.
	own bool
	// before is done to the mount before the broker starts; after, when the client is
	// registered and the broker has used its store. With before nothing is registered.
	before func(*mount)
	after  func(*mount, *scene)
	want   verdict
}

func storeFaultName(f storeFault) string { return f.name }

// show injects a fault and judges what the check says of it.
func (f storeFault) show(t *testing.T, count *tally) {
	right, server := false, (*realvault.Server)(nil)
	if f.own {
		server = realvault.Start(t, realvault.InMemory())
	} else {
		server = realvault.Shared(t)
	}
	defer func() { count.fault(right && !t.Failed()) }()
	name := server.KV()
	if !f.own {
		name = server.NewKV()
	}
	m := newMount(t, server, name)
	if f.before != nil {
		f.before(m)
	}
	scene := newScene(t, m.newVaultSite())
	scene.unregistered = f.before != nil
	scene.register()
	if f.after != nil {
		scene.run(secrets) // it is healthy
		f.after(m, scene)
	}
	report := scene.run(secrets)
	problem := f.want.check(report)
	if right = problem == ""; !right {
		t.Errorf("%s\n%s", problem, report.GetReportText())
	}
}

// answeredBy has the store's requests end at a server of the test's own.
func answeredBy(handler http.HandlerFunc) func(*mount) {
	return func(m *mount) {
		origin := serve(m.t, handler, listening{plain: true})
		m.config.Address = "http" + strings.TrimPrefix(origin, "https")
	}
}

var storeFaults = []storeFault{
	{
		name: "nobody listens at its address", before: func(m *mount) { m.config.Address = "http" + strings.TrimPrefix(unused(m.t), "https") },
		want: proven(broker.StageStoreReachable, broker.ReasonStoreUnreachable, "no connection"),
	},
	{
		name: "its name does not exist", before: func(m *mount) { m.config.Address = "https://vault.nowhere.test:8200" },
		want: proven(broker.StageStoreReachable, broker.ReasonStoreUnreachable, "the host name does not resolve"),
	},
	{
		name: "its certificate is of an unknown authority",
		before: func(m *mount) {
			m.config.Address = serve(m.t, fixed(200, "application/json", "{}"), listening{signer: stranger})
		},
		want: proven(broker.StageStoreReachable, broker.ReasonStoreUnreachable, "its certificate is not accepted"),
	},
	{
		name: "it never answers", before: func(m *mount) {
			m.config.Address, m.config.Timeout = "http"+strings.TrimPrefix(silent(m.t, ""), "https"), 2*time.Second
		},
		want: proven(broker.StageStoreReachable, broker.ReasonStoreUnreachable, "no answer in time"),
	},
	{
		name: "a gateway before it reaches nobody", before: answeredBy(fixed(502, "text/html", "<html>"+canary)),
		want: proven(broker.StageStoreReachable, broker.ReasonStoreUnreachable, "502 by something in front of Vault"),
	},
	{
		name: "a standby that redirects", before: answeredBy(redirecting(http.StatusTemporaryRedirect, "https://active.vault.test/"+canary)),
		want: proven(broker.StageStoreReachable, broker.ReasonStoreStandby, "a redirect, as a standby sends"),
	},
	{
		name: "a standby without an active node", before: answeredBy(fixed(500, "application/json", `{"errors":["local node not active but active cluster node not found"]}`)),
		want: proven(broker.StageStoreReachable, broker.ReasonStoreStandby, "knows no active node"),
	},
	{
		name: "it was stopped", own: true, after: func(m *mount, _ *scene) { m.Stop() },
		want: proven(broker.StageStoreReachable, broker.ReasonStoreUnreachable),
	},
	{
		name: "it was sealed", own: true, after: func(m *mount, _ *scene) { m.Seal() },
		want: proven(broker.StageStoreUnsealed, broker.ReasonStoreSealed, "sealed"),
	},
	{
		name: "it limits our rate", own: true,
		after: func(m *mount, s *scene) {
			m.root("POST", "sys/quotas/rate-limit/catalogue", map[string]any{"path": m.name, "rate": 0.001, "interval": "600s"})
			m.Do("GET", m.path("data", "meta"), nil) // the one that it lets through
		},
		want: proven(broker.StageStoreReachable, broker.ReasonStoreRateLimited, "a rate limit quota refused it"),
	},
	{
		name: "the secret_id is wrong", before: func(m *mount) { m.file("secret-id", "00000000-0000-4000-8000-000000000000") },
		want: proven(broker.StageStoreAuthenticated, broker.ReasonStoreLoginFailed, "secret id"),
	},
	{
		name: "the login's role is gone", before: func(m *mount) { m.root("DELETE", "auth/approle/role/"+m.policy, nil) },
		want: proven(broker.StageStoreAuthenticated, broker.ReasonStoreLoginFailed, "role"),
	},
	{
		name: "the login's credential file is gone", before: func(m *mount) { m.config.AppRole.SecretIDFile += ".gone" },
		want: proven(broker.StageStoreAuthenticated, broker.ReasonStoreLoginFailed, "secret-id.gone"),
	},
	{
		name: "its token was revoked", before: func(m *mount) {
			status, answer := m.Do("POST", "auth/token/create", map[string]any{"policies": []string{m.policy}, "no_default_policy": true})
			auth, _ := answer["auth"].(map[string]any)
			token, _ := auth["client_token"].(string)
			if status != http.StatusOK || token == "" {
				m.t.Fatalf("create a token: status %d", status)
			}
			m.config.AppRole = vault.AppRole{}
			m.config.TokenFile = m.file("token", token)
			m.root("POST", "auth/token/revoke", map[string]any{"token": token})
		},
		want: proven(broker.StageStoreAuthenticated, broker.ReasonStoreTokenDead),
	},
	{
		name: "the mount is missing", before: func(m *mount) { m.root("DELETE", "sys/mounts/"+m.name, nil) },
		want: proven(broker.StageStoreUsable, broker.ReasonStoreMountMissing),
	},
	{
		name: "the mount was taken away", after: func(m *mount, _ *scene) { m.root("DELETE", "sys/mounts/"+m.name, nil) },
		want: proven(broker.StageStoreUsable, broker.ReasonStoreMountMissing, "nothing is mounted there"),
	},
	{
		name: "the mount is KV version 1", before: func(m *mount) {
			m.root("DELETE", "sys/mounts/"+m.name, nil)
			m.MountKV(m.name, 1)
		},
		want: proven(broker.StageStoreUsable, broker.ReasonStoreNotKV2, "is KV version 1"),
	},
	{
		name: "the mount is another engine", before: func(m *mount) {
			m.root("DELETE", "sys/mounts/"+m.name, nil)
			m.root("POST", "sys/mounts/"+m.name, map[string]any{"type": "transit"})
		},
		want: proven(broker.StageStoreUsable, broker.ReasonStoreNotKV2, "is of type transit"),
	},
	{
		name: "the mount deletes versions after a time", before: func(m *mount) {
			m.root("POST", m.name+"/config", map[string]any{"delete_version_after": "720h"})
		},
		want: proven(broker.StageStoreUsable, broker.ReasonStoreExpiresRecords, "delete_version_after of mount", "720h"),
	},
	{
		name: "the prefix holds somebody else's data", before: func(m *mount) { m.write("wordpress", map[string]any{"password": canary}) },
		want: proven(broker.StageStoreUsable, broker.ReasonStoreForeignData, "wordpress"),
	},
	{
		name: "the broker's own record is another product's", before: func(m *mount) { m.write("meta", map[string]any{"name": "inventory"}) },
		want: proven(broker.StageStoreUsable, broker.ReasonStoreForeignData, "meta"),
	},
	{
		name: "the policy denies the clients", after: func(m *mount, _ *scene) { m.deny("/data/" + prefix + "/") },
		want: proven(broker.StageStorePermitted, broker.ReasonStorePermissionDenied, "/data/"+prefix+"/clients/", "lacks read"),
	},
	{
		name: "the policy is empty", after: func(m *mount, _ *scene) { m.allow("# nothing\n") },
		want: proven(broker.StageStorePermitted, broker.ReasonStorePermissionDenied, "lookup-self"),
	},
	{
		name: "the policy denies this client's secrets", after: func(m *mount, s *scene) {
			m.allow(vault.Policy(m.name, prefix) + "\npath \"" + m.path("data", "secrets/"+s.id()+"/*") + "\" { capabilities = [\"deny\"] }\n")
		},
		want: proven(broker.StageSecretPresent, broker.ReasonStorePermissionDenied, "/data/"+prefix+"/secrets/", "lacks read"),
	},
	{
		name: "the client's record was deleted by hand", after: func(m *mount, s *scene) { m.root("DELETE", m.path("data", s.recordKey()), nil) },
		want: proven(broker.StageIndex, broker.ReasonRecordDeleted, "clients/"),
	},
	{
		name: "the client's record was destroyed by hand", after: func(m *mount, s *scene) {
			m.root("POST", m.path("destroy", s.recordKey()), map[string]any{"versions": []int{1}})
		},
		want: proven(broker.StageIndex, broker.ReasonRecordDestroyed, "clients/"),
	},
	{
		name: "the client's record was removed with its history", after: func(m *mount, s *scene) { m.root("DELETE", m.path("metadata", s.recordKey()), nil) },
		want: proven(broker.StageIndex, broker.ReasonClientNotFound),
	},
	{
		name: "the client's record was written by hand as a form", after: func(m *mount, s *scene) {
			m.write(s.recordKey(), map[string]any{"client_id": "app", "client_secret": canary})
		},
		want: proven(broker.StageIndex, broker.ReasonRecordFieldMissing, "has no field schema"),
	},
	{
		name: "the secret was deleted by hand", after: func(m *mount, s *scene) { m.root("DELETE", m.path("data", s.secretKey(1)), nil) },
		want: proven(broker.StageSecretPresent, broker.ReasonSecretDeleted, "version 1 at secrets/", "deleted at "),
	},
	{
		name: "the secret was destroyed by hand", after: func(m *mount, s *scene) {
			m.root("POST", m.path("destroy", s.secretKey(1)), map[string]any{"versions": []int{1}})
		},
		want: proven(broker.StageSecretPresent, broker.ReasonSecretDestroyed, "version 1 at secrets/"),
	},
	{
		name: "the secret was removed with its history", after: func(m *mount, s *scene) { m.root("DELETE", m.path("metadata", s.secretKey(1)), nil) },
		want: proven(broker.StageSecretPresent, broker.ReasonSecretAbsent, "never existed"),
	},
	{
		name: "the secret was pushed out by later versions", after: func(m *mount, s *scene) {
			key := s.secretKey(1)
			m.root("POST", m.path("metadata", key), map[string]any{"max_versions": 2})
			for range 3 {
				m.write(key, m.read(key))
			}
		},
		want: proven(broker.StageSecretPresent, broker.ReasonSecretPruned, "pruned"),
	},
	{
		name: "the secret was replaced by hand, history and all", after: func(m *mount, s *scene) {
			fields := m.read(s.secretKey(1))
			fields["value"] = newSecret()
			m.anew(s.secretKey(1), fields)
		},
		want: proven(broker.StageSecretIntact, broker.ReasonSecretChangedOutside, "the fingerprint differs"),
	},
	{
		name: "a secret was written over ours by hand", after: func(m *mount, s *scene) {
			fields := m.read(s.secretKey(1))
			fields["value"] = newSecret()
			m.write(s.secretKey(1), fields)
		},
		want: warned(broker.StageSecretIntact, broker.ReasonSecretChangedOutside, "wrote another value over secrets/"),
	},
	{
		name: "the secret lies under another field", after: func(m *mount, s *scene) {
			m.anew(s.secretKey(1), map[string]any{"client_secret": s.value})
		},
		want: proven(broker.StageSecretIntact, broker.ReasonRecordFieldMissing, "has no field schema"),
	},
	{
		name: "the value that is referred to is gone", after: func(m *mount, s *scene) {
			m.refer(s)
			m.root("DELETE", m.name+"-owner/metadata/app", nil)
			m.site(s)
		},
		want: proven(broker.StageSecretPresent, broker.ReasonReferenceUnreadable),
	},
	{
		name: "the field that is referred to is gone", after: func(m *mount, s *scene) {
			m.refer(s)
			m.root("DELETE", m.name+"-owner/metadata/app", nil)
			m.root("POST", m.name+"-owner/data/app", map[string]any{"data": map[string]any{"passwort": s.value}})
			m.site(s)
		},
		want: proven(broker.StageSecretPresent, broker.ReasonReferenceUnreadable, "client_secret"),
	},
	{
		name: "the policy does not let us read where is referred to", after: func(m *mount, s *scene) {
			m.refer(s)
			m.allow(vault.Policy(m.name, prefix))
			m.site(s)
		},
		want: proven(broker.StageSecretPresent, broker.ReasonReferenceUnreadable),
	},
	{
		name: "the configuration allows the place no more", after: func(m *mount, s *scene) {
			m.refer(s)
			store := openVault(m.t, m.config)
			s.site = newSite(m.t, store, settings{broker: func(cfg *broker.Config) {
				cfg.References = store.References([]vault.Place{{Mount: "elsewhere"}})
			}})
		},
		want: proven(broker.StageSecretPresent, broker.ReasonReferenceNotAllowed),
	},
}

// refer makes another client, whose secret its owner keeps elsewhere in Vault, and has the
// scene be about it.
func (m *mount) refer(s *scene) {
	m.t.Helper()
	m.MountKV(m.name+"-owner", 2)
	m.root("POST", m.name+"-owner/data/app", map[string]any{"data": map[string]any{"client_secret": s.value}})
	name := "clients/ref-" + s.id()
	s.message.Name, s.check.Client = name, name
	s.secret = &pb.SecretInput{Value: &pb.SecretInput_Reference{Reference: &pb.SecretReference{
		Mount: m.name + "-owner", Path: "app", Field: "client_secret",
	}}}
	s.register()
	s.run(secrets)
}

// site has a replica that has just started make the check.
func (m *mount) site(s *scene) {
	m.t.Helper()
	s.site = m.newVaultSite()
}
