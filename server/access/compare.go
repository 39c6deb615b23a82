package access

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// callerSet has a bit for each caller and one more, the last, for "*": a row for
// every caller is also one for callers that are yet to be listed.
type callerSet []uint64

func newCallerSet(callers int) callerSet { return make(callerSet, callers/64+1) }

func (s callerSet) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s callerSet) remove(i int)   { s[i/64] &^= 1 << (i % 64) }
func (s callerSet) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

func (s callerSet) fill() {
	for i := range s {
		s[i] = ^uint64(0)
	}
}

// common returns a caller of both sets, preferring the first that is listed.
func (s callerSet) common(other callerSet) (int, bool) {
	for i := range s {
		if both := s[i] & other[i]; both != 0 {
			return i*64 + bits.TrailingZeros64(both), true
		}
	}
	return 0, false
}

// subtract takes the callers of other out of s.
func (s callerSet) subtract(other callerSet) {
	for i := range s {
		s[i] &^= other[i]
	}
}

func (s callerSet) empty() bool {
	return !slices.ContainsFunc(s, func(word uint64) bool { return word != 0 })
}

// compare finds what is wrong with rows beside each other: those that contradict one
// another, and those that add nothing.
func (p *parser) compare() {
	c := &comparison{parser: p, index: newPatternIndex(), verdicts: make([]permissionSet, len(p.rows)*len(p.rows)), contradicts: make([]bool, len(p.rows)), idle: make([]bool, len(p.rows))}
	for _, r := range p.rows {
		for _, client := range r.clients {
			c.index.add(client, len(c.entries))
			c.entries = append(c.entries, entry{r, client})
		}
	}
	c.contradictions()
	for _, r := range slices.Backward(p.rows) { // of two equal rows the later one is idle
		if !c.contradicts[r.Index] {
			c.findIdle(r)
		}
	}
}

// entry is one pattern of a row's clients.
type entry struct {
	row    *row
	client pattern
}

type comparison struct {
	*parser
	entries []entry
	index   *patternIndex // of entries
	// verdicts has, by the indexes of two rows, the permissions about which they do not
	// agree; 0 is not known yet, and settled a pair that agrees or was reported.
	verdicts          []permissionSet
	contradicts, idle []bool // by index of row
}

// settled is no permission's bit.
const settled permissionSet = 1 << 31

// contradictions reports each pair of rows that can match the same call and do not
// agree. Of two names that meet one covers the other, so looking up what covers each
// finds all such pairs; labels may be on any client and are compared with everything.
func (c *comparison) contradictions() {
	for _, e := range c.entries {
		if e.client.kind != labelClient {
			for _, i := range c.index.covering(e.client) {
				c.contradiction(c.entries[i], e)
			}
			continue
		}
		for _, other := range c.rows {
			for i := 0; i < len(other.clients) && *c.verdict(other, e.row) != settled; i++ {
				c.contradiction(entry{other, other.clients[i]}, e)
			}
		}
	}
}

// verdict returns where the permissions stand about which two rows do not agree.
func (c *comparison) verdict(a, b *row) *permissionSet {
	if a.Index > b.Index {
		a, b = b, a
	}
	v := &c.verdicts[a.Index*len(c.rows)+b.Index]
	if *v == 0 && a != b {
		*v = a.disputed(b)
	}
	if *v == 0 {
		*v = settled
	}
	return v
}

func (c *comparison) contradiction(a, b entry) {
	verdict := c.verdict(a.row, b.row)
	if *verdict == settled {
		return
	}
	if a.row.Index > b.row.Index {
		a, b = b, a
	}
	ids, ok := a.client.meet(b.client)
	takenAway := func(e pattern) bool { return e.covers(ids) }
	if !ok || slices.ContainsFunc(a.row.except, takenAway) || slices.ContainsFunc(b.row.except, takenAway) {
		return
	}
	c.contradicts[a.row.Index], c.contradicts[b.row.Index] = true, true
	c.add(fmt.Sprintf("rules[%d]", b.row.Index), "contradicts %v: both grant %v to %s for %s, with other %s; make them agree, or take it out of one by except",
		a.row, verdict.first(), c.anyOfBoth(a.row, b.row), describe(ids, a.client, b.client), a.row.difference(b.row))
	*verdict = settled
}

