package broker_test

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

func TestNewNeedsItsParts(t *testing.T) {
	upstream := brokertest.NewUpstream()
	whole := broker.Config{Store: brokertest.NewMemory(), RequestToken: upstream.RequestToken, CheckSecret: checkSecret}
	tests := []struct {
		name string
		edit func(*broker.Config)
	}{
		{"no store", func(c *broker.Config) { c.Store = nil }},
		{"no request token", func(c *broker.Config) { c.RequestToken = nil }},
		{"no check of secrets", func(c *broker.Config) { c.CheckSecret = nil }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := whole
			test.edit(&cfg)
			if b, err := broker.New(cfg); err == nil {
				b.Close()
				t.Error("New succeeded")
			}
		})
	}
}

func TestCreateClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		expire := time.Now().Add(24 * time.Hour).UTC()
		c := f.create(t, "acme", func(n *broker.NewClient) {
			n.Labels = map[string]string{"team": "crm"}
			n.Secret.ExpireTime = expire
		})
		if got, want := c.State(), broker.StateActive; got != want {
			t.Errorf("State = %q, want %q", got, want)
		}
		if len(c.UID) != 26 || c.Etag() != c.UID+"-1" {
			t.Errorf("UID = %q and Etag = %q, want 26 characters and revision 1", c.UID, c.Etag())
		}
		if got, want := c.CreateTime, time.Now().UTC(); !got.Equal(want) || !c.UpdateTime.Equal(want) {
			t.Errorf("CreateTime = %v, UpdateTime = %v, want %v", got, c.UpdateTime, want)
		}
		current, ok := c.Staged(broker.Current)
		if !ok || len(c.Secrets) != 1 || c.NextVersion != 2 {
			t.Fatalf("Secrets = %+v, NextVersion = %d, want one current and 2", c.Secrets, c.NextVersion)
		}
		if current.Number != 1 || !slices.Equal(current.Destinations, []string{origin}) || !current.ExpireTime.Equal(expire) || current.PromoteTime.IsZero() {
			t.Errorf("current = %+v, want version 1, bound to %s, expiring at %v and promoted", current, origin, expire)
		}
		if got, want := f.get(t, "acme"), c; got.Etag() != want.Etag() || got.UID != want.UID || !maps.Equal(got.Labels, want.Labels) {
			t.Errorf("GetClient = %+v, want %+v", got, want)
		}
		if got, want := f.token(t, "acme").SecretVersion, int64(1); got != want {
			t.Errorf("SecretVersion of a token = %d, want %d", got, want)
		}
	})
}

func TestCreateClientWithoutSecret(t *testing.T) {
	f := newFixture(t)
	c := f.create(t, "acme", func(n *broker.NewClient) { n.Secret = broker.SecretInput{} })
	if len(c.Secrets) != 0 || c.NextVersion != 1 {
		t.Errorf("Secrets = %v, NextVersion = %d, want none and 1", c.Secrets, c.NextVersion)
	}
	_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
	wantReason(t, "GetToken", err, broker.ReasonSecretNotSet)
	if got := f.upstream.Count(); got != 0 {
		t.Errorf("%d requests left, want none", got)
	}
	f.stage(t, "acme", password)
	f.promote(t, "acme")
	if got, want := f.token(t, "acme").SecretVersion, int64(1); got != want {
		t.Errorf("SecretVersion = %d, want %d", got, want)
	}
}

func TestCreateClientTwice(t *testing.T) {
	tests := []struct {
		name          string
		first, second string // request ids
		deleted       bool
		want          broker.Reason
	}{
		{"without request id", "", "", false, broker.ReasonClientAlreadyExists},
		{"second with request id", "", "r", false, broker.ReasonClientAlreadyExists},
		{"other request id", "r", "s", false, broker.ReasonClientAlreadyExists},
		{"same request id", "r", "r", false, ""},
		{"deleted keeps its name", "", "", true, broker.ReasonClientAlreadyExists},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			first := f.create(t, "acme", func(n *broker.NewClient) { n.RequestID = test.first })
			if test.deleted {
				if _, err := f.DeleteClient(t.Context(), "acme", ""); err != nil {
					t.Fatalf("DeleteClient: %v", err)
				}
			}
			before := content(t, f.memory)
			n := newClient("acme")
			n.RequestID = test.second
			second, err := f.CreateClient(t.Context(), n)
			wantReason(t, "second CreateClient", err, test.want)
			if err == nil && second.UID != first.UID {
				t.Errorf("UID = %q, want that of the first, %q", second.UID, first.UID)
			}
			if got := content(t, f.memory); got != before {
				t.Errorf("the store changed to\n%s\nfrom\n%s", got, before)
			}
		})
	}
}

