package access

import (
	"encoding/binary"
	"slices"
)

// Table is an access table. It is immutable and safe for concurrent use.
type Table struct {
	file       string
	generation uint64
	callers    []*caller
	rows       []*row
	identities map[string]*caller // normal identity → caller
	names      map[string]*caller
}

// caller is what a table knows of one caller.
type caller struct {
	name       string
	identities []string
	// requires are identities of which the peer must show one besides; empty for none.
	requires []string
	*policy
	// limits has a copy for each row that limits this caller: its address tells the
	// caller's count from that of others.
	limits map[*row]*Limits
}

// policy is what a set of rows grants. Callers of the same rows share it.
type policy struct {
	rows []*row
	// cells has what each permission is granted for; nil for a permission that is not.
	cells [lastPermission + 1]*cell
}

// cell is what one permission is granted for. Permissions of the same rows share it.
type cell struct {
	exact    map[string]*row
	prefixes map[string][]*row
	// lengths are those of the prefixes, longest first: each costs one look into the map.
	lengths []int
	any     []*row
	labels  []entry
}

// newTable compiles rows that were found to be sound.
func newTable(file string, callers []*caller, rows []*row) *Table {
	t := &Table{
		file: file, generation: 1, callers: callers, rows: rows,
		identities: make(map[string]*caller), names: make(map[string]*caller, len(callers)),
	}
	policies, cells := make(map[string]*policy), make(map[string]*cell) // by the indexes of rows
	for i, c := range callers {
		t.names[c.name] = c
		for _, identity := range c.identities {
			t.identities[identity] = c
		}
		own, key := only(rows, func(r *row) bool { return r.callers.has(i) })
		if policies[key] == nil {
			policies[key] = newPolicy(own, cells)
		}
		c.policy = policies[key]
		c.limits = make(map[*row]*Limits)
		for _, r := range own {
			if r.limits != nil {
				limits := *r.limits
				c.limits[r] = &limits
			}
		}
	}
	return t
}

// only returns the rows that are so, and a key that no others have.
func only(rows []*row, is func(*row) bool) (some []*row, key string) {
	var indexes []byte
	for _, r := range rows {
		if is(r) {
			some = append(some, r)
			indexes = binary.AppendUvarint(indexes, uint64(r.Index))
		}
	}
	return some, string(indexes)
}

func newPolicy(rows []*row, shared map[string]*cell) *policy {
	p := &policy{rows: rows}
	for _, permission := range Permissions() {
		granting, key := only(rows, func(r *row) bool { return r.permissions.has(permission) })
		if len(granting) == 0 {
			continue
		}
		if shared[key] == nil {
			shared[key] = newCell(granting)
		}
		p.cells[permission] = shared[key]
	}
	return p
}

func newCell(rows []*row) *cell {
	c := &cell{exact: make(map[string]*row), prefixes: make(map[string][]*row)}
	for _, r := range rows {
		for _, client := range r.clients {
			switch client.kind {
			case anyClient:
				c.any = append(c.any, r)
			case labelClient:
				c.labels = append(c.labels, entry{r, client})
			case prefixClient:
				c.prefixes[client.text] = append(c.prefixes[client.text], r)
				if n := len(client.text); !slices.Contains(c.lengths, n) {
					c.lengths = append(c.lengths, n)
				}
			case exactClient:
				if c.exact[client.text] == nil {
					c.exact[client.text] = r
				}
			}
		}
	}
	slices.SortFunc(c.lengths, func(a, b int) int { return b - a })
	return c
}

// named returns the row that grants by the client's id, nil if none does. Of several,
// which then say the same, it is the one that is most precise, then the first.
func (c *cell) named(id string) *row {
	if len(c.exact) > 0 {
		if r := c.exact[id]; r != nil {
			return r
		}
	}
	for _, n := range c.lengths {
		if n > len(id) {
			continue
		}
		for _, r := range c.prefixes[id[:n]] {
			if !r.excepts(id) {
				return r
			}
		}
	}
	for _, r := range c.any {
		if !r.excepts(id) {
			return r
		}
	}
	return nil
}

