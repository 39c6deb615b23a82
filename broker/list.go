package broker

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	defaultPageSize = 50
	maxPageSize     = 1000
	// maxScan bounds the records that one page reads: a filter that matches little
	// yields short pages, not long calls (AIP-158).
	maxScan = 2000
	// readsAtOnce bounds the reads that one page has under way.
	readsAtOnce = 16
)

// ListQuery asks for one page of clients.
type ListQuery struct {
	// PageSize is at most 1,000; 0 means 50.
	PageSize int
	// PageToken is the NextPageToken of the page before; "" begins.
	PageToken string
	// Filter joins conditions by AND: labels.KEY=VALUE, state=STATE, prefix=PREFIX,
	// secret_expires_before=DURATION from now or =TIME.
	Filter string
	// Shown reports whether a client of that id and labels may be shown; one whose
	// record cannot be read has nil labels. nil shows all.
	Shown func(id string, labels map[string]string) bool
}

// shownFilter is a filter and what may be shown at all.
type shownFilter struct {
	filter
	shown func(id string, labels map[string]string) bool
}

func (q ListQuery) shows(f filter) shownFilter {
	if q.Shown == nil {
		return shownFilter{f, func(string, map[string]string) bool { return true }}
	}
	return shownFilter{f, q.Shown}
}

// ClientPage is one page of clients.
type ClientPage struct {
	Clients []*Client
	// Unreadable are clients whose record could not be read.
	Unreadable []UnreadableClient
	// NextPageToken is "" on the last page.
	NextPageToken string
}

// UnreadableClient is a client whose record could not be read, and why.
type UnreadableClient struct {
	ID     string
	Reason Reason
}

// filter is a parsed ListQuery.Filter.
type filter struct {
	labels map[string]string // label → value it must have
	state  State             // "" means any but deleted
	prefix string
	// expiresBefore is when the current secret must have expired; zero means whenever.
	expiresBefore time.Time
}

func parseFilter(text string) (filter, error) {
	f := filter{labels: map[string]string{}}
	const grammar = "conditions are labels.KEY=VALUE, state=active|disabled|deleted, prefix=PREFIX and secret_expires_before=DURATION or TIME, joined by AND"
	if len(text) > 2048 {
		return f, Invalid("filter", "has %d bytes; at most 2048", len(text))
	}
	var seen []string
	for _, term := range strings.Split(text, " AND ") {
		if term = strings.TrimSpace(term); term == "" && strings.TrimSpace(text) == "" {
			continue
		}
		name, value, ok := strings.Cut(term, "=")
		if slices.Contains(seen, name) { // both are meant, and only one would count
			return f, Invalid("filter", "names %q twice", truncate(name, 64))
		}
		seen = append(seen, name)
		label, isLabel := strings.CutPrefix(name, "labels.")
		switch {
		case !ok || strings.ContainsAny(value, " \""):
			return f, Invalid("filter", "has %q; %s", truncate(term, 64), grammar)
		case isLabel && idProblem(label) == "":
			f.labels[label] = value
		case name == "prefix":
			f.prefix = value
		case name == "state" && slices.Contains([]State{StateActive, StateDisabled, StateDeleted}, State(value)):
			f.state = State(value)
		case name == "secret_expires_before":
			if f.expiresBefore, ok = moment(value); !ok {
				return f, Invalid("filter", "has %q; it takes a duration from now such as 720h, or a time such as 2027-01-31T00:00:00Z", truncate(term, 64))
			}
		default:
			return f, Invalid("filter", "has %q; %s", truncate(term, 64), grammar)
		}
	}
	return f, nil
}

// moment returns the time that text names, or that lies so far ahead.
func moment(text string) (time.Time, bool) {
	if ahead, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(ahead), true
	}
	at, err := time.Parse(time.RFC3339, text)
	return at, err == nil && !at.IsZero()
}

