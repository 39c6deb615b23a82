package client_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/client"
)

// TestClocksDiffer lets the broker's clock differ from ours and the token be of any
// age when it is had. Somebody takes a token every second for three lifetimes. Brokers
// that say what their clock shows need not be asked oftener for that.
func TestClocksDiffer(t *testing.T) {
	for _, c := range []struct {
		name           string
		skew           time.Duration // of the broker's clock
		lifetime, aged time.Duration
		most           int // calls of GetToken of a broker that does not say its time
	}{
		{"agree", 0, time.Hour, 0, 15},
		{"agree, cached", 0, time.Hour, 30 * time.Minute, 15},
		{"ours 10 min slow", 10 * time.Minute, time.Hour, 0, 60},
		{"ours 10 min slow, cached", 10 * time.Minute, time.Hour, 30 * time.Minute, 60},
		{"ours 10 min fast", -10 * time.Minute, time.Hour, 0, 200},
		{"ours 10 min fast, cached", -10 * time.Minute, time.Hour, 30 * time.Minute, 200},
		{"ours 10 min slow, short tokens", 10 * time.Minute, 5 * time.Minute, 0, 60},
		{"ours 10 min slow, short tokens, cached", 10 * time.Minute, 5 * time.Minute, 3 * time.Minute, 60},
		{"ours 10 min fast, short tokens, cached", -10 * time.Minute, 5 * time.Minute, 3 * time.Minute, 300},
		{"ours a day slow", 24 * time.Hour, time.Hour, 20 * time.Minute, 60},
		{"ours a day fast", -24 * time.Hour, time.Hour, 20 * time.Minute, 2200},
	} {
		for _, undated := range []bool{false, true} {
			most, name := 15, c.name
			if undated {
				most, name = c.most, c.name+", the broker does not say its time"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFake(t)
					f.set(func() { f.skew, f.lifetime, f.undated = c.skew, c.lifetime, undated; f.mintLocked() })
					time.Sleep(c.aged)
					takeAlways(t, f, 3*c.lifetime)
					if f.asked() > most {
						t.Errorf("asked %d times, want at most %d", f.asked(), most)
					}
				})
			})
		}
	}
}

// takeAlways takes a token every second, none of which may have expired.
func takeAlways(t *testing.T, f *fake, during time.Duration, options ...client.Option) {
	t.Helper()
	source := f.connect(t, options...).Source(acme)
	for range int(during / time.Second) {
		token := must[*client.Token](t)(source.Get(t.Context()))
		if left := token.ExpireTime.Sub(f.now()); left <= 0 {
			t.Fatalf("a token that expired %v ago was served", -left)
		}
		time.Sleep(time.Second)
	}
}

// TestSlowClockAndACachedToken: with the time of the broker a token that was had late
// in its life, from a broker that is gone then, is not served beyond it.
func TestSlowClockAndACachedToken(t *testing.T) {
	for _, skew := range []time.Duration{10 * time.Minute, -10 * time.Minute, 24 * time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.set(func() { f.skew = skew; f.mintLocked() })
				time.Sleep(45 * time.Minute)
				source := f.connect(t).Source(acme)
				must[*client.Token](t)(source.Get(t.Context()))
				f.server.Stop()
				time.Sleep(15*time.Minute - 10*time.Second)
				must[*client.Token](t)(source.Get(t.Context()))
				time.Sleep(10 * time.Second)
				if _, err := source.Get(t.Context()); err == nil {
					t.Error("a token was served after its end")
				}
			})
		})
	}
}

// TestSlowAnswersAndASlowClock: how long an answer was on its way is not known, so its
// token ends as if it had been sent at once.
func TestSlowAnswersAndASlowClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.set(func() { f.skew, f.lifetime, f.delay = 10*time.Minute, 5*time.Minute, 8*time.Second })
		takeAlways(t, f, 15*time.Minute)
	})
}

// TestSlowClockAndNoBroker: without the broker, and its time, a token of unknown age ends its
// lifetime after it was had at the latest, whatever the clock says.
func TestSlowClockAndNoBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.set(func() { f.skew, f.undated = 24*time.Hour, true })
		source := f.connect(t).Source(acme)
		must[*client.Token](t)(source.Get(t.Context()))
		f.server.Stop()
		time.Sleep(time.Hour - 10*time.Second)
		must[*client.Token](t)(source.Get(t.Context()))
		time.Sleep(10 * time.Second)
		_, err := source.Get(t.Context())
		var e *client.Error
		if !errors.As(err, &e) {
			t.Errorf("after the lifetime: %v, want an error", err)
		}
	})
}