// labelled returns the row that grants by a label.
func (c *cell) labelled(id string, labels map[string]string) *row {
	for _, e := range c.labels {
		if e.client.matches(id, labels) && !e.row.excepts(id) {
			return e.row
		}
	}
	return nil
}

// excepts reports whether r leaves a client out. What is about no client is about all
// of them, so a row that leaves any out does not speak of it.
func (r *row) excepts(id string) bool {
	return len(r.except) > 0 && (id == "" || r.excepted.has(id))
}

// Generation numbers the tables that a [Reloader] made, from 1.
func (t *Table) Generation() uint64 { return t.generation }

// Identities returns every identity that the table gives to a caller or requires of
// one, in order.
func (t *Table) Identities() []string {
	var list []string
	for _, c := range t.callers {
		list = slices.Concat(list, c.identities, c.requires)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// File returns the name that the table was read under; "" if it was made otherwise.
func (t *Table) File() string { return t.file }

// Caller is somebody that a table lists. It belongs to that table: another table, also
// a later generation of the same file, denies it everything, because it may have given
// the identity to somebody else. The zero value is nobody.
type Caller struct {
	table    *Table
	entry    *caller
	identity string
}

// Name returns the name that the table gives the caller; "" for nobody.
func (c Caller) Name() string {
	if c.entry == nil {
		return ""
	}
	return c.entry.name
}

// Identity returns the identity by which the caller was found; "" for nobody.
func (c Caller) Identity() string { return c.identity }

// Table returns the table that lists the caller; nil for nobody.
func (c Caller) Table() *Table { return c.table }

// Caller returns who has an identity, spelled as by [NormalIdentity].
func (t *Table) Caller(identity string) (Caller, bool) {
	found, ok := t.identities[identity]
	if !ok {
		return Caller{}, false
	}
	return Caller{t, found, identity}, true
}

// Named returns the caller of that name, under the first of its identities.
func (t *Table) Named(name string) (Caller, bool) {
	found, ok := t.names[name]
	if !ok || len(found.identities) == 0 {
		return Caller{}, false
	}
	return Caller{t, found, found.identities[0]}, true
}

// Identify returns whose identities these are, which one peer has shown all of. Those
// that are not listed are passed over, and so are callers who require an identity that
// is not among these. Where two callers are left it is unknown which one speaks, and
// they are nobody's, unless one of them requires an identity of each other one: then
// it speaks, over the other's connection.
func (t *Table) Identify(identities ...string) (Caller, bool) {
	for _, identity := range identities {
		c := t.identities[identity]
		if c == nil || !c.complete(identities) || !t.speaks(c, identities) {
			continue
		}
		return Caller{t, c, identity}, true
	}
	return Caller{}, false
}

// speaks reports whether c is the only caller that identities name completely, or
// requires all others.
func (t *Table) speaks(c *caller, identities []string) bool {
	for _, identity := range identities {
		other := t.identities[identity]
		if other != nil && other != c && other.complete(identities) && (!c.over(other) || other.over(c)) {
			return false
		}
	}
	return true
}

// complete reports whether identities have what c requires.
func (c *caller) complete(identities []string) bool {
	return len(c.requires) == 0 || slices.ContainsFunc(c.requires, func(required string) bool { return slices.Contains(identities, required) })
}

// over reports whether c requires an identity of other.
func (c *caller) over(other *caller) bool {
	return slices.ContainsFunc(c.requires, func(required string) bool { return slices.Contains(other.identities, required) })
}

// May reports whether the caller has a permission for any client at all. It is what a
// call needs that answers for many clients and leaves out those that are not granted.
func (c Caller) May(p Permission) bool {
	return c.entry != nil && p.known() && c.entry.cells[p] != nil
}
