package broker_test

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func always(*broker.Client) bool { return true }
func never(*broker.Client) bool  { return false }

// TestRetarget: with that permission a client takes its current secret along to
// another origin, as a version of its own; the others stay where they are.
func TestRetarget(t *testing.T) {
	f := keptSecrets(t)
	expire := time.Now().Add(time.Hour).UTC()
	_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{
		ID: "acme", Secret: broker.SecretInput{Value: secret.NewString("secret-that-moves"), ExpireTime: expire}, Edit: func(*broker.Client) {},
	})
	wantReason(t, "UpdateClient with a secret", err, "")
	f.upstream.Register("client-id-of-acme", "secret-that-moves")
	move := func(c *broker.Client) { c.Upstream.TokenEndpoint = "https://new.example/token" }

	before := content(t, f.memory)
	for name, may := range map[string]func(*broker.Client) bool{"nobody asked": nil, "not permitted": never} {
		_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: move, MayRetarget: may})
		wantReason(t, "UpdateClient, "+name, err, broker.ReasonDestinationNotBound)
	}
	if got := content(t, f.memory); got != before {
		t.Errorf("the store changed to\n%s", got)
	}

	var asked *broker.Client
	c, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: move, MayRetarget: func(present *broker.Client) bool {
		asked = present
		return true
	}})
	wantReason(t, "UpdateClient", err, "")
	if asked == nil || asked.Upstream.TokenEndpoint != endpoint {
		t.Errorf("permission was asked for %+v, want the client as it is", asked)
	}
	if got, want := stages(c), "1 unlabelled, 2 unlabelled, 3 pending, 4 previous, 5 current"; got != want {
		t.Errorf("stages = %q, want %q", got, want)
	}
	for _, v := range c.Secrets {
		want := []string{origin}
		if v.Stage == broker.Current {
			want = []string{"https://new.example"}
			if !v.ExpireTime.Equal(expire) {
				t.Errorf("ExpireTime = %v, want that of the secret that moved, %v", v.ExpireTime, expire)
			}
		}
		if !slices.Equal(v.Destinations, want) {
			t.Errorf("version %d is bound to %v, want %v", v.Number, v.Destinations, want)
		}
	}
	f.token(t, "acme")
	if last := f.sent.all()[len(f.sent.all())-1]; last.Secret.RevealString() != "secret-that-moves" || last.Endpoint != "https://new.example/token" {
		t.Errorf("sent %q to %s", last.Secret.RevealString(), last.Endpoint)
	}
	useAll(t, f)
	wantSecretsAtHome(t, f)
	wantSound(t, f.memory, "acme")
}

// TestRetargetRefused: what the permission does not stretch to.
func TestRetargetRefused(t *testing.T) {
	move := func(c *broker.Client) { c.Upstream.TokenEndpoint = "https://new.example/token" }
	tests := []struct {
		name    string
		prepare func(t *testing.T, f *fixture)
		edit    func(*broker.Client)
		want    broker.Reason
	}{
		{"bad settings", nil, func(c *broker.Client) { c.Upstream.TokenEndpoint = "https://as.example@evil.example/" }, broker.ReasonInvalidRequest},
		{"secret that does not fit the new method", nil, func(c *broker.Client) {
			move(c)
			c.Upstream.Authentication.Method = broker.PrivateKeyJWT
		}, broker.ReasonSecretUnusable},
		{"secret that was changed in the store", func(t *testing.T, f *fixture) {
			key := keyUnder(t, f.memory, "secrets/")
			f.memory.Put(key, replaced(password, "canary")(recordOf(t, f.memory, key)))
		}, move, broker.ReasonSecretChangedOutside},
		{"secret that is gone", func(t *testing.T, f *fixture) {
			f.memory.Remove(keyUnder(t, f.memory, "secrets/"), broker.AbsentDestroyed)
		}, move, broker.ReasonSecretDestroyed},
		{"store that is away", func(_ *testing.T, f *fixture) {
			f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.On(brokertest.OpRead, "secrets/"))
		}, move, broker.ReasonStoreUnreachable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			if test.prepare != nil {
				test.prepare(t, f)
			}
			before := content(t, f.memory)
			_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: test.edit, MayRetarget: always})
			wantReason(t, "UpdateClient", err, test.want)
			if got := content(t, f.memory); got != before {
				t.Errorf("the store changed to\n%s", got)
			}
		})
	}
}

// TestRetargetWithOnlyAPendingSecret: there is nothing that could be taken along.
func TestRetargetWithOnlyAPendingSecret(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme", func(n *broker.NewClient) { n.Secret = broker.SecretInput{} })
	f.stage(t, "acme", "next-secret")
	_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", MayRetarget: always, Edit: func(c *broker.Client) {
		c.Upstream.TokenEndpoint = "https://new.example/token"
	}})
	wantReason(t, "UpdateClient", err, broker.ReasonDestinationNotBound)
	if got, want := stages(f.get(t, "acme")), "1 pending"; got != want {
		t.Errorf("stages = %q, want %q", got, want)
	}
}

