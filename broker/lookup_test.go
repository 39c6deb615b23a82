package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// check runs a check and makes sure of what holds for every report.
func (f *fixture) check(t *testing.T, id string, depth broker.LookupDepth) broker.LookupReport {
	t.Helper()
	before := content(t, f.memory)
	report, err := f.CheckLookup(t.Context(), broker.LookupCheck{ClientID: id, Depth: depth, Permitted: broker.DepthAPI})
	if err != nil {
		t.Fatalf("CheckLookup: %v", err)
	}
	var names []string
	failed := false
	for _, s := range report.Stages {
		names = append(names, s.Name)
		if failed != (s.Outcome == broker.OutcomeSkipped) && !(depth == broker.DepthIndex && s.Outcome == broker.OutcomeSkipped) {
			t.Errorf("%s %s: what lies behind a failure is skipped, and nothing else", s.Name, s.Outcome)
		}
		failed = failed || s.Outcome == broker.OutcomeFailed
		wantReasonFor := s.Outcome == broker.OutcomeFailed || s.Outcome == broker.OutcomeWarned
		if (s.Reason != "") != wantReasonFor || s.Remedy != remedyOf(s.Reason) {
			t.Errorf("%s %s has reason %q and remedy %q", s.Name, s.Outcome, s.Reason, s.Remedy)
		}
		for _, evidence := range s.Evidence {
			if strings.Contains(evidence, password) || strings.Contains(evidence, "canary") {
				t.Errorf("%s shows a secret: %s", s.Name, evidence)
			}
		}
	}
	if want := shallowStages(); !slices.Equal(names, want) {
		t.Errorf("stages = %q, want %q", names, want)
	}
	if got := content(t, f.memory); got != before {
		t.Errorf("the check changed the store to\n%s", got)
	}
	if got := len(f.sent.all()); got != 0 {
		t.Errorf("the check sent %d requests", got)
	}
	return report
}

// shallowStages are the stages of a check for nobody down to the secret.
func shallowStages() []string {
	var names []string
	for _, stage := range broker.LookupStages() {
		if stage.Depth <= broker.DepthSecret && stage.Name != broker.StageCaller {
			names = append(names, stage.Name)
		}
	}
	return names
}

func remedyOf(r broker.Reason) string {
	if r == "" {
		return ""
	}
	return r.Info().Remedy
}

// text is a report as a person might read it.
func text(report broker.LookupReport) string {
	var b strings.Builder
	for _, s := range report.Stages {
		fmt.Fprintf(&b, "%-19s %s", s.Name, s.Outcome)
		if s.Reason != "" {
			fmt.Fprintf(&b, " %s", s.Reason)
		}
		fmt.Fprintln(&b)
		for _, evidence := range s.Evidence {
			fmt.Fprintf(&b, "    %s\n", evidence)
		}
		if s.Remedy != "" {
			fmt.Fprintf(&b, "    remedy: %s\n", s.Remedy)
		}
	}
	return b.String()
}

func TestCheckLookupOfAHealthyClient(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	for _, depth := range []broker.LookupDepth{broker.DepthIndex, broker.DepthSecret} {
		report := f.check(t, "acme", depth)
		if cause, failed := report.RootCause(); failed {
			t.Errorf("RootCause = %+v, want none", cause)
		}
		for _, s := range report.Stages {
			want := broker.OutcomePassed
			if depth == broker.DepthIndex && slices.Index(shallowStages(), s.Name) > slices.Index(shallowStages(), broker.StageSettings) {
				want = broker.OutcomeSkipped
			}
			if s.Outcome != want {
				t.Errorf("depth %d: %s %s, want %s", depth, s.Name, s.Outcome, want)
			}
		}
	}
}

func TestCheckLookupGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		expire := time.Now().Add(time.Hour)
		c := f.create(t, "acme", func(n *broker.NewClient) { n.Secret.ExpireTime = expire })
		time.Sleep(2 * time.Hour)
		f.stage(t, "acme", "next-secret")
		f.memory.Remove("secrets/acme/"+c.UID+"-2", broker.AbsentDeleted)
		mask := func(report broker.LookupReport) string {
			return maskRandom(strings.ReplaceAll(text(report), c.UID, "<uid>"))
		}
		golden(t, "lookup-warned.golden.txt", mask(f.check(t, "acme", broker.DepthSecret)))
		f.memory.Remove("secrets/acme/"+c.UID+"-1", broker.AbsentDestroyed)
		golden(t, "lookup-failed.golden.txt", mask(f.check(t, "acme", broker.DepthSecret)))
	})
}

