package broker_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestAWeek simulates 500 clients on three replicas, of which one is restarted every
// eight hours: no caller is ever without a good token or waits for one, and the
// authorization server sees hardly more requests than the windows make necessary.
func TestAWeek(t *testing.T) {
	const clients = 500
	week := 7 * 24 * time.Hour
	if raced {
		week = 8 * time.Hour
	}
	lifetimes := []time.Duration{4 * time.Hour, 12 * time.Hour, 24 * time.Hour}
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 3)
		f := replicas[0]
		least := 0.0
		for i := range clients {
			id := fmt.Sprint("client-", i)
			lifetime := lifetimes[i%len(lifetimes)]
			f.create(t, id, func(n *broker.NewClient) { n.TokenPolicy.AssumedLifetime = lifetime })
			least += 1 + float64(week/(lifetime-min(lifetime/5, time.Hour)))
		}
		f.upstream.OmitLifetime()
		start := time.Now()
		for minute := 0; time.Since(start) < week; minute++ {
			if minute%480 == 479 {
				restarted := minute / 480 % 3
				replicas[restarted].stopRun()
				replicas[restarted].Close()
				replicas[restarted] = running(t, f.memory, f.upstream)
			}
			for i := minute % 6; i < clients; i += 6 {
				called := time.Now()
				token, _, err := replicas[(minute/6+i)%3].GetToken(t.Context(), broker.TokenQuery{ClientID: fmt.Sprint("client-", i)})
				if err != nil || !token.ExpireTime.After(time.Now()) {
					t.Fatalf("after %v: client %d has no good token: %v", time.Since(start), i, err)
				}
				if waited := time.Since(called); waited > 0 && minute > 6 {
					t.Fatalf("after %v: client %d waited %v", time.Since(start), i, waited)
				}
			}
			time.Sleep(time.Minute)
		}
		ratio := float64(f.upstream.Count()) / least
		t.Logf("figure week_upstream_vs_least %.3f (%d requests)", ratio, f.upstream.Count())
		if ratio > 1.05 {
			t.Errorf("%d requests, %.3f of the least possible %v, want at most 1.05", f.upstream.Count(), ratio, least)
		}
	})
}
