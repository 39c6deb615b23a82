package broker

import (
	"context"
	"strings"
	"sync"
	"time"
)

const (
	// namesFor is how long a list of all names is used: names near to one that is not
	// there are a hint, and a client that mistypes all day must not list the store all day.
	namesFor = time.Minute
	// listNamesFor bounds the listing, nearMost what is offered of it.
	listNamesFor = time.Second
	nearMost     = 3
)

// names is a list of all clients' ids, as far as it could be had in time. Safe for
// concurrent use.
type names struct {
	mu   sync.Mutex // held while the store is listed: once is enough
	list []string   // guarded by mu
	time time.Time  // guarded by mu; when the listing began
}

// withNearMisses adds to CLIENT_NOT_FOUND which names are near to it, of those that the
// peer may be told of.
func (b *Broker) withNearMisses(ctx context.Context, check LookupCheck, err error) error {
	if ReasonOf(err) != ReasonClientNotFound || check.NearMisses == nil {
		return err
	}
	var near []string
	for _, name := range b.allNames(ctx) {
		if len(near) < nearMost && isNear(check.ClientID, name) && check.NearMisses(name) {
			near = append(near, name)
		}
	}
	if len(near) == 0 {
		return err
	}
	e := *AsError(err)
	e.Detail = "near to it: " + strings.Join(near, ", ")
	return &e
}

// allNames lists the index, or returns what it listed lately.
func (b *Broker) allNames(ctx context.Context) []string {
	n := &b.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); n.time.IsZero() || now.Sub(n.time) >= namesFor {
		n.time, n.list = now, nil
		// Others use the list too, so it does not end with the call that happened to begin it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listNamesFor)
		defer cancel()
		shards, _ := b.store.List(ctx, "clients/") // a hint that cannot be had is none
		for _, shard := range shards {
			found, err := b.store.List(ctx, "clients/"+shard)
			if err != nil {
				break
			}
			n.list = append(n.list, found...)
		}
	}
	return n.list
}

// isNear reports whether two names differ by two edits at most, short ones by one or by
// two letters that were swapped, or only in what stands between their words.
func isNear(a, b string) bool {
	plain := func(s string) string { return notWord.ReplaceAllString(s, "") }
	if plain(a) == plain(b) || swapped(a, b) {
		return true
	}
	most := 2
	if len(a) <= 5 {
		most = 1
	}
	if difference := len(a) - len(b); difference > most || difference < -most || len(a) < 3 {
		return false
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)] <= most
}

// swapped reports whether two letters that stand side by side are all that two names
// differ in.
func swapped(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) - 1 {
		if a[i] != b[i] {
			return a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
		}
	}
	return false
}
