package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// BenchmarkNoteUseWarm is what a call pays for being noted again, by how many callers
// share the token.
func BenchmarkNoteUseWarm(b *testing.B) {
	for _, callers := range []int{1, 8, 100} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			q := broker.TokenQuery{ClientID: "acme"}
			made := warm(b, q)
			token, _, err := made.GetToken(b.Context(), q)
			if err != nil {
				b.Fatal(err)
			}
			now, names := time.Now(), numbered(callers, "caller-%d")
			for _, name := range names {
				made.NoteUse(token, name, now)
			}
			for i := 0; b.Loop(); i++ {
				made.NoteUse(token, names[i%callers], now)
			}
		})
	}
}

// BenchmarkNoteUseWarmParallel shows that callers of one token do not contend.
func BenchmarkNoteUseWarmParallel(b *testing.B) {
	q := broker.TokenQuery{ClientID: "acme"}
	made := warm(b, q)
	token, _, err := made.GetToken(b.Context(), q)
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			made.NoteUse(token, "crm", now)
		}
	})
}

// TestNoteUseAllocatesNothing for a use that is noted already.
func TestNoteUseAllocatesNothing(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	f := newFixture(t)
	f.create(t, "acme")
	token, now := f.token(t, "acme"), time.Now()
	f.NoteUse(token, "crm", now)
	if got := testing.AllocsPerRun(100, func() { f.NoteUse(token, "crm", now) }); got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}