// TestCreateClientAtOnce has callers create one client at the same moment; those
// that repeat one request must all get the one client.
func TestCreateClientAtOnce(t *testing.T) {
	for _, requestID := range []string{"", "same"} {
		t.Run("request_id "+requestID, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				// All have found that there is no such client when the first one commits.
				f.store.Always(brokertest.Delay(time.Second), brokertest.On(brokertest.OpWrite, "clients/"))
				const callers = 8
				errs := make([]error, callers)
				var group sync.WaitGroup
				for i := range callers {
					group.Go(func() {
						n := newClient("acme")
						n.RequestID = requestID
						_, errs[i] = f.CreateClient(t.Context(), n)
					})
				}
				group.Wait()
				count := map[broker.Reason]int{}
				for _, err := range errs {
					count[broker.ReasonOf(err)]++
				}
				want := map[broker.Reason]int{"": 1, broker.ReasonClientAlreadyExists: callers - 1}
				if requestID != "" {
					want = map[broker.Reason]int{"": callers}
				}
				if !maps.Equal(count, want) {
					t.Errorf("outcomes = %v, want %v", count, want)
				}
				if got := f.memory.Contains(password); len(got) != 1 {
					t.Errorf("the secret is at %q, want one place: the losers' values are destroyed", got)
				}
			})
		})
	}
}

// TestTheCallerKeepsItsMaps: what a caller does to its maps and lists afterwards
// must not reach the record that all callers share.
func TestTheCallerKeepsItsMaps(t *testing.T) {
	f := newFixture(t)
	labels, parameters, scopes := map[string]string{"a": "1"}, map[string]string{"p": "1"}, []string{"read"}
	created := f.create(t, "acme", func(n *broker.NewClient) {
		n.Labels, n.Upstream.Parameters, n.Upstream.DefaultScopes = labels, parameters, scopes
	})
	updated, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
		c.Labels, c.Upstream.Parameters, c.Upstream.DefaultScopes = labels, parameters, scopes
	}})
	if err != nil {
		t.Fatalf("UpdateClient: %v", err)
	}
	labels["a"], parameters["p"], scopes[0] = "2", "2", "changed"
	for name, c := range map[string]*broker.Client{"created": created, "updated": updated} {
		if c.Labels["a"] != "1" || c.Upstream.Parameters["p"] != "1" || c.Upstream.DefaultScopes[0] != "read" {
			t.Errorf("%s client changed with the caller's maps: %v %v", name, c.Labels, c.Upstream)
		}
	}
}

func TestGetClient(t *testing.T) {
	f := newFixture(t)
	_, err := f.GetClient(t.Context(), "nobody")
	wantReason(t, "GetClient", err, broker.ReasonClientNotFound)
	_, err = f.GetClient(t.Context(), "No/body")
	wantReason(t, "GetClient", err, broker.ReasonInvalidRequest)
}

func TestUpdateClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		created := f.create(t, "acme")
		time.Sleep(time.Minute)
		updated, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Etag: created.Etag(), Edit: func(c *broker.Client) {
			c.Labels = map[string]string{"team": "crm"}
			c.Upstream.DefaultScopes = append(c.Upstream.DefaultScopes, "more")
			c.TokenPolicy.MinValidity = time.Minute
			// None of these is a setting: they are undone.
			c.ID, c.UID, c.NextVersion, c.Disabled, c.MinSecretVersion = "other", "other", 99, true, 99
			c.Secrets[0].Destinations[0], c.Secrets[0].Stage = "https://evil.example", broker.Unlabelled
			c.Secrets, c.DeleteTime, c.CreateTime, c.CreateRequestID = nil, time.Now(), time.Time{}, "other"
		}})
		if err != nil {
			t.Fatalf("UpdateClient: %v", err)
		}
		want := *created
		want.Labels = map[string]string{"team": "crm"}
		want.Upstream.DefaultScopes = []string{"read", "more"}
		want.TokenPolicy.MinValidity = time.Minute
		want.UpdateTime = want.UpdateTime.Add(time.Minute)
		if got, want := describe(t, updated), describe(t, &want); got != want {
			t.Errorf("updated\n%s, want\n%s", got, want)
		}
		if updated.UID != created.UID || updated.Etag() == created.Etag() {
			t.Errorf("UID = %q and Etag = %q, want the UID of %q and another etag", updated.UID, updated.Etag(), created.Etag())
		}
		if got := created.Upstream.DefaultScopes; !slices.Equal(got, []string{"read"}) {
			t.Errorf("the edit reached a client that was handed out before: %v", got)
		}
	})
}

