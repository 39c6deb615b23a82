package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

func TestConsentByDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		w.register(t, "tv", broker.DeviceCode)
		a := w.start(t, "tv")
		if a.State != broker.AuthorizationPending || a.Consent.UserCode == "" || a.Consent.VerificationURI != issuer+"/device" || a.Consent.AuthorizationURL != "" {
			t.Errorf("started: %+v", a.Consent)
		}
		time.Sleep(14 * time.Second)
		if polls := len(w.sentOf(broker.DeviceCode)); polls != 2 {
			t.Errorf("%d polls in 14 s, want 2", polls)
		}
		w.users.AnswerDevice(a.Consent.UserCode, "")
		time.Sleep(5 * time.Second)
		if got := w.authorization(t, "tv"); got.State != broker.AuthorizationActive || !got.Refreshable {
			t.Errorf("after consent: %+v", got)
		}
		polls := len(w.sentOf(broker.DeviceCode))
		time.Sleep(time.Minute)
		if more := len(w.sentOf(broker.DeviceCode)) - polls; more != 0 {
			t.Errorf("%d polls after consent", more)
		}
	})
}

func TestADeviceThatGetsNothing(t *testing.T) {
	const forgotten = broker.Reason("pending, and not known when it has expired")
	cases := []struct {
		name   string
		answer broker.Reason
		want   broker.Reason
		after  time.Duration
	}{
		{"denied", broker.ReasonAuthorizationDenied, broker.ReasonAuthorizationDenied, 10 * time.Second},
		{"expired, it says", broker.ReasonAuthorizationExpired, broker.ReasonAuthorizationExpired, 10 * time.Second},
		{"not taken", broker.ReasonGrantRejected, broker.ReasonAuthorizationNotTaken, 10 * time.Second},
		{"the client is rejected", broker.ReasonClientRejected, broker.ReasonClientRejected, 10 * time.Second},
		{"forgotten when it has expired", forgotten, broker.ReasonAuthorizationExpired, 11 * time.Minute},
		{"never answered", broker.ReasonAuthorizationPending, broker.ReasonAuthorizationExpired, 11 * time.Minute},
		{"the server is away", broker.ReasonUpstreamUnavailable, broker.ReasonAuthorizationExpired, 12 * time.Minute},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newConsents(t)
				w.register(t, "tv", broker.DeviceCode)
				started := w.start(t, "tv")
				if c.answer == forgotten {
					time.AfterFunc(time.Until(started.Consent.ExpireTime)-time.Second, func() {
						w.users.AnswerDevice(started.Consent.UserCode, broker.ReasonGrantRejected)
					})
					c.answer = broker.ReasonAuthorizationPending
				}
				w.users.AnswerDevice(started.Consent.UserCode, c.answer)
				time.Sleep(c.after)
				got := w.authorization(t, "tv")
				if got.State != broker.AuthorizationEnded || got.Reason != c.want {
					t.Errorf("%s, %q, want ended, %q", got.State, got.Reason, c.want)
				}
				polls := len(w.sentOf(broker.DeviceCode))
				time.Sleep(5 * time.Minute)
				if more := len(w.sentOf(broker.DeviceCode)) - polls; more != 0 {
					t.Errorf("%d polls after the end", more)
				}
			})
		})
	}
}

// TestADeviceThatIsDenied is called pending no more, although that held a moment ago.
func TestADeviceThatIsDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		w.register(t, "tv", broker.DeviceCode)
		w.users.AnswerDevice(w.start(t, "tv").Consent.UserCode, broker.ReasonAuthorizationDenied)
		q := broker.TokenQuery{ClientID: "tv", Subject: subject}
		time.Sleep(4 * time.Second) // it is polled for after 5
		_, _, err := w.GetToken(t.Context(), q)
		wantReason(t, "GetToken before", err, broker.ReasonAuthorizationPending)
		time.Sleep(2 * time.Second)
		_, _, err = w.GetToken(t.Context(), q)
		wantReason(t, "GetToken after", err, broker.ReasonAuthorizationRequired)
	})
}

func TestSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		w.register(t, "tv", broker.DeviceCode)
		slow := brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamRateLimited}}
		w.upstream.Script(slow, slow)
		w.start(t, "tv") // polls after 5, 15 (5+5 more), 30 (5 more) and 45 s
		time.Sleep(44 * time.Second)
		if polls := len(w.sentOf(broker.DeviceCode)); polls != 3 {
			t.Errorf("%d polls in 44 s, want 3", polls)
		}
	})
}

func TestOneReplicaPollsAndADeadOneIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		other := w.replica(t)
		w.register(t, "tv", broker.DeviceCode)
		a := w.start(t, "tv")
		for range 12 { // an application that asks another replica
			time.Sleep(10 * time.Second)
			other.authorization(t, "tv")
		}
		if polls := len(w.sentOf(broker.DeviceCode)); polls < 22 || polls > 24 {
			t.Errorf("%d polls in 2 min, want one each 5 s", polls)
		}
		w.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any) // it dies, and hands nothing over
		w.Close()
		polls := len(w.sentOf(broker.DeviceCode))
		other.authorization(t, "tv")
		time.Sleep(50 * time.Second)
		if more := len(w.sentOf(broker.DeviceCode)) - polls; more != 0 {
			t.Errorf("%d polls before the lease of the dead one ran out", more)
		}
		time.Sleep(20 * time.Second)
		other.authorization(t, "tv")
		w.users.AnswerDevice(a.Consent.UserCode, "")
		time.Sleep(10 * time.Second)
		if got := other.authorization(t, "tv"); got.State != broker.AuthorizationActive {
			t.Errorf("after the take-over: %s, %q", got.State, got.Reason)
		}
	})
}

func TestANewerDeviceConsentReplacesTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		w.register(t, "tv", broker.DeviceCode)
		old := w.start(t, "tv")
		w.start(t, "tv")
		w.users.AnswerDevice(old.Consent.UserCode, "")
		time.Sleep(time.Minute)
		if got := w.authorization(t, "tv"); got.State != broker.AuthorizationPending {
			t.Errorf("consent to the replaced one: %s", got.State)
		}
		for _, r := range w.sentOf(broker.DeviceCode) {
			if r.Grant.DeviceCode.RevealString() == "device-"+old.Consent.UserCode {
				t.Error("the replaced one is polled for")
			}
		}
	})
}

func TestAStoreThatIsAwayEndsNoDeviceConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		w.register(t, "tv", broker.DeviceCode)
		a := w.start(t, "tv")
		w.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		time.Sleep(3 * time.Minute)
		w.store.Heal()
		w.users.AnswerDevice(a.Consent.UserCode, "")
		time.Sleep(time.Minute)
		if got := w.authorization(t, "tv"); got.State != broker.AuthorizationActive {
			t.Errorf("after the outage: %s, %q", got.State, got.Reason)
		}
	})
}
