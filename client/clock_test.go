package client_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/client"
)

// TestClocksDiffer lets the broker's clock differ from ours and the token be of any
// age when it is had. Somebody takes a token every second for three lifetimes.
func TestClocksDiffer(t *testing.T) {
	for _, c := range []struct {
		name           string
		skew           time.Duration // of the broker's clock
		lifetime, aged time.Duration
		most           int // calls of GetToken
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
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.set(func() { f.skew, f.lifetime = c.skew, c.lifetime; f.mintLocked() })
				time.Sleep(c.aged)
				source := f.connect(t).Source(acme)
				for range int(3 * c.lifetime / time.Second) {
					token := must[*client.Token](t)(source.Get(t.Context()))
					if left := token.ExpireTime.Sub(f.now()); left <= 0 {
						t.Fatalf("a token that expired %v ago was served", -left)
					}
					time.Sleep(time.Second)
				}
				if f.asked() > c.most {
					t.Errorf("asked %d times, want at most %d", f.asked(), c.most)
				}
			})
		})
	}
}

// TestSlowClockAndNoBroker: without the broker a token of unknown age ends its
// lifetime after it was had at the latest, whatever the clock says.
func TestSlowClockAndNoBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.set(func() { f.skew = 24 * time.Hour })
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
