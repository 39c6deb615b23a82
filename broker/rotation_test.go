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
)

// TestRotation walks through a rotation and looks at everything on the way.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		first := f.token(t, "acme")

		time.Sleep(time.Minute)
		staged := f.stage(t, "acme", "next-secret")
		if staged.Number != 2 || staged.Stage != broker.Pending || !staged.CreateTime.Equal(time.Now()) || !staged.VerifyTime.IsZero() || !staged.PromoteTime.IsZero() {
			t.Errorf("staged = %+v", staged)
		}
		if !slices.Equal(staged.Destinations, []string{origin}) || !strings.HasPrefix(staged.Fingerprint, "hmac-sha256:") {
			t.Errorf("staged = %+v, want it bound to %s and with a fingerprint", staged, origin)
		}
		if got := f.token(t, "acme"); got != first {
			t.Error("staging took the warm token away")
		}

		time.Sleep(time.Minute)
		verified, warnings, err := f.VerifySecret(t.Context(), "acme", 2)
		if err != nil || len(warnings) != 0 || !verified.VerifyTime.Equal(time.Now()) || verified.Stage != broker.Pending {
			t.Fatalf("VerifySecret = %+v, %v, %v", verified, warnings, err)
		}
		requests := f.upstream.Requests()
		if r := requests[len(requests)-1]; r.Secret.RevealString() != "next-secret" || !slices.Equal(r.Scopes, []string{"read"}) || r.Audience != "aud-1" {
			t.Errorf("verified with %q for %v %s, want the new secret and the defaults", r.Secret.RevealString(), r.Scopes, r.Audience)
		}
		if got := f.token(t, "acme"); got != first {
			t.Error("the token that verified the secret is served")
		}

		time.Sleep(time.Minute)
		c, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", Number: 2})
		if err != nil {
			t.Fatalf("PromoteSecret: %v", err)
		}
		if got, want := stages(c), "1 previous, 2 current"; got != want {
			t.Errorf("stages = %q, want %q", got, want)
		}
		if current, _ := c.Staged(broker.Current); !current.PromoteTime.Equal(time.Now()) {
			t.Errorf("PromoteTime = %v, want now", current.PromoteTime)
		}
		if got := f.token(t, "acme"); got != first {
			t.Error("promoting took the warm token away")
		}

		if err := f.RetireSecret(t.Context(), "acme", 1); err != nil {
			t.Fatalf("RetireSecret: %v", err)
		}
		if got, want := stages(f.get(t, "acme")), "2 current"; got != want {
			t.Errorf("stages = %q, want %q", got, want)
		}
		if got := f.memory.Contains(password); len(got) != 0 {
			t.Errorf("the retired value is still at %q", got)
		}
		f.upstream.Withdraw("client-id-of-acme", password)
		time.Sleep(2 * time.Hour)
		if got, want := f.token(t, "acme").SecretVersion, int64(2); got != want {
			t.Errorf("SecretVersion = %d, want %d", got, want)
		}
	})
}

