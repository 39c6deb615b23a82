package broker_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestEqualListsAreShared(t *testing.T) {
	var lists broker.SharedLists
	first := lists.Of([]string{"read", "write"})
	if again := lists.Of([]string{"read", "write"}); &again[0] != &first[0] {
		t.Error("an equal list is not shared")
	}
	for _, other := range [][]string{{"write", "read"}, {"read"}, {"read", "write", "more"}, {"readwrite"}} {
		if got := lists.Of(slices.Clone(other)); !slices.Equal(got, other) {
			t.Errorf("got %v, want %v", got, other)
		}
	}
	// No authorization server's scope has a space, and none is split or joined by one.
	if got := lists.Of([]string{"read write"}); !slices.Equal(got, []string{"read write"}) {
		t.Errorf("got %q, want the one odd scope", got)
	}
	if got := lists.Of([]string{"read", "write"}); !slices.Equal(got, first) {
		t.Errorf("got %q, want %q", got, first)
	}
	if got := lists.Of(nil); got != nil {
		t.Errorf("got %q of no list", got)
	}
}

// TestSharedListsAreBounded: lists that nobody has any more do not pile up.
func TestSharedListsAreBounded(t *testing.T) {
	var lists broker.SharedLists
	for i := range 3 * broker.MaxSharedLists {
		want := []string{fmt.Sprintf("scope-%d", i)}
		if got := lists.Of(want); !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		if kept := lists.Kept(); kept > broker.MaxSharedLists {
			t.Fatalf("%d lists are kept, want at most %d", kept, broker.MaxSharedLists)
		}
	}
}