func TestUpdateClientWithSecret(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	f.upstream.Register("client-id-of-acme", "the-next-one")
	c, err := f.UpdateClient(t.Context(), broker.ClientUpdate{
		ID: "acme", Secret: input("the-next-one"),
		Edit: func(c *broker.Client) { c.Upstream.TokenEndpoint = "https://new.example/token" },
	})
	if err != nil {
		t.Fatalf("UpdateClient: %v", err)
	}
	if got, want := stages(c), "1 previous, 2 current"; got != want {
		t.Errorf("stages = %q, want %q", got, want)
	}
	if got := c.Secrets[0].Destinations; !slices.Equal(got, []string{origin}) {
		t.Errorf("the old secret is bound to %v, want it left at %s", got, origin)
	}
	if got := c.Secrets[1].Destinations; !slices.Equal(got, []string{"https://new.example"}) {
		t.Errorf("the new secret is bound to %v, want the new origin", got)
	}
	f.token(t, "acme")
	last := f.sent.all()[0]
	if last.Endpoint != "https://new.example/token" || last.Secret.RevealString() != "the-next-one" {
		t.Errorf("sent %q to %s, want the new secret to the new endpoint", last.Secret.RevealString(), last.Endpoint)
	}
}

func TestUpdateClientErrors(t *testing.T) {
	rename := func(c *broker.Client) { c.Labels = map[string]string{"a": "b"} }
	tests := []struct {
		name    string
		prepare func(t *testing.T, f *fixture)
		update  broker.ClientUpdate
		want    broker.Reason
	}{
		{"unknown", nil, broker.ClientUpdate{ID: "nobody", Edit: rename}, broker.ReasonClientNotFound},
		{"malformed id", nil, broker.ClientUpdate{ID: "..", Edit: rename}, broker.ReasonInvalidRequest},
		{"etag of another client", nil, broker.ClientUpdate{ID: "acme", Etag: "aaaa-1", Edit: rename}, broker.ReasonEtagMismatch},
		{"deleted", func(t *testing.T, f *fixture) { _, _ = f.DeleteClient(t.Context(), "acme", "") }, broker.ClientUpdate{ID: "acme", Edit: rename}, broker.ReasonClientDeleted},
		{"bad settings", nil, broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Upstream.ClientID = "" }}, broker.ReasonInvalidRequest},
		{"bad secret", nil, broker.ClientUpdate{ID: "acme", Edit: rename, Secret: input("a\n")}, broker.ReasonInvalidRequest},
		{"secret that does not fit", nil, broker.ClientUpdate{ID: "acme", Edit: rename, Secret: input("-----BEGIN KEY-----")}, broker.ReasonSecretUnusable},
		{"kept secret that does not fit", nil, broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
			c.Upstream.Authentication.Method = broker.PrivateKeyJWT
		}}, broker.ReasonSecretUnusable},
		{"store unreachable when it is asked whether the kept secret fits", func(_ *testing.T, f *fixture) {
			f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.On(brokertest.OpRead, "secrets/"))
		}, broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
			c.Upstream.Authentication.Method = broker.PrivateKeyJWT
		}}, broker.ReasonStoreUnreachable},
		{"changed meanwhile", func(t *testing.T, f *fixture) {
			f.store.Once(brokertest.Before(func(brokertest.Call) {
				_, _ = f.replica(t).SetDisabled(t.Context(), "acme", true)
			}), brokertest.On(brokertest.OpWrite, "clients/"))
		}, broker.ClientUpdate{ID: "acme", Edit: rename, Secret: input("another-one")}, broker.ReasonConcurrentChange},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			if test.prepare != nil {
				test.prepare(t, f)
			}
			_, err := f.UpdateClient(t.Context(), test.update)
			wantReason(t, "UpdateClient", err, test.want)
			f.store.Heal()
			c := f.get(t, "acme")
			if got, want := stages(c), "1 current"; got != want {
				t.Errorf("stages = %q, want %q", got, want)
			}
			if len(c.Labels) != 0 || c.Upstream.Authentication.Method != broker.ClientSecretBasic {
				t.Errorf("settings were changed to %v %v", c.Labels, c.Upstream.Authentication)
			}
			if got := f.memory.Contains("another-one"); len(got) != 0 {
				t.Errorf("a value that nothing names is left at %q", got)
			}
		})
	}
}

