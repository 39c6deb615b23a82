package broker_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// listAll pages through a query and returns all ids, and how many were on each page.
func listAll(t *testing.T, f *fixture, q broker.ListQuery) (ids []string, sizes []int) {
	t.Helper()
	for range 1000 {
		page, err := f.ListClients(t.Context(), q)
		if err != nil {
			t.Fatalf("ListClients(%+v): %v", q, err)
		}
		for _, c := range page.Clients {
			ids = append(ids, c.ID)
		}
		for _, u := range page.Unreadable {
			ids = append(ids, "unreadable "+u.ID)
		}
		sizes = append(sizes, len(page.Clients)+len(page.Unreadable))
		if page.NextPageToken == "" {
			return ids, sizes
		}
		q.PageToken = page.NextPageToken
	}
	t.Fatalf("ListClients(%+v) does not end", q)
	return nil, nil
}

// many registers n clients over several shards; every third is of team crm, every
// fifth disabled, every seventh deleted.
func many(t *testing.T, n int) (*fixture, []string) {
	t.Helper()
	f := newFixture(t)
	var ids []string
	for i := range n {
		id := fmt.Sprintf("%c-client-%d", 'a'+i%3, i)
		ids = append(ids, id)
		f.create(t, id, func(c *broker.NewClient) {
			c.Secret = broker.SecretInput{}
			c.Labels = map[string]string{"all": "yes"}
			if i%3 == 0 {
				c.Labels["team"] = "crm"
			}
		})
		if i%5 == 0 {
			if _, err := f.SetDisabled(t.Context(), id, true); err != nil {
				t.Fatalf("SetDisabled: %v", err)
			}
		}
		if i%7 == 0 {
			if _, err := f.DeleteClient(t.Context(), id, ""); err != nil {
				t.Fatalf("DeleteClient: %v", err)
			}
		}
	}
	return f, ids
}

func TestListFilters(t *testing.T) {
	f, ids := many(t, 60)
	tests := []struct {
		filter string
		want   func(i int) bool
	}{
		{"", func(i int) bool { return i%7 != 0 }},
		{"   ", func(i int) bool { return i%7 != 0 }},
		{"state=active", func(i int) bool { return i%7 != 0 && i%5 != 0 }},
		{"state=disabled", func(i int) bool { return i%7 != 0 && i%5 == 0 }},
		{"state=deleted", func(i int) bool { return i%7 == 0 }},
		{"labels.team=crm", func(i int) bool { return i%7 != 0 && i%3 == 0 }},
		{"labels.team=other", func(int) bool { return false }},
		{"labels.team=", func(int) bool { return false }},
		{"labels.all=yes AND labels.team=crm AND state=disabled", func(i int) bool { return i%7 != 0 && i%5 == 0 && i%3 == 0 }},
		{"prefix=a-", func(i int) bool { return i%7 != 0 && i%3 == 0 }},
		{"  prefix=b-  AND  state=deleted ", func(i int) bool { return i%7 == 0 && i%3 == 1 }},
		{"prefix=nobody", func(int) bool { return false }},
		{"prefix=", func(i int) bool { return i%7 != 0 }},
	}
	for _, test := range tests {
		t.Run(test.filter, func(t *testing.T) {
			var want []string
			for i, id := range ids {
				if test.want(i) {
					want = append(want, id)
				}
			}
			slices.Sort(want)
			for _, size := range []int{0, 1, 7, 1000, 1 << 30} {
				got, sizes := listAll(t, f, broker.ListQuery{Filter: test.filter, PageSize: size})
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("page size %d: %q, want %q", size, got, want)
				}
				if most := slices.Max(sizes); size > 0 && most > size || size == 0 && most > 50 {
					t.Errorf("page size %d: a page of %d", size, most)
				}
			}
		})
	}
}

