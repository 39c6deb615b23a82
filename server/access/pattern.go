package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// kind says how a pattern names clients.
type kind uint8

const (
	anyClient kind = iota
	exactClient
	prefixClient
	labelClient
)

const (
	everything  = "*"
	prefixMark  = "prefix:"
	labelMark   = "label:"
	maxID       = 128
	maxLabel    = 63
	patternForm = `an id such as acme-crm, "prefix:acme-", "label:team=crm", or "*"`
)

// pattern is one entry of a row's clients. Patterns are comparable.
type pattern struct {
	kind kind
	// text is the id or the prefix.
	text string
	// key and value are the label's.
	key, value string
}

// parsePattern refuses what no client can match: such a row looks as if it granted
// something and grants nothing.
func parsePattern(text string) (pattern, error) {
	switch {
	case text == everything:
		return pattern{kind: anyClient}, nil
	case strings.HasPrefix(text, prefixMark):
		prefix := strings.TrimPrefix(text, prefixMark)
		return pattern{kind: prefixClient, text: prefix}, prefixProblem(prefix)
	case strings.HasPrefix(text, labelMark):
		key, value, ok := strings.Cut(strings.TrimPrefix(text, labelMark), "=")
		p := pattern{kind: labelClient, key: key, value: value}
		switch {
		case !ok || value == "":
			return p, fmt.Errorf("%q has no value; write label:KEY=VALUE", text)
		case idProblem(key) != nil || len(key) > maxLabel:
			return p, fmt.Errorf("%q: a label's key has at most %d characters of a-z, 0-9, '.', '_' and '-'", text, maxLabel)
		case len(value) > maxLabel || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }):
			return p, fmt.Errorf("%q: a label's value has at most %d bytes and no control character", text, maxLabel)
		}
		return p, nil
	}
	if idProblem(text) != nil {
		return pattern{}, fmt.Errorf("%q names no client; write %s", text, patternForm)
	}
	return pattern{kind: exactClient, text: text}, nil
}

// idProblem returns what keeps text from being a client's id.
func idProblem(text string) error { return broker.CheckID("client", text) }

// prefixProblem returns what keeps every id from beginning with prefix. An id may go
// on with a letter unless it is full.
func prefixProblem(prefix string) error {
	if prefix == "" {
		return errors.New(`"prefix:" has nothing behind it; write "*" for all clients`)
	}
	longer := prefix
	if len(prefix) < maxID {
		longer += "a"
	}
	if idProblem(longer) != nil {
		return fmt.Errorf("%q: no client's id begins so", prefixMark+prefix)
	}
	return nil
}

// String returns the pattern as it is written.
func (p pattern) String() string {
	switch p.kind {
	case exactClient:
		return p.text
	case prefixClient:
		return prefixMark + p.text
	case labelClient:
		return labelMark + p.key + "=" + p.value
	default:
		return everything
	}
}

// matches reports whether p matches a client; labels that are nil are unknown.
func (p pattern) matches(id string, labels map[string]string) bool {
	switch p.kind {
	case exactClient:
		return id == p.text
	case prefixClient:
		return strings.HasPrefix(id, p.text)
	case labelClient:
		value, ok := labels[p.key]
		return ok && value == p.value && id != ""
	default:
		return true
	}
}

// name is the part of p that is about ids: a label may be on a client of any id.
func (p pattern) name() pattern {
	if p.kind == labelClient {
		return pattern{kind: anyClient}
	}
	return p
}

// covers reports whether each client that q matches p matches too.
func (p pattern) covers(q pattern) bool {
	switch p.kind {
	case anyClient:
		return true
	case prefixClient:
		return (q.kind == prefixClient || q.kind == exactClient) && strings.HasPrefix(q.text, p.text)
	default:
		return p == q
	}
}

// meet reports whether a client can match both p and q, and which ids such clients
// have.
func (p pattern) meet(q pattern) (ids pattern, ok bool) {
	if p.kind == labelClient && q.kind == labelClient && p.key == q.key && p.value != q.value {
		return pattern{}, false // a client has one value for a key
	}
	switch a, b := p.name(), q.name(); {
	case a.covers(b):
		return b, true
	case b.covers(a):
		return a, true
	default:
		return pattern{}, false
	}
}

// nameSet finds out fast whether an id matches one of many exact names and prefixes.
type nameSet struct {
	exact    map[string]bool
	prefixes []string
}

func newNameSet(patterns []pattern) nameSet {
	var s nameSet
	for _, p := range patterns {
		if p.kind == prefixClient {
			s.prefixes = append(s.prefixes, p.text)
			continue
		}
		if s.exact == nil {
			s.exact = make(map[string]bool)
		}
		s.exact[p.text] = true
	}
	return s
}

func (s *nameSet) has(id string) bool {
	return s.exact[id] || slices.ContainsFunc(s.prefixes, func(prefix string) bool { return strings.HasPrefix(id, prefix) })
}

// patternIndex finds the patterns that cover another without looking at all of them.
type patternIndex struct {
	// exact also holds the labels; prefixes is prefix → numbers, with "" for "*".
	exact    map[pattern][]int
	prefixes map[string][]int
}

func newPatternIndex() *patternIndex {
	return &patternIndex{exact: make(map[pattern][]int), prefixes: make(map[string][]int)}
}

// add keeps a pattern under a number of the caller's.
func (x *patternIndex) add(p pattern, number int) {
	if p.kind == anyClient || p.kind == prefixClient {
		x.prefixes[p.text] = append(x.prefixes[p.text], number)
		return
	}
	x.exact[p] = append(x.exact[p], number)
}

// covering returns the numbers of the patterns that cover p, its equals included.
func (x *patternIndex) covering(p pattern) []int {
	var numbers []int
	for n := range len(p.text) + 1 { // the text of "*" and of a label is empty
		numbers = append(numbers, x.prefixes[p.text[:n]]...)
	}
	return append(numbers, x.exact[p]...)
}
