package broker_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestListShowsOnlyWhatMayBeShown: pages are filled with what may be shown, what
// cannot be read is shown by its name alone, and nothing tells of the others, not
// even where a page ends.
func TestListShowsOnlyWhatMayBeShown(t *testing.T) {
	f := newFixture(t)
	var want []string
	for i := range 60 {
		id := fmt.Sprintf("hidden-%d", i)
		team := "other"
		if i%4 == 0 {
			id, team = fmt.Sprintf("mine-%d", i), "crm"
			want = append(want, id)
		}
		f.create(t, id, func(n *broker.NewClient) { n.Labels = map[string]string{"team": team} })
	}
	for _, id := range []string{"mine-0", "hidden-1"} {
		f.memory.Put("clients/"+shard(id)+"/"+id, `{"schema":9}`)
	}
	want[0] = "unreadable mine-0"
	slices.Sort(want)
	shown := func(id string, labels map[string]string) bool {
		return labels["team"] == "crm" || labels == nil && strings.HasPrefix(id, "mine-")
	}
	for _, size := range []int{1, 3, 100} {
		query := broker.ListQuery{PageSize: size, Shown: shown}
		got, _ := listAll(t, f, query)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("page size %d: %q, want %q", size, got, want)
		}
		page, err := f.ListClients(t.Context(), query)
		if err != nil {
			t.Fatalf("ListClients: %v", err)
		}
		token, err := base64.RawURLEncoding.DecodeString(page.NextPageToken)
		if err != nil || strings.Contains(string(token), "hidden") || strings.Contains(string(token), "mine") {
			t.Errorf("the page token says %s, %v; want no name in it", token, err)
		}
	}
	// The same for a filter, and one that may be shown nothing.
	got, _ := listAll(t, f, broker.ListQuery{Filter: "labels.team=other", Shown: shown})
	if !slices.Equal(got, []string{"unreadable mine-0"}) {
		t.Errorf("filter of another team: %q", got)
	}
	got, _ = listAll(t, f, broker.ListQuery{Shown: func(string, map[string]string) bool { return false }})
	if len(got) != 0 {
		t.Errorf("one who may be shown nothing: %q", got)
	}
}
