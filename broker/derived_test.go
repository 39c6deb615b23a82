package broker_test

import (
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestDerivedIsShared checks that callers who come at once get one and the same
// value, and later ones do not make it again.
func TestDerivedIsShared(t *testing.T) {
	token := &broker.Token{ID: "0123456789abcdef"}
	build := func(t *broker.Token) any {
		made := "made of " + t.ID
		return &made
	}
	got := make([]any, 64)
	var running sync.WaitGroup
	for i := range got {
		running.Go(func() { got[i] = token.Derived(build) })
	}
	running.Wait()
	for i, value := range got {
		if value != got[0] {
			t.Errorf("caller %d got another value than caller 0", i)
		}
	}
	if text := *got[0].(*string); text != "made of 0123456789abcdef" {
		t.Errorf("got %q", text)
	}
	again := token.Derived(func(*broker.Token) any { t.Error("made again"); return nil })
	if again != got[0] {
		t.Error("a later caller got another value")
	}
}
