package broker_test

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

var sealed = regexp.MustCompile(`"(sealed|key_id|granted_to)": "[^"]*"`)

// TestTheRecordOfAGrant notices a change of what is stored: here of a grant that was
// refreshed, and whose last refresh has no answer.
func TestTheRecordOfAGrant(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		month := 30 * 24 * time.Hour
		answer := w.upstream.Consent("alice")
		answer.RefreshExpiresIn = &month
		if _, err := p.StoreGranted(t.Context(), users, "alice", answer, "", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		w.upstream.Script(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.RefreshExpiresIn = &month }})
		p.tokenOf(t, "alice")
		time.Sleep(time.Hour)
		w.upstream.Script(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamTimeout}})
		_, _, err := p.GetToken(t.Context(), of("alice"))
		wantReason(t, "GetToken", err, broker.ReasonRefreshAnswerLost)
		key := keyUnder(t, w.memory, "grants/")
		golden(t, "grant.golden.json", sealed.ReplaceAllString(maskRandom(indented(t, recordOf(t, w.memory, key))), `"$1": "<masked>"`))
	})
}

// TestDamagedGrants: each has its reason, nothing is sent, and nothing is written over.
func TestDamagedGrants(t *testing.T) {
	damages := append([]damage{
		{"of another client", replaced(`"uid":"`, `"uid":"x`), "", ""},
		{"sealed for nobody", replaced(`"sealed":"`, `"sealed":"AAAA`), "", ""},
	}, headerDamages...)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
				w.consent(t, p, "alice")
				key := keyUnder(t, w.memory, "grants/")
				w.memory.Put(key, d.change(recordOf(t, w.memory, key)))
				version := keyVersion(t, p.fixture, key)
				_, _, err := w.process(t).GetToken(t.Context(), of("alice"))
				if reason := string(broker.ReasonOf(err)); !strings.HasPrefix(reason, "RECORD_") {
					t.Errorf("GetToken: %v", err)
				}
				if got := keyVersion(t, p.fixture, key); got != version || w.refreshes() > 0 {
					t.Errorf("the record was written over, or sent: version %d, was %d; %d requests", got, version, w.refreshes())
				}
			})
		})
	}
}

// TestAGrantOfAnotherSubject that was copied to one's own record does not open.
func TestAGrantOfAnotherSubject(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		w.consent(t, p, "alice")
		alices := keyUnder(t, w.memory, "grants/")
		w.consent(t, p, "bob")
		for _, key := range keysUnder(w.memory, "grants/") {
			if key != alices {
				w.memory.Put(key, recordOf(t, w.memory, alices))
			}
		}
		_, _, err := w.process(t).GetToken(t.Context(), of("bob"))
		wantReason(t, "bob", err, broker.ReasonRecordCorrupt)
	})
}

// TestKeysOfEarlierReleases: what earlier releases kept tokens under is the same still.
func TestKeysOfEarlierReleases(t *testing.T) {
	u := broker.Upstream{
		TokenEndpoint: endpoint, ClientID: acmeID, Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
		Parameters: map[string]string{"tenant": "a&b"},
	}
	if got, want := broker.SettingsHash(u), "6ab72cc926435f7c007cc787"; got != want {
		t.Errorf("the hash of settings is %s, want %s", got, want)
	}
	if got, want := broker.TokenPath("uid", u, "read", "aud-1", "https://api.example/a"), "tokens/uid/e61a0e0597b287eea2ead442e8945b85"; got != want {
		t.Errorf("the token lies at %s, want %s", got, want)
	}
}

// TestPurgedGrants go with their client; one that came late is swept, and those of
// clients that are there stay whatever their state.
func TestPurgedGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGrantWorld(rotating())
		p := w.process(t)
		p.createUsers(t)
		w.consent(t, p, "alice")
		late := recordOf(t, w.memory, keyUnder(t, w.memory, "grants/"))
		c, err := p.DeleteClient(t.Context(), users, "")
		wantReason(t, "DeleteClient", err, "")
		if got := len(keysUnder(w.memory, "grants/")); got != 1 {
			t.Fatalf("%d grants of a client that can be undeleted, want 1", got)
		}
		wantReason(t, "PurgeClient", p.PurgeClient(t.Context(), broker.Purge{ID: users, Confirm: c.UID}), "")
		if got := grantsIn(t, w.memory); len(got) != 0 {
			t.Errorf("a purge leaves %q", got)
		}
		p.createUsers(t) // over the tombstone
		w.consent(t, p, "alice")
		w.memory.Put("grants/"+c.UID+"/late", late)
		ended := w.upstream.Consent("bob")
		wantReason(t, "StoreGranted", func() error {
			_, err := p.StoreGranted(t.Context(), users, "bob", ended, "", "")
			return err
		}(), "")
		w.upstream.WithdrawConsent("bob")
		time.Sleep(time.Hour)
		_, _, err = p.GetToken(t.Context(), of("bob"))
		wantReason(t, "bob", err, broker.ReasonRefreshTokenRejected)
		p.run(t)
		time.Sleep(80 * time.Hour)
		if got := grantsIn(t, w.memory); len(got) != 2 || strings.Contains(strings.Join(got, " "), c.UID) {
			t.Errorf("left %q, want those of the present client", got)
		}
	})
}

// grantsIn are the keys of the grants that were not destroyed.
func grantsIn(t *testing.T, m *brokertest.Memory) []string {
	t.Helper()
	return slices.DeleteFunc(keysUnder(m, "grants/"), func(key string) bool {
		_, err := m.Read(t.Context(), key)
		return err != nil
	})
}

// TestAWatchOfASubject gets each new token of that subject and none of another.
func TestAWatchOfASubject(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		w.consent(t, p, "alice")
		w.consent(t, p, "bob")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		got := 0
		for token, err := range p.Watch(ctx, of("alice")) {
			if err != nil || !strings.HasPrefix(token.Access.RevealString(), "token-of-alice-") {
				t.Fatalf("got %+v, %v", token, err)
			}
			got++
			p.tokenOf(t, "bob")
		}
		if got < 6 || got > 9 {
			t.Errorf("%d tokens in an hour, want one about each eight minutes", got)
		}
	})
}
