package broker_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// TestAnOutageInTheFleet takes 20 clients on three replicas through an outage of their
// authorization server that outlasts their tokens: no call fails while a token lives,
// the server is asked little while it is down, and 30 s after its return all is well
// everywhere.
func TestAnOutageInTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 3)
		f := replicas[0]
		const clients = 20
		ask := func(b *fixture, i int) (*broker.Token, error) {
			token, _, err := b.GetToken(t.Context(), broker.TokenQuery{ClientID: fmt.Sprint("client-", i)})
			return token, err
		}
		for i := range clients {
			f.create(t, fmt.Sprint("client-", i))
			for _, b := range replicas {
				if _, err := ask(b, i); err != nil {
					t.Fatal(err)
				}
			}
		}
		expire := time.Now().Add(time.Hour)
		time.Sleep(40 * time.Minute)
		f.upstream.Always(brokertest.Step{Delay: 20 * time.Millisecond, Err: rejected(broker.ReasonUpstreamUnavailable)})
		began := f.upstream.Count()
		for until := expire.Add(10 * time.Minute); time.Now().Before(until); time.Sleep(time.Second) {
			for i := range clients {
				for n, b := range replicas {
					if _, err := ask(b, i); err != nil && time.Now().Before(expire) {
						t.Fatalf("%v before its token expires client %d fails on replica %d: %v", time.Until(expire), i, n, err)
					}
				}
			}
		}
		// Each endpoint's trial every 10 s on each replica, and a first failure per key.
		if got, most := f.upstream.Count()-began, 3*30*60/10+3*clients; got > most {
			t.Errorf("%d requests in half an hour to a server that is down, want at most %d", got, most)
		}
		f.upstream.Always(brokertest.Step{Delay: 20 * time.Millisecond})
		returned := f.upstream.Count()
		for healed := time.Now(); time.Since(healed) < 30*time.Second; time.Sleep(time.Second) {
			for i := range clients {
				_, _ = ask(replicas[i%3], i)
			}
		}
		for i := range clients {
			for n, b := range replicas {
				if _, err := ask(b, i); err != nil {
					t.Errorf("30s after the server's return client %d fails on replica %d: %v", i, n, err)
				}
			}
		}
		if got, want := f.upstream.Count()-returned, clients; got != want {
			t.Errorf("%d requests after its return, want %d", got, want)
		}
	})
}