// TestTransitions does things to a client with the versions 1 previous, 2 current,
// 3 unlabelled, 4 pending and 5 retired, on which all transitions can be tried.
func TestTransitions(t *testing.T) {
	const start = "1 previous, 2 current, 3 unlabelled, 4 pending"
	verify := func(number int64) func(*testing.T, *fixture) error {
		return func(t *testing.T, f *fixture) error {
			_, _, err := f.VerifySecret(t.Context(), "acme", number)
			return err
		}
	}
	promote := func(p broker.Promotion) func(*testing.T, *fixture) error {
		return func(t *testing.T, f *fixture) error {
			p.ClientID = "acme"
			_, err := f.PromoteSecret(t.Context(), p)
			return err
		}
	}
	retire := func(number int64) func(*testing.T, *fixture) error {
		return func(t *testing.T, f *fixture) error { return f.RetireSecret(t.Context(), "acme", number) }
	}
	stage := func(text string) func(*testing.T, *fixture) error {
		return func(t *testing.T, f *fixture) error {
			_, err := f.StageSecret(t.Context(), "acme", input(text), "")
			return err
		}
	}
	both := func(first, second func(*testing.T, *fixture) error) func(*testing.T, *fixture) error {
		return func(t *testing.T, f *fixture) error {
			if err := first(t, f); err != nil {
				return err
			}
			return second(t, f)
		}
	}
	unverified := broker.Promotion{AllowUnverified: true}
	tests := []struct {
		name string
		do   func(*testing.T, *fixture) error
		want broker.Reason
		// stages afterwards; "" is unchanged.
		stages string
	}{
		{"stage", stage("another"), "", "1 previous, 2 current, 3 unlabelled, 4 unlabelled, 6 pending"},
		{"stage the current value", stage("secret-2"), broker.ReasonSecretUnchanged, ""},
		{"stage the previous value", stage(password), "", "1 previous, 2 current, 3 unlabelled, 4 unlabelled, 6 pending"},
		{"stage nothing", stage(""), broker.ReasonInvalidRequest, ""},
		{"stage what does not fit", stage("-----BEGIN KEY-----"), broker.ReasonSecretUnusable, ""},

		{"verify whichever is pending", verify(0), "", start},
		{"verify the pending one", verify(4), "", start},
		{"verify the current one", verify(2), broker.ReasonSecretWrongStage, ""},
		{"verify the previous one", verify(1), broker.ReasonSecretWrongStage, ""},
		{"verify an unlabelled one", verify(3), broker.ReasonSecretWrongStage, ""},
		{"verify a retired one", verify(5), broker.ReasonSecretWrongStage, ""},
		{"verify one that never was", verify(6), broker.ReasonSecretVersionNotFound, ""},
		{"verify a negative one", verify(-1), broker.ReasonSecretVersionNotFound, ""},

		{"promote unverified", promote(broker.Promotion{}), broker.ReasonSecretNotVerified, ""},
		{"promote verified", both(verify(0), promote(broker.Promotion{})), "", "1 unlabelled, 2 previous, 3 unlabelled, 4 current"},
		{"promote verified by number", both(verify(4), promote(broker.Promotion{Number: 4})), "", "1 unlabelled, 2 previous, 3 unlabelled, 4 current"},
		{"promote unverified on purpose", promote(unverified), "", "1 unlabelled, 2 previous, 3 unlabelled, 4 current"},
		{"promote the current one", promote(broker.Promotion{Number: 2}), "", start},
		{"promote the previous one", promote(broker.Promotion{Number: 1, AllowUnverified: true}), broker.ReasonSecretWrongStage, ""},
		{"promote an unlabelled one", promote(broker.Promotion{Number: 3, AllowUnverified: true}), broker.ReasonSecretWrongStage, ""},
		{"promote a retired one", promote(broker.Promotion{Number: 5, AllowUnverified: true}), broker.ReasonSecretWrongStage, ""},
		{"promote one that never was", promote(broker.Promotion{Number: 6, AllowUnverified: true}), broker.ReasonSecretVersionNotFound, ""},
		{"promote a negative one", promote(broker.Promotion{Number: -4, AllowUnverified: true}), broker.ReasonSecretVersionNotFound, ""},
		{"promote twice by number", both(promote(broker.Promotion{Number: 4, AllowUnverified: true}), promote(broker.Promotion{Number: 4})), "", "1 unlabelled, 2 previous, 3 unlabelled, 4 current"},
		{"promote twice whichever is pending", both(promote(unverified), promote(unverified)), broker.ReasonSecretWrongStage, "1 unlabelled, 2 previous, 3 unlabelled, 4 current"},

		{"retire the previous one", retire(1), "", "2 current, 3 unlabelled, 4 pending"},
		{"retire the current one", retire(2), broker.ReasonSecretWrongStage, ""},
		{"retire an unlabelled one", retire(3), "", "1 previous, 2 current, 4 pending"},
		{"retire the pending one", retire(4), "", "1 previous, 2 current, 3 unlabelled"},
		{"retire a retired one", retire(5), "", start},
		{"retire twice", both(retire(1), retire(1)), "", "2 current, 3 unlabelled, 4 pending"},
		{"retire one that never was", retire(6), broker.ReasonSecretVersionNotFound, ""},
		{"retire none", retire(0), broker.ReasonSecretVersionNotFound, ""},
		{"retire a negative one", retire(-1), broker.ReasonSecretVersionNotFound, ""},
		{"verify when nothing is pending", both(retire(4), verify(0)), broker.ReasonSecretWrongStage, "1 previous, 2 current, 3 unlabelled"},
		{"promote when nothing is pending", both(retire(4), promote(unverified)), broker.ReasonSecretWrongStage, "1 previous, 2 current, 3 unlabelled"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			f.stage(t, "acme", "secret-2")
			f.promote(t, "acme")
			f.stage(t, "acme", "secret-3")
			f.stage(t, "acme", "secret-4")
			f.retireFifth(t)
			if got := stages(f.get(t, "acme")); got != start {
				t.Fatalf("stages before = %q, want %q", got, start)
			}
			before := content(t, f.memory)

			err := test.do(t, f)
			wantReason(t, test.name, err, test.want)
			after := test.stages
			if after == "" {
				after = start
				if got := content(t, f.memory); got != before {
					t.Errorf("the store changed to\n%s", got)
				}
			}
			c := f.get(t, "acme")
			if got := stages(c); got != after {
				t.Errorf("stages = %q, want %q", got, after)
			}
			wantSound(t, f.memory, "acme")
		})
	}
}