func TestListErrors(t *testing.T) {
	f, _ := many(t, 10)
	page, err := f.ListClients(t.Context(), broker.ListQuery{PageSize: 2})
	if err != nil || page.NextPageToken == "" {
		t.Fatalf("ListClients = %+v, %v, want a next page", page, err)
	}
	encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	tests := []struct {
		name  string
		query broker.ListQuery
		field string
	}{
		{"negative page size", broker.ListQuery{PageSize: -1}, "page_size"},
		{"token is no base64", broker.ListQuery{PageToken: "%%%"}, "page_token"},
		{"token is no JSON", broker.ListQuery{PageToken: encode("x")}, "page_token"},
		{"token without id", broker.ListQuery{PageToken: encode(`{"f":""}`)}, "page_token"},
		{"token with a path", broker.ListQuery{PageToken: encode(`{"f":"e3b0c442","a":"../x"}`)}, "page_token"},
		{"token of another filter", broker.ListQuery{PageToken: page.NextPageToken, Filter: "state=active"}, "page_token"},
		{"filter too long", broker.ListQuery{Filter: "prefix=" + strings.Repeat("a", 2048)}, "filter"},
		{"no condition", broker.ListQuery{Filter: "crm"}, "filter"},
		{"unknown name", broker.ListQuery{Filter: "name=a"}, "filter"},
		{"no moment", broker.ListQuery{Filter: "secret_expires_before=soon"}, "filter"},
		{"a date without time", broker.ListQuery{Filter: "secret_expires_before=2027-01-31"}, "filter"},
		{"unknown state", broker.ListQuery{Filter: "state=gone"}, "filter"},
		{"state in upper case", broker.ListQuery{Filter: "state=ACTIVE"}, "filter"},
		{"label without key", broker.ListQuery{Filter: "labels.=a"}, "filter"},
		{"label with a bad key", broker.ListQuery{Filter: "labels.A b=c"}, "filter"},
		{"quotes", broker.ListQuery{Filter: `labels.a="b"`}, "filter"},
		{"or", broker.ListQuery{Filter: "labels.a=b OR labels.c=d"}, "filter"},
		{"and in lower case", broker.ListQuery{Filter: "labels.a=b and labels.c=d"}, "filter"},
		{"and without a second", broker.ListQuery{Filter: "labels.a=b AND "}, "filter"},
		{"and without a first", broker.ListQuery{Filter: " AND labels.a=b"}, "filter"},
		{"and alone", broker.ListQuery{Filter: " AND "}, "filter"},
		{"two states", broker.ListQuery{Filter: "state=active AND state=deleted"}, "filter"},
		{"two values of one label", broker.ListQuery{Filter: "labels.a=b AND labels.a=c"}, "filter"},
		{"two prefixes", broker.ListQuery{Filter: "prefix=a AND prefix=ab"}, "filter"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := f.ListClients(t.Context(), test.query)
			wantField(t, "ListClients", err, test.field)
			if err != nil && len(err.Error()) > 500 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestListReportsWhatCannotBeRead(t *testing.T) {
	f, _ := many(t, 6)
	f.memory.Put("clients/"+shard("b-client-1")+"/b-client-1", `{"schema":9}`)
	f.memory.Remove("clients/"+shard("c-client-2")+"/c-client-2", broker.AbsentDeleted)
	f.memory.Remove("clients/"+shard("a-client-3")+"/a-client-3", broker.AbsentNeverExisted)
	for _, size := range []int{0, 1} {
		got, _ := listAll(t, f, broker.ListQuery{PageSize: size})
		slices.Sort(got)
		if want := []string{"b-client-4", "c-client-5", "unreadable b-client-1", "unreadable c-client-2"}; !slices.Equal(got, want) {
			t.Errorf("page size %d: %q, want %q", size, got, want)
		}
	}
}

func TestListWhileTheStoreFails(t *testing.T) {
	f, _ := many(t, 6)
	f.store.Always(brokertest.Fail(broker.ReasonStoreSealed), brokertest.On(brokertest.OpList, ""))
	_, err := f.ListClients(t.Context(), broker.ListQuery{})
	wantReason(t, "ListClients", err, broker.ReasonStoreSealed)
	f.store.Heal()

	ctx, cancel := context.WithCancel(t.Context())
	f.store.Once(brokertest.Before(func(brokertest.Call) { cancel() }), brokertest.On(brokertest.OpRead, "clients/"))
	_, err = f.ListClients(ctx, broker.ListQuery{})
	wantReason(t, "ListClients of a caller that left", err, broker.ReasonDeadlineExceeded)
}

// TestListOfAnEmptyStore also makes nothing.
func TestListOfAnEmptyStore(t *testing.T) {
	f := newFixture(t)
	page, err := f.ListClients(t.Context(), broker.ListQuery{})
	if err != nil || len(page.Clients)+len(page.Unreadable) != 0 || page.NextPageToken != "" {
		t.Errorf("ListClients = %+v, %v, want an empty page", page, err)
	}
}

// TestListWhileClientsAreMade: those that were there before are all listed once,
// whatever is added meanwhile.
func TestListWhileClientsAreMade(t *testing.T) {
	f, ids := many(t, 100)
	var group sync.WaitGroup
	group.Go(func() {
		for i := range 200 {
			n := newClient(fmt.Sprintf("new-%d", i))
			if _, err := f.CreateClient(t.Context(), n); err != nil {
				t.Errorf("CreateClient: %v", err)
				return
			}
		}
	})
	got, _ := listAll(t, f, broker.ListQuery{PageSize: 3})
	group.Wait()
	seen := map[string]int{}
	for _, id := range got {
		seen[id]++
	}
	for i, id := range ids {
		if want := min(i%7, 1); seen[id] != want {
			t.Errorf("%s was listed %d times, want %d", id, seen[id], want)
		}
	}
	for id, n := range seen {
		if n > 1 {
			t.Errorf("%s was listed %d times", id, n)
		}
	}
}

// TestListReadsInMeasure: a page that matches little ends after 2,000 records, and
// no more than 16 reads are under way at once.
func TestListReadsInMeasure(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	record := recordOf(t, f.memory, keyUnder(t, f.memory, "clients/"))
	for i := range 2500 {
		id := fmt.Sprintf("client-%d", i)
		f.memory.Put("clients/"+shard(id)+"/"+id, strings.Replace(record, `"id":"acme"`, `"id":"`+id+`"`, 1))
	}
	var mu sync.Mutex
	underWay, most := 0, 0
	count := func(by int) func(brokertest.Call) {
		return func(brokertest.Call) {
			mu.Lock()
			defer mu.Unlock()
			underWay += by
			most = max(most, underWay)
		}
	}
	fault := brokertest.Before(count(+1))
	fault.After = brokertest.After(count(-1)).After
	f.store.Reset()
	f.store.Always(fault, brokertest.On(brokertest.OpRead, "clients/"))
	page, err := f.ListClients(t.Context(), broker.ListQuery{Filter: "labels.nobody=has"})
	if err != nil || len(page.Clients) != 0 || page.NextPageToken == "" {
		t.Errorf("ListClients = %d clients, next %q, %v, want an empty page that is not the last", len(page.Clients), page.NextPageToken, err)
	}
	if got := f.store.Count(brokertest.On(brokertest.OpRead, "clients/")); got < 2000 || got > 2016 {
		t.Errorf("%d reads, want 2,000 and no more than a batch over", got)
	}
	if most > 16 {
		t.Errorf("%d reads at once, want at most 16", most)
	}
	if got, _ := listAll(t, f, broker.ListQuery{PageSize: 1000}); len(got) != 2501 {
		t.Errorf("%d clients in all, want 2,501", len(got))
	}
}

// TestListBySecretExpiry finds those whose current secret expires soon, or has.
func TestListBySecretExpiry(t *testing.T) {
	f := newFixture(t)
	now := time.Now()
	for id, expires := range map[string]time.Duration{"never": 0, "passed": -time.Hour, "soon": 10 * 24 * time.Hour, "later": 100 * 24 * time.Hour} {
		f.create(t, id, func(n *broker.NewClient) {
			if expires != 0 {
				n.Secret.ExpireTime = now.Add(expires)
			}
		})
	}
	f.create(t, "without", func(n *broker.NewClient) { n.Secret = broker.SecretInput{} })
	at := func(d time.Duration) string { return now.Add(d).UTC().Format(time.RFC3339) }
	for filter, want := range map[string][]string{
		"secret_expires_before=336h":                     {"passed", "soon"},
		"secret_expires_before=0s":                       {"passed"},
		"secret_expires_before=8760h":                    {"later", "passed", "soon"},
		"secret_expires_before=" + at(11*24*time.Hour):   {"passed", "soon"},
		"secret_expires_before=" + at(-2*time.Hour):      nil,
		"prefix=s AND secret_expires_before=336h":        {"soon"},
		"secret_expires_before=8760h AND state=disabled": nil,
		"secret_expires_before=8760h AND state=active":   {"later", "passed", "soon"},
	} {
		got, _ := listAll(t, f, broker.ListQuery{Filter: filter})
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
}