// disputed returns the permissions that both rows grant to somebody and do not say
// the same about. Rows with limits always differ, because each counts by itself.
func (r *row) disputed(other *row) permissionSet {
	both := r.permissions & other.permissions
	if both == 0 {
		return 0
	}
	if _, ok := r.callers.common(other.callers); !ok {
		return 0
	}
	if r.limits != nil || other.limits != nil {
		return both
	}
	if !r.subjects.equal(other.subjects) && both&subjectPermissions != 0 {
		return both & subjectPermissions
	}
	if r.scopes.equal(other.scopes) && r.audiences.equal(other.audiences) && r.resources.equal(other.resources) {
		return 0
	}
	return both & tokenPermissions
}

func (r *row) difference(other *row) string {
	switch {
	case r.permissions&other.permissions&subjectPermissions != 0 && !r.subjects.equal(other.subjects):
		return "subjects"
	case r.permissions&other.permissions&tokenPermissions == 0:
		return "limits"
	case !r.scopes.equal(other.scopes):
		return "scopes"
	case !r.audiences.equal(other.audiences):
		return "audiences"
	case !r.resources.equal(other.resources):
		return "resources"
	default:
		return "limits"
	}
}

func (c *comparison) anyOfBoth(a, b *row) string {
	if i, _ := a.callers.common(b.callers); i < len(c.callers) {
		return c.callers[i].name
	}
	return everything
}

// describe says which clients have such an id and match both patterns.
func describe(ids, a, b pattern) string {
	text := "any client"
	if ids.kind != anyClient {
		text = ids.String()
	}
	var labels []string
	for _, p := range []pattern{a, b} {
		if p.kind == labelClient && !slices.Contains(labels, p.key+"="+p.value) {
			labels = append(labels, p.key+"="+p.value)
		}
	}
	if len(labels) > 0 {
		text += " labelled " + strings.Join(labels, " and ")
	}
	return text
}

// findIdle reports r if other rows grant all that it grants.
func (c *comparison) findIdle(r *row) {
	var by []*row
	for _, client := range r.clients {
		over := c.covering(r, client)
		for _, permission := range r.permissions.list() {
			left := slices.Clone(r.callers)
			for _, other := range over {
				if other.permissions.has(permission) {
					left.subtract(other.callers)
				}
			}
			if !left.empty() {
				return
			}
		}
		for _, other := range over {
			if !slices.Contains(by, other) {
				by = append(by, other)
			}
		}
	}
	c.idle[r.Index] = true
	slices.SortFunc(by, func(a, b *row) int { return a.Index - b.Index })
	names := make([]string, 0, len(by))
	for _, other := range by {
		names = append(names, other.String())
	}
	c.add(fmt.Sprintf("rules[%d]", r.Index), "adds nothing, because all of it is granted by %s", short(names))
}

// covering returns the rows, other than r and those that are idle, that match every
// client which r matches by that pattern. None is there twice, because no entry of a
// row covers another.
func (c *comparison) covering(r *row, client pattern) []*row {
	var rows []*row
	for _, i := range c.index.covering(client) {
		other := c.entries[i].row
		if other == r || c.idle[other.Index] || other.permissions&r.permissions == 0 {
			continue
		}
		if _, ok := other.callers.common(r.callers); !ok {
			continue
		}
		cut := slices.ContainsFunc(other.except, func(e pattern) bool {
			ids, ok := e.meet(client)
			return ok && !slices.ContainsFunc(r.except, func(own pattern) bool { return own.covers(ids) })
		})
		if !cut {
			rows = append(rows, other)
		}
	}
	return rows
}