// retireFifth makes version 5 one that was pending and is retired, and version 4
// pending again: there is no way back but this.
func (f *fixture) retireFifth(t *testing.T) {
	t.Helper()
	key := keyUnder(t, f.memory, "clients/")
	f.stage(t, "acme", "secret-5")
	if err := f.RetireSecret(t.Context(), "acme", 5); err != nil {
		t.Fatalf("RetireSecret: %v", err)
	}
	record := recordOf(t, f.memory, key)
	f.memory.Put(key, strings.Replace(record, `"number":4,`, `"number":4,"stage":"pending",`, 1))
}

func TestRotationOfAClientThatIsNotThere(t *testing.T) {
	f := newFixture(t)
	f.create(t, "gone")
	f.stage(t, "gone", "next-secret")
	if _, err := f.DeleteClient(t.Context(), "gone", ""); err != nil {
		t.Fatalf("DeleteClient: %v", err)
	}
	for id, want := range map[string]broker.Reason{"nobody": broker.ReasonClientNotFound, "gone": broker.ReasonClientDeleted} {
		_, err := f.StageSecret(t.Context(), id, input("a-secret"), "")
		wantReason(t, "StageSecret "+id, err, want)
		_, _, err = f.VerifySecret(t.Context(), id, 0)
		wantReason(t, "VerifySecret "+id, err, want)
		_, err = f.PromoteSecret(t.Context(), broker.Promotion{ClientID: id, AllowUnverified: true})
		wantReason(t, "PromoteSecret "+id, err, want)
	}
	wantReason(t, "RetireSecret nobody", f.RetireSecret(t.Context(), "nobody", 1), broker.ReasonClientNotFound)
	// A deleted client's secrets may be destroyed: that is the safe direction.
	wantReason(t, "RetireSecret gone", f.RetireSecret(t.Context(), "gone", 2), "")
}

// TestRotationOfADisabledClient: it may be why it was disabled.
func TestRotationOfADisabledClient(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	if _, err := f.SetDisabled(t.Context(), "acme", true); err != nil {
		t.Fatalf("SetDisabled: %v", err)
	}
	f.stage(t, "acme", "next-secret")
	c := f.promote(t, "acme")
	if got, want := c.State(), broker.StateDisabled; got != want {
		t.Errorf("State = %q, want %q", got, want)
	}
}

func TestVerifyFails(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(f *fixture)
		want    broker.Reason
	}{
		{"rejected", func(f *fixture) { f.upstream.Withdraw("client-id-of-acme", "next-secret") }, broker.ReasonClientRejected},
		{"server down", func(f *fixture) {
			f.upstream.Always(brokertest.Step{Err: rejected(broker.ReasonUpstreamUnavailable)})
		}, broker.ReasonUpstreamUnavailable},
		{"value lost", func(f *fixture) {
			keys := keysUnder(f.memory, "secrets/acme/")
			f.memory.Remove(keys[len(keys)-1], broker.AbsentDeleted)
		}, broker.ReasonSecretDeleted},
		{"changed meanwhile", func(f *fixture) {
			f.store.Once(brokertest.After(func(brokertest.Call) {
				_, _ = f.SetDisabled(f.ctx, "acme", true)
			}), brokertest.On(brokertest.OpRead, "secrets/acme/"))
		}, broker.ReasonConcurrentChange},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.ctx = t.Context()
				f.create(t, "acme")
				f.stage(t, "acme", "next-secret")
				test.prepare(f)
				_, _, err := f.VerifySecret(t.Context(), "acme", 0)
				wantReason(t, "VerifySecret", err, test.want)
				if got, want := stages(f.get(t, "acme")), "1 current, 2 pending"; got != want {
					t.Errorf("stages = %q, want %q", got, want)
				}
				_, err = f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme"})
				wantReason(t, "PromoteSecret", err, broker.ReasonSecretNotVerified)
				f.upstream.Always(brokertest.Step{})
				_, _ = f.SetDisabled(t.Context(), "acme", false)
				if got, want := f.token(t, "acme").SecretVersion, int64(1); got != want {
					t.Errorf("SecretVersion = %d, want %d: a failed verification does not touch current", got, want)
				}
			})
		})
	}
}