func (f filter) matches(c *Client) bool {
	if current, _ := c.Staged(Current); !f.expiresBefore.IsZero() && (current.ExpireTime.IsZero() || !current.ExpireTime.Before(f.expiresBefore)) {
		return false
	}
	if f.state == "" && c.State() == StateDeleted || f.state != "" && f.state != c.State() {
		return false
	}
	for key, value := range f.labels {
		if got, ok := c.Labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// cursor is the last client that was looked at. Clients are ordered by the hash of
// their id, and a token holds the hash only: the last one that was looked at may be
// one that the caller is not shown.
type cursor struct {
	Filter string `json:"f"` // hash of the filter that the token belongs to
	After  string `json:"a"` // hash of the id, hex
}

func idHash(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}

func filterHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

func isHash(text string) bool {
	decoded, err := hex.DecodeString(text)
	return err == nil && len(decoded) == sha256.Size
}

func (q ListQuery) cursor() (cursor, error) {
	var at cursor
	if q.PageToken == "" {
		return at, nil
	}
	decoded, err := base64.RawURLEncoding.DecodeString(q.PageToken)
	if err != nil || json.Unmarshal(decoded, &at) != nil || !isHash(at.After) {
		return at, Invalid("page_token", "is not a token that ListClients gave")
	}
	if at.Filter != filterHash(q.Filter) {
		return at, Invalid("page_token", "belongs to another filter")
	}
	return at, nil
}

// ListClients returns one page, reading one shard's names at a time.
// INVALID_REQUEST or a reason of the store.
func (b *Broker) ListClients(ctx context.Context, q ListQuery) (ClientPage, error) {
	f, err := parseFilter(q.Filter)
	if err != nil {
		return ClientPage{}, err
	}
	at, err := q.cursor()
	if err != nil {
		return ClientPage{}, err
	}
	if q.PageSize < 0 {
		return ClientPage{}, Invalid("page_size", "is negative")
	}
	size := min(q.PageSize, maxPageSize)
	if size == 0 {
		size = defaultPageSize
	}
	shards, err := b.store.List(ctx, "clients/")
	if err != nil {
		return ClientPage{}, err
	}
	page, scanned := ClientPage{}, 0
	for _, shard := range shards {
		shard = strings.TrimSuffix(shard, "/")
		if at.After != "" && shard < at.After[:len(shardOf(""))] {
			continue
		}
		ids, err := b.store.List(ctx, "clients/"+shard+"/")
		if err != nil {
			return ClientPage{}, err
		}
		ids = slices.DeleteFunc(ids, func(id string) bool {
			return idProblem(id) != "" || shardOf(id) != shard || !strings.HasPrefix(id, f.prefix) ||
				idHash(id) <= at.After
		})
		slices.SortFunc(ids, func(a, b string) int { return strings.Compare(idHash(a), idHash(b)) })
		for batch := range slices.Chunk(ids, readsAtOnce) {
			scanned += len(batch)
			last := b.readBatch(ctx, batch, q.shows(f), size, &page)
			if len(page.Clients)+len(page.Unreadable) >= size || scanned >= maxScan {
				page.NextPageToken = cursor{filterHash(q.Filter), idHash(last)}.token()
				return page, listed(ctx)
			}
		}
	}
	return page, listed(ctx)
}

// listed returns why a page is not what it should be: the caller left.
func listed(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &Error{Reason: ReasonDeadlineExceeded, Op: "list clients", Err: err}
	}
	return nil
}

func (c cursor) token() string {
	encoded, _ := json.Marshal(c) // two strings always encode
	return base64.RawURLEncoding.EncodeToString(encoded)
}

// readBatch reads clients side by side and adds those that match to page, in
// order, until it is full. It returns the last id that was looked at.
func (b *Broker) readBatch(ctx context.Context, ids []string, f shownFilter, size int, page *ClientPage) string {
	clients, errs := make([]*Client, len(ids)), make([]error, len(ids))
	var group errgroup.Group
	for i, id := range ids {
		group.Go(func() error {
			errs[i] = b.guarded(ctx, func() (err error) {
				clients[i], err = b.readClient(ctx, id)
				return err
			})
			return nil
		})
	}
	_ = group.Wait()
	for i, id := range ids {
		switch {
		case ReasonOf(errs[i]) == ReasonClientNotFound:
		case errs[i] != nil && !f.shown(id, nil):
		case errs[i] != nil:
			page.Unreadable = append(page.Unreadable, UnreadableClient{id, ReasonOf(errs[i])})
		case f.matches(clients[i]) && f.shown(id, clients[i].Labels):
			page.Clients = append(page.Clients, clients[i])
		}
		if len(page.Clients)+len(page.Unreadable) >= size {
			return id
		}
	}
	return ids[len(ids)-1]
}
