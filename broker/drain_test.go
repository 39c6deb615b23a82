package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// drained drains a Broker and closes it, and fails unless that took as long as it should.
func drained(t *testing.T, b *broker.Broker, want time.Duration) {
	t.Helper()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), drainFor)
	defer cancel()
	if !b.Drain(ctx) {
		t.Errorf("what was begun has not ended within %v", drainFor)
	}
	if took := time.Since(begun); took < want || took > want+time.Second {
		t.Errorf("Drain took %v, want %v", took, want)
	}
	b.Close()
}

// TestDrainEndsMints: the token that was asked for is the fleet's, as if nobody had gone.
func TestDrainEndsMints(t *testing.T) {
	for _, limited := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			replicas := fleet(t, 2)
			goes, stays := replicas[0], replicas[1]
			goes.create(t, "acme", func(n *broker.NewClient) {
				n.Upstream.SingleActiveToken, n.Upstream.AllowedAudiences, n.Upstream.AllowedResources = limited, nil, nil
			})
			goes.create(t, "warm")
			goes.token(t, "warm")
			goes.upstream.Always(brokertest.Step{Delay: 3 * time.Second})
			answered := make(chan error, 1)
			go func() {
				_, _, err := goes.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				answered <- err
			}()
			time.Sleep(time.Second)
			go func() {
				time.Sleep(time.Second)
				if _, _, err := goes.GetToken(t.Context(), broker.TokenQuery{ClientID: "warm"}); err != nil {
					t.Errorf("a warm token while draining: %v", err)
				}
				_, _, err := goes.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Scopes: []string{"write"}})
				if !limited {
					wantReason(t, "a new one while draining", err, broker.ReasonShuttingDown)
				}
			}()
			drained(t, goes.Broker, 2*time.Second)
			if err := <-answered; err != nil {
				t.Errorf("whoever waited: %v", err)
			}
			begun, asked := time.Now(), goes.upstream.Count()
			stays.token(t, "acme")
			if took, more := time.Since(begun), goes.upstream.Count()-asked; took > 0 || more != 0 {
				t.Errorf("limited %t: the other replica had it after %v and %d requests, want at once by none", limited, took, more)
			}
		})
	}
}

// TestDrainDoesNotWait for what others do, nor for the time of another try.
func TestDrainDoesNotWait(t *testing.T) {
	down := brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamUnavailable, RetryAfter: 2 * time.Second}}
	for name, c := range map[string]struct {
		script []brokertest.Step
		holder bool
	}{
		"another replica's lease": {[]brokertest.Step{{Delay: 7 * time.Second}}, true},
		"a pause between tries":   {[]brokertest.Step{down, down, down}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				replicas := fleet(t, 2)
				goes := replicas[0]
				goes.create(t, "acme")
				goes.upstream.Script(c.script...)
				if c.holder {
					go func() { _, _, _ = replicas[1].GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"}) }()
					time.Sleep(time.Second)
				}
				answered := make(chan error, 1)
				go func() {
					_, _, err := goes.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
					answered <- err
				}()
				time.Sleep(500 * time.Millisecond)
				drained(t, goes.Broker, 0)
				wantReason(t, "GetToken", <-answered, broker.ReasonShuttingDown)
				if got, want := goes.upstream.Count(), 1; got != want {
					t.Errorf("%d requests, want %d", got, want)
				}
			})
		})
	}
}

// TestDrainIsBounded: what takes too long is broken off, and nobody else waits for it.
func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := fleet(t, 2)
		goes := replicas[0]
		goes.create(t, "acme")
		goes.upstream.Script(brokertest.Step{Delay: 7 * time.Second})
		go func() { _, _, _ = goes.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"}) }()
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if goes.Drain(ctx) {
			t.Error("a request of 7 s has ended after 3 s")
		}
		goes.Close()
		begun := time.Now()
		replicas[1].token(t, "acme")
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the other replica waited %v", took)
		}
	})
}

// TestDrainKeepsConsents: a code is good for one exchange, and a device's user answers once.
func TestDrainKeepsConsents(t *testing.T) {
	for _, grant := range []broker.GrantType{broker.AuthorizationCode, broker.DeviceCode} {
		t.Run(string(grant), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				goes := newConsents(t)
				stays := goes.replica(t)
				goes.register(t, "app", grant)
				a := goes.start(t, "app")
				if grant == broker.DeviceCode {
					goes.users.AnswerDevice(a.Consent.UserCode, "")
					goes.upstream.Script(brokertest.Step{Delay: 3 * time.Second})
					time.Sleep(5 * time.Second) // until it is polled for
				} else {
					answer := goes.consent(t, a)
					goes.upstream.Script(brokertest.Step{Delay: 3 * time.Second})
					go func() { _, _ = goes.CompleteAuthorization(t.Context(), answer) }()
				}
				time.Sleep(time.Second)
				drained(t, goes.Broker, 2*time.Second)
				if got := stays.authorization(t, "app"); got.State != broker.AuthorizationActive {
					t.Errorf("the authorization is %s (%s), want it active", got.State, got.Reason)
				}
			})
		})
	}
}

// TestDrainHandsDevicesOver: who looks next goes on with the polling.
func TestDrainHandsDevicesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goes := newConsents(t)
		stays := goes.replica(t)
		goes.register(t, "tv", broker.DeviceCode)
		a := goes.start(t, "tv")
		time.Sleep(12 * time.Second)
		drained(t, goes.Broker, 0)
		stays.authorization(t, "tv")
		goes.users.AnswerDevice(a.Consent.UserCode, "")
		time.Sleep(6 * time.Second)
		if got := stays.authorization(t, "tv"); got.State != broker.AuthorizationActive {
			t.Errorf("the authorization is %s (%s), want it active", got.State, got.Reason)
		}
	})
}