// TestAPendingSecretThatStayedBehind: a client moved with a new secret while
// another one was pending for the old origin. That one can go nowhere, but it does
// not stand in the way of what has nothing to do with it.
func TestAPendingSecretThatStayedBehind(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	f.stage(t, "acme", pendingSecret)
	edit := func(name string, may func(*broker.Client) bool, edit func(*broker.Client)) {
		t.Helper()
		before := stages(f.get(t, "acme"))
		_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", MayRetarget: may, Edit: edit})
		wantReason(t, name, err, "")
		if got := stages(f.get(t, "acme")); got != before {
			t.Errorf("%s: stages = %q, want %q", name, got, before)
		}
	}
	_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Secret: input("of-the-new-one"), Edit: func(c *broker.Client) {
		c.Upstream.TokenEndpoint = "https://new.example/token"
	}})
	wantReason(t, "UpdateClient with a secret", err, "")
	edit("a label", nil, func(c *broker.Client) { c.Labels = map[string]string{"a": "b"} })
	edit("a label, by one who may retarget", always, func(c *broker.Client) { c.Labels = map[string]string{"a": "c"} })
	edit("another path", nil, func(c *broker.Client) { c.Upstream.TokenEndpoint = "https://new.example/v2/token" })
	_, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
		c.Upstream.TokenEndpoint = "https://evil.example/token"
	}})
	wantReason(t, "UpdateClient to a third origin", err, broker.ReasonDestinationNotBound)
	_, err = f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true})
	wantReason(t, "PromoteSecret", err, broker.ReasonDestinationNotBound)
}

// TestUpdateCheck is asked about what is and what would be, before anything is written.
func TestUpdateCheck(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme", func(n *broker.NewClient) { n.Labels = map[string]string{"team": "a"} })
	before := content(t, f.memory)
	refusal := errors.New("not yours")
	update := broker.ClientUpdate{ID: "acme", Secret: input("a-new-one"), Edit: func(c *broker.Client) { c.Labels = map[string]string{"team": "b"} }}
	update.Check = func(present, changed *broker.Client) error {
		if present.Labels["team"] != "a" || changed.Labels["team"] != "b" {
			t.Errorf("asked about %v and %v", present.Labels, changed.Labels)
		}
		return refusal
	}
	if _, err := f.UpdateClient(t.Context(), update); !errors.Is(err, refusal) {
		t.Errorf("UpdateClient: %v, want %v", err, refusal)
	}
	if got := content(t, f.memory); got != before {
		t.Errorf("the store changed to\n%s", got)
	}
	update.Check = func(*broker.Client, *broker.Client) error { return nil }
	if c, err := f.UpdateClient(t.Context(), update); err != nil || c.Labels["team"] != "b" {
		t.Errorf("UpdateClient = %+v, %v", c, err)
	}
}

func TestLabels(t *testing.T) {
	f := newFixture(t)
	want := map[string]string{"team": "crm"}
	for _, id := range []string{"acme", "deleted", "damaged"} {
		f.create(t, id, func(n *broker.NewClient) { n.Labels = want })
	}
	if _, err := f.DeleteClient(t.Context(), "deleted", ""); err != nil {
		t.Fatalf("DeleteClient: %v", err)
	}
	f.memory.Put("clients/"+shard("damaged")+"/damaged", `{"schema":9}`)
	b := f.replica(t)
	for id, want := range map[string]map[string]string{"acme": want, "deleted": want, "damaged": nil, "nobody": nil} {
		for range 2 {
			if got, err := b.Labels(t.Context(), id); err != nil || !maps.Equal(got, want) {
				t.Errorf("Labels(%q) = %v, %v, want %v", id, got, err, want)
			}
		}
	}
	b.store.Always(brokertest.Fail(broker.ReasonStoreSealed), brokertest.Any)
	if got, err := b.Labels(t.Context(), "acme"); err != nil || !maps.Equal(got, want) {
		t.Errorf("Labels from memory = %v, %v, want %v", got, err, want)
	}
	_, err := b.Labels(t.Context(), "nobody")
	wantReason(t, "Labels with the store down", err, broker.ReasonStoreSealed)
}

func TestSoonestSecretExpiry(t *testing.T) {
	f := newFixture(t)
	if got := f.SoonestSecretExpiry(); !got.IsZero() {
		t.Errorf("of nobody = %v, want none", got)
	}
	now := time.Now().UTC()
	for id, expire := range map[string]time.Time{
		"none": {}, "late": now.Add(3 * time.Hour), "soon": now.Add(2 * time.Hour), "disabled": now.Add(time.Hour), "deleted": now.Add(time.Minute),
	} {
		f.create(t, id, func(n *broker.NewClient) { n.Secret.ExpireTime = expire })
	}
	_, err := f.StageSecret(t.Context(), "late", broker.SecretInput{Value: secret.NewString("pending-one"), ExpireTime: now}, "")
	wantReason(t, "StageSecret", err, "")
	_, err = f.SetDisabled(t.Context(), "disabled", true)
	wantReason(t, "SetDisabled", err, "")
	_, err = f.DeleteClient(t.Context(), "deleted", "")
	wantReason(t, "DeleteClient", err, "")
	if got, want := f.SoonestSecretExpiry(), now.Add(2*time.Hour); !got.Equal(want) {
		t.Errorf("SoonestSecretExpiry = %v, want that of the active client's current secret, %v", got, want)
	}
}