// TestCheckLookupOfTheStore: each thing that can be wrong with the store is blamed
// on its own link, whichever call meets it first.
func TestCheckLookupOfTheStore(t *testing.T) {
	stages := map[broker.Reason]string{
		broker.ReasonStoreUnreachable: broker.StageStoreReachable, broker.ReasonStoreStandby: broker.StageStoreReachable,
		broker.ReasonStoreRateLimited: broker.StageStoreReachable, broker.ReasonStoreFailed: broker.StageStoreReachable,
		broker.ReasonStoreLocked: broker.StageStoreReachable, broker.ReasonStoreSealed: broker.StageStoreUnsealed,
		broker.ReasonStoreLoginFailed: broker.StageStoreAuthenticated, broker.ReasonStoreTokenDead: broker.StageStoreAuthenticated,
		broker.ReasonStoreKeyWrong: broker.StageStoreAuthenticated, broker.ReasonStoreMountMissing: broker.StageStoreUsable,
		broker.ReasonStoreNotKV2: broker.StageStoreUsable, broker.ReasonStoreExpiresRecords: broker.StageStoreUsable,
		broker.ReasonStoreForeignData: broker.StageStoreUsable, broker.ReasonStoreDamaged: broker.StageStoreUsable,
		broker.ReasonStorePermissionDenied: broker.StageStorePermitted,
	}
	for _, info := range broker.Reasons() {
		if name := string(info.Reason); strings.HasPrefix(name, "STORE_") && stages[info.Reason] == "" &&
			info.Reason != broker.ReasonStoreConflict && info.Reason != broker.ReasonStoreAnswerLost { // these are of writes only
			t.Errorf("%s has no stage in this test", name)
		}
	}
	for reason, stage := range stages {
		t.Run(string(reason), func(t *testing.T) {
			for _, key := range []string{"meta", "clients/"} {
				f := newFixture(t)
				f.create(t, "acme")
				b := f.replica(t)
				b.store.Always(brokertest.Fail(reason), brokertest.On(brokertest.OpRead, key))
				for _, depth := range []broker.LookupDepth{broker.DepthIndex, broker.DepthSecret} {
					cause, _ := b.check(t, "acme", depth).RootCause()
					if cause.Stage != stage || cause.Reason != reason {
						t.Errorf("on %s: %s %s, want %s", key, cause.Stage, cause.Reason, stage)
					}
				}
			}
		})
	}
}

// TestCheckLookupOfAClient: what can be wrong with a client and its secret.
func TestCheckLookupOfAClient(t *testing.T) {
	removeSecret := func(t *testing.T, f *fixture) {
		f.memory.Remove(keysUnder(f.memory, "secrets/acme/")[0], broker.AbsentPruned)
	}
	tests := []struct {
		name   string
		damage func(t *testing.T, f *fixture)
		depth  broker.LookupDepth
		stage  string // "" if nothing fails
		reason broker.Reason
	}{
		{"not registered", func(t *testing.T, f *fixture) {
			f.memory.Remove(keyUnder(t, f.memory, "clients/"), broker.AbsentNeverExisted)
		}, broker.DepthSecret, broker.StageIndex, broker.ReasonClientNotFound},
		{"record deleted", func(t *testing.T, f *fixture) {
			f.memory.Remove(keyUnder(t, f.memory, "clients/"), broker.AbsentDeleted)
		}, broker.DepthIndex, broker.StageIndex, broker.ReasonRecordDeleted},
		{"record corrupt", func(t *testing.T, f *fixture) { f.memory.Put(keyUnder(t, f.memory, "clients/"), `{"canary":1}`) }, broker.DepthIndex, broker.StageIndex, broker.ReasonRecordFieldMissing},
		{"disabled", func(t *testing.T, f *fixture) { _, _ = f.SetDisabled(t.Context(), "acme", true) }, broker.DepthIndex, broker.StageClientState, broker.ReasonClientDisabled},
		{"deleted", func(t *testing.T, f *fixture) { _, _ = f.DeleteClient(t.Context(), "acme", "") }, broker.DepthIndex, broker.StageClientState, broker.ReasonClientDeleted},
		{"secret gone, not looked at", removeSecret, broker.DepthIndex, "", ""},
		{"secret gone", removeSecret, broker.DepthSecret, broker.StageSecretPresent, broker.ReasonSecretPruned},
		{"secret replaced", func(t *testing.T, f *fixture) {
			key := keyUnder(t, f.memory, "secrets/acme/")
			f.memory.Put(key, strings.Replace(recordOf(t, f.memory, key), password, "canary", 1))
		}, broker.DepthSecret, broker.StageSecretIntact, broker.ReasonSecretChangedOutside},
		{"secret denied", func(_ *testing.T, f *fixture) {
			f.store.Always(brokertest.Fail(broker.ReasonStorePermissionDenied), brokertest.On(brokertest.OpRead, "secrets/"))
		}, broker.DepthSecret, broker.StageSecretPresent, broker.ReasonStorePermissionDenied},
		{"store sealed meanwhile", func(_ *testing.T, f *fixture) {
			f.store.Always(brokertest.Fail(broker.ReasonStoreSealed), brokertest.On(brokertest.OpRead, "secrets/"))
		}, broker.DepthSecret, broker.StageSecretPresent, broker.ReasonStoreSealed},
		{"secret does not fit", func(t *testing.T, f *fixture) {
			key := keyUnder(t, f.memory, "clients/")
			f.memory.Put(key, strings.Replace(recordOf(t, f.memory, key), "client_secret_basic", "private_key_jwt", 1))
		}, broker.DepthSecret, broker.StageSecretFit, broker.ReasonSecretUnusable},
		{"endpoint moved in the store", func(t *testing.T, f *fixture) {
			key := keyUnder(t, f.memory, "clients/")
			f.memory.Put(key, strings.Replace(recordOf(t, f.memory, key), "as.example/token", "evil.example/token", 1))
		}, broker.DepthSecret, broker.StageDestination, broker.ReasonDestinationNotBound},
		{"two faults: the first one is the cause", func(t *testing.T, f *fixture) {
			removeSecret(t, f)
			_, _ = f.SetDisabled(t.Context(), "acme", true)
		}, broker.DepthSecret, broker.StageClientState, broker.ReasonClientDisabled},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			test.damage(t, f)
			cause, _ := f.check(t, "acme", test.depth).RootCause()
			if cause.Stage != test.stage || cause.Reason != test.reason {
				t.Errorf("%s %s %q, want %s %s", cause.Stage, cause.Reason, cause.Confidence, test.stage, test.reason)
			}
		})
	}
	t.Run("no secret", func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", func(n *broker.NewClient) { n.Secret = broker.SecretInput{} })
		cause, _ := f.check(t, "acme", broker.DepthSecret).RootCause()
		if cause.Stage != broker.StageSecretPresent || cause.Reason != broker.ReasonSecretNotSet {
			t.Errorf("%s %s, want %s %s", cause.Stage, cause.Reason, broker.StageSecretPresent, broker.ReasonSecretNotSet)
		}
	})
}