// TestLimits: three labelled and five unlabelled versions, whichever way they come.
func TestLimits(t *testing.T) {
	full := func(t *testing.T) *fixture { // 1 previous, 2 current, 8 pending, five unlabelled
		f := newFixture(t)
		f.create(t, "acme")
		f.stage(t, "acme", "secret-2")
		f.promote(t, "acme")
		for i := range 6 {
			f.stage(t, "acme", fmt.Sprint("secret-", i+3))
		}
		return f
	}
	const stagesWhenFull = "1 previous, 2 current, 3 unlabelled, 4 unlabelled, 5 unlabelled, 6 unlabelled, 7 unlabelled, 8 pending"
	tests := []struct {
		name string
		do   func(*testing.T, *fixture) error
	}{
		{"stage", func(t *testing.T, f *fixture) error {
			_, err := f.StageSecret(t.Context(), "acme", input("one-too-many"), "")
			return err
		}},
		{"promote", func(t *testing.T, f *fixture) error {
			_, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true})
			return err
		}},
		{"update with secret", func(t *testing.T, f *fixture) error {
			_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Secret: input("one-too-many"), Edit: func(*broker.Client) {}})
			return err
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := full(t)
			if got := stages(f.get(t, "acme")); got != stagesWhenFull {
				t.Fatalf("stages = %q, want %q", got, stagesWhenFull)
			}
			before := content(t, f.memory)
			err := test.do(t, f)
			wantReason(t, test.name, err, broker.ReasonTooManySecretVersions)
			if want := "[3 4 5 6 7]"; !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not name the versions %s", err, want)
			}
			if got := content(t, f.memory); got != before {
				t.Errorf("the store changed to\n%s", got)
			}
			if err := f.RetireSecret(t.Context(), "acme", 5); err != nil {
				t.Fatalf("RetireSecret: %v", err)
			}
			wantReason(t, test.name+" when there is room", test.do(t, f), "")
			wantSound(t, f.memory, "acme")
		})
	}
}

func TestSecretUnchanged(t *testing.T) {
	jwk := `{"kty":"EC","crv":"P-256","x":"abc","y":"def","d":"ghi"}`
	pem := "-----BEGIN PRIVATE KEY-----\nAAAA\nBBBB\n-----END PRIVATE KEY-----\n"
	tests := []struct {
		name, current, staged string
		want                  broker.Reason
	}{
		{"same", "secret", "secret", broker.ReasonSecretUnchanged},
		{"other", "secret", "Secret", ""},
		{"same JWK", jwk, jwk, broker.ReasonSecretUnchanged},
		{"JWK in another order and layout", jwk, "{\n \"d\": \"ghi\", \"y\": \"def\", \"x\": \"abc\",\n \"crv\": \"P-256\", \"kty\": \"EC\"\n}\n", broker.ReasonSecretUnchanged},
		{"JWK with another key", jwk, strings.Replace(jwk, "ghi", "jkl", 1), ""},
		{"same PEM", pem, pem, broker.ReasonSecretUnchanged},
		{"PEM with CRLF and without a newline at the end", pem, strings.TrimSpace(strings.ReplaceAll(pem, "\n", "\r\n")), broker.ReasonSecretUnchanged},
		{"PEM with another key", pem, strings.Replace(pem, "BBBB", "CCCC", 1), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme", func(n *broker.NewClient) {
				n.Secret = input(test.current)
				if test.current != "secret" {
					n.Upstream.Authentication.Method = broker.PrivateKeyJWT
				}
			})
			before := content(t, f.memory)
			_, err := f.StageSecret(t.Context(), "acme", input(test.staged), "")
			wantReason(t, "StageSecret", err, test.want)
			if got := content(t, f.memory); err != nil && got != before {
				t.Errorf("the store changed to\n%s", got)
			}
		})
	}
}

// TestStagingMendsABrokenSecret: that the current value cannot be read is a reason
// to stage another one.
func TestStagingMendsABrokenSecret(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	f.memory.Remove(keyUnder(t, f.memory, "secrets/acme/"), broker.AbsentDestroyed)
	_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
	wantReason(t, "GetToken", err, broker.ReasonSecretDestroyed)
	f.stage(t, "acme", "next-secret")
	f.promote(t, "acme")
	if got, want := f.token(t, "acme").SecretVersion, int64(2); got != want {
		t.Errorf("SecretVersion = %d, want %d", got, want)
	}
}
