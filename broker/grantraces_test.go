package broker_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// TestAFrozenHolder: a process that holds a grant's lease stops before or after one of its
// writes, or while its request is under way, and goes on when another one has taken over.
// No refresh token is spent twice, and the grant goes on where the kind of server allows.
func TestAFrozenHolder(t *testing.T) {
	for _, kind := range brokertest.RefreshKinds() {
		for _, at := range []string{"take", "use", "answer", "store"} {
			t.Run(kind.Name+", "+at, func(t *testing.T) {
				bubble(t, kind, func(t *testing.T, w *grantWorld, p *process) {
					w.consent(t, p, "alice")
					frozen, thaw := make(chan struct{}), make(chan struct{})
					freeze := func() { close(frozen); <-thaw }
					p.freezeAt(w, at, freeze)
					ended := make(chan error, 1)
					go func() {
						_, _, err := p.GetToken(context.Background(), of("alice"))
						ended <- err
					}()
					<-frozen
					time.Sleep(30 * time.Second) // the lease ends
					other := w.process(t)
					var err error
					for range 3 {
						if _, _, err = other.GetToken(t.Context(), of("alice")); err == nil {
							break
						}
						time.Sleep(10 * time.Second)
					}
					unsure := at != "take" && (kind.Rotates || kind.Name == "undeclared, stays") && kind.Declared.Grace == 0
					if got := broker.ReasonOf(err); unsure && got != broker.ReasonRefreshAnswerLost || !unsure && err != nil {
						t.Errorf("the other process: %v, want an answer that is lost: %t", err, unsure)
					}
					close(thaw)
					late := <-ended
					synctest.Wait()
					if w.upstream.Reused() > 0 {
						t.Errorf("a refresh token was spent twice; the late one got %v", late)
					}
					// A use that was only slow has mended what was taken to be lost.
					mended := !unsure || at == "answer" || at == "store"
					for i := range 2 {
						time.Sleep(11 * time.Minute)
						_, _, err := w.process(t).GetToken(t.Context(), of("alice"))
						if mended && err != nil {
							t.Errorf("later refresh %d: %v", i, err)
						} else if !mended {
							wantReason(t, "later", err, broker.ReasonRefreshAnswerLost)
						}
					}
				})
			})
		}
	}
}

// freezeAt calls freeze once at a point of the next refresh.
func (p *process) freezeAt(w *grantWorld, at string, freeze func()) {
	writes := brokertest.On(brokertest.OpWrite, "grants/")
	once := func(fault brokertest.Fault, nth int) {
		seen := 0
		p.store.Once(fault, func(c brokertest.Call) bool {
			if writes(c) {
				seen++
			}
			return writes(c) && seen == nth
		})
	}
	switch at {
	case "take":
		once(brokertest.Before(func(brokertest.Call) { freeze() }), 1)
	case "use":
		once(brokertest.After(func(brokertest.Call) { freeze() }), 1)
	case "answer":
		w.upstream.Script(brokertest.Step{Edit: func(*broker.TokenResponse) { freeze() }})
	case "store":
		once(brokertest.Before(func(brokertest.Call) { freeze() }), 2)
	default:
		panic(fmt.Sprintf("there is no point %q", at))
	}
}