// TestCheckLookupSeesTheStore: a check reads what is stored now, not what is in
// memory, and says so of a client whose tokens are still served.
func TestCheckLookupSeesTheStore(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	f.token(t, "acme")
	f.memory.Remove(keyUnder(t, f.memory, "secrets/acme/"), broker.AbsentDestroyed)
	wantRootCause(t, f, "acme", broker.StageSecretPresent, broker.ReasonSecretDestroyed)
	f.token(t, "acme")
}

// TestCheckLookupOfOtherSecrets: a broken pending or previous version warns; what
// nothing uses does not.
func TestCheckLookupOfOtherSecrets(t *testing.T) {
	tests := []struct {
		name   string
		broken []int // versions
		want   []string
	}{
		{"none", nil, nil},
		{"previous", []int{1}, []string{"previous: version 1"}},
		{"pending", []int{4}, []string{"pending: version 4"}},
		{"both", []int{1, 4}, []string{"pending: version 4", "previous: version 1"}},
		{"unlabelled", []int{3}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			c := f.create(t, "acme")
			f.stage(t, "acme", "secret-2")
			if _, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true}); err != nil {
				t.Fatalf("PromoteSecret: %v", err)
			}
			f.stage(t, "acme", "secret-3")
			f.stage(t, "acme", "secret-4")
			for _, n := range test.broken {
				f.memory.Remove(fmt.Sprintf("secrets/acme/%s-%d", c.UID, n), broker.AbsentDestroyed)
			}
			report := f.check(t, "acme", broker.DepthSecret)
			last := report.Stages[len(report.Stages)-1]
			if got := last.Outcome == broker.OutcomeWarned; got != (test.want != nil) || len(last.Evidence) != len(test.want) {
				t.Fatalf("%s %s %q, want %q", last.Name, last.Outcome, last.Evidence, test.want)
			}
			for i, want := range test.want {
				if !strings.HasPrefix(last.Evidence[i], want) {
					t.Errorf("evidence %q, want %q", last.Evidence[i], want)
				}
			}
			if cause, failed := report.RootCause(); failed {
				t.Errorf("RootCause = %+v; a warning is none", cause)
			}
		})
	}
}

// TestCheckLookupWipesTheSecret that it read.
func TestCheckLookupWipesTheSecret(t *testing.T) {
	var seen []secret.Value
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.CheckSecret = func(a broker.Authentication, s secret.Value) error {
			seen = append(seen, s)
			return checkSecret(a, s)
		}
	})
	f.create(t, "acme")
	seen = nil
	f.check(t, "acme", broker.DepthSecret)
	if len(seen) != 1 || seen[0].RevealString() != strings.Repeat("\x00", len(password)) {
		t.Errorf("%d values were read; the secret is still there", len(seen))
	}
}
