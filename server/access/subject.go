package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	maxSubjects      = 1000
	maxSubjectLength = 256
)

// subjectPermissions are those whose calls may name the subject of a user's grant.
const subjectPermissions = tokenPermissions | 1<<AuthorizationStart | 1<<AuthorizationComplete | 1<<AuthorizationRead |
	1<<AuthorizationImport | 1<<AuthorizationRevoke

// Subjects are those whom a row lets a call name: ids of an application's users, in its
// own words. nil are none. It is immutable.
type Subjects struct {
	// patterns are as the file has them.
	patterns []string
	all      bool
	names    nameSet
}

// Patterns returns the subjects as they are written. The list is shared and must not be
// changed.
func (s *Subjects) Patterns() []string {
	if s == nil {
		return nil
	}
	return s.patterns
}

// Has reports whether a call may name subject. Calls that name none need no row for it.
func (s *Subjects) Has(subject string) bool {
	return subject == "" || s != nil && (s.all || s.names.has(subject))
}

// String says whom s names, for people.
func (s *Subjects) String() string {
	if s == nil {
		return "none; calls that name a subject are denied"
	}
	return short(s.patterns)
}

// equal reports whether both, of which either may be nil, say the same.
func (s *Subjects) equal(other *Subjects) bool {
	return slices.Equal(sorted(s.Patterns()), sorted(other.Patterns()))
}

// Subject returns CALLER_NOT_ALLOWED for a subject that the row does not let the call
// name; "" names none.
func (d *Decision) Subject(subject string) error {
	if d.Subjects.Has(subject) {
		return nil
	}
	return &broker.Error{
		Reason: broker.ReasonCallerNotAllowed,
		Detail: fmt.Sprintf("%v does not have the subject among its subjects", d.Row),
	}
}

// subjects validates those of a row.
func (p *parser) subjects(key string, texts []string, made *row) {
	if texts == nil {
		return
	}
	if made.permissions != 0 && made.permissions&subjectPermissions == 0 {
		p.add(key, "is for token.get, token.watch and those of authorizations, which the row does not grant")
	}
	if !p.listed(key, len(texts), false, maxSubjects) {
		return
	}
	s := &Subjects{patterns: texts}
	parsed := make([]pattern, 0, len(texts))
	for i, text := range texts {
		at := fmt.Sprintf("%s[%d]", key, i)
		prefix, isPrefix := strings.CutPrefix(text, prefixMark)
		switch {
		case text == everything && len(texts) > 1:
			p.add(at, `"*" is every subject; the others add nothing`)
		case text == everything:
			s.all = true
			continue
		case isPrefix && prefix == "":
			p.add(at, `"prefix:" has nothing behind it; write "*" for all subjects`)
		case len(strings.TrimPrefix(text, prefixMark)) > maxSubjectLength || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }) || text == "":
			p.add(at, "%.80q names no subject: 1 to %d bytes without control characters", text, maxSubjectLength)
		case slices.Contains(texts[:i], text):
			p.add(at, "%.140q is there twice", text)
		case slices.ContainsFunc(texts, func(other string) bool {
			wider, ok := strings.CutPrefix(other, prefixMark)
			return ok && other != text && wider != "" && strings.HasPrefix(strings.TrimPrefix(text, prefixMark), wider)
		}):
			p.add(at, "%.140q is covered by another entry", text)
		}
		made := pattern{kind: exactClient, text: text}
		if isPrefix {
			made = pattern{kind: prefixClient, text: prefix}
		}
		parsed = append(parsed, made)
	}
	s.names = newNameSet(parsed)
	made.subjects = s
}