// TestBrokenSecretDoesNotBlockSettings: a secret that is lost cannot be made
// worse by a change of the method, which may be what mends the client.
func TestBrokenSecretDoesNotBlockSettings(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	f.memory.Remove(keyUnder(t, f.memory, "secrets/acme/"), broker.AbsentDestroyed)
	_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
		c.Upstream.Authentication.Method = broker.PrivateKeyJWT
	}})
	wantReason(t, "UpdateClient", err, "")
}

func TestLifeOfAClient(t *testing.T) {
	disable := func(t *testing.T, f *fixture) (*broker.Client, error) {
		return f.SetDisabled(t.Context(), "acme", true)
	}
	enable := func(t *testing.T, f *fixture) (*broker.Client, error) {
		return f.SetDisabled(t.Context(), "acme", false)
	}
	remove := func(t *testing.T, f *fixture) (*broker.Client, error) { return f.DeleteClient(t.Context(), "acme", "") }
	undelete := func(t *testing.T, f *fixture) (*broker.Client, error) { return f.UndeleteClient(t.Context(), "acme") }
	type step struct {
		name      string
		do        func(*testing.T, *fixture) (*broker.Client, error)
		want      broker.State
		wantWrite bool
		wantErr   broker.Reason
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"disable and enable, each twice", []step{
			{"enable", enable, broker.StateActive, false, ""},
			{"disable", disable, broker.StateDisabled, true, ""},
			{"disable", disable, broker.StateDisabled, false, ""},
			{"enable", enable, broker.StateActive, true, ""},
			{"enable", enable, broker.StateActive, false, ""},
		}},
		{"delete and undelete", []step{
			{"undelete", undelete, broker.StateActive, false, broker.ReasonClientNotDeleted},
			{"delete", remove, broker.StateDeleted, true, ""},
			{"delete", remove, broker.StateDeleted, false, ""},
			{"disable", disable, broker.StateDeleted, false, broker.ReasonClientDeleted},
			{"enable", enable, broker.StateDeleted, false, broker.ReasonClientDeleted},
			{"undelete", undelete, broker.StateActive, true, ""},
			{"undelete", undelete, broker.StateActive, false, broker.ReasonClientNotDeleted},
		}},
		{"disabled survives deletion", []step{
			{"disable", disable, broker.StateDisabled, true, ""},
			{"delete", remove, broker.StateDeleted, true, ""},
			{"undelete", undelete, broker.StateDisabled, true, ""},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			for i, s := range test.steps {
				before := f.get(t, "acme").Etag()
				c, err := s.do(t, f)
				if broker.ReasonOf(err) != s.wantErr {
					t.Fatalf("step %d, %s: %v, want %q", i, s.name, err, s.wantErr)
				}
				after := f.get(t, "acme")
				if after.State() != s.want || (after.Etag() != before) != s.wantWrite {
					t.Errorf("step %d, %s: state %q, written %t, want %q, %t", i, s.name, after.State(), after.Etag() != before, s.want, s.wantWrite)
				}
				if err == nil && c.Etag() != after.Etag() {
					t.Errorf("step %d, %s: returned %s, stored %s", i, s.name, c.Etag(), after.Etag())
				}
			}
		})
	}
}

func TestLifeErrors(t *testing.T) {
	f := newFixture(t)
	c := f.create(t, "acme")
	_, err := f.DeleteClient(t.Context(), "acme", c.UID+"-99")
	wantReason(t, "DeleteClient with an old etag", err, broker.ReasonEtagMismatch)
	if !strings.Contains(err.Error(), c.Etag()) {
		t.Errorf("%v does not name the present etag %s", err, c.Etag())
	}
	_, err = f.DeleteClient(t.Context(), "acme", c.Etag())
	wantReason(t, "DeleteClient with the present etag", err, "")
	_, err = f.DeleteClient(t.Context(), "nobody", "")
	wantReason(t, "DeleteClient", err, broker.ReasonClientNotFound)
	_, err = f.UndeleteClient(t.Context(), "nobody")
	wantReason(t, "UndeleteClient", err, broker.ReasonClientNotFound)
	_, err = f.SetDisabled(t.Context(), "nobody", true)
	wantReason(t, "SetDisabled", err, broker.ReasonClientNotFound)
}
