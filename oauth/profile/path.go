package profile

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

const (
	maxPathLength = 256
	maxPathSteps  = 16
)

// Path leads to a member of a JSON document. It is immutable.
type Path struct {
	text  string
	steps []step
}

// step is a member's name, or where that is "", an index.
type step struct {
	name  string
	index int
}

// ParsePath parses names joined by dots, each followed by any number of [indexes], as
// in "a.b[0].c". Names are all but '.', '[', ']', white space and control characters.
func ParsePath(text string) (Path, error) {
	if text == "" || len(text) > maxPathLength {
		return Path{}, fmt.Errorf("must have 1 to %d bytes", maxPathLength)
	}
	p := Path{text: text}
	for _, part := range strings.Split(text, ".") {
		name, indexes, indexed := strings.Cut(part, "[")
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == ']' }) {
			return Path{}, fmt.Errorf("%q is not a path such as a.b[0].c", text)
		}
		p.steps = append(p.steps, step{name: name})
		for indexed {
			var digits string
			digits, indexes, indexed = strings.Cut(indexes, "]")
			index, err := strconv.ParseUint(digits, 10, 16)
			if !indexed || err != nil || strconv.FormatUint(index, 10) != digits {
				return Path{}, fmt.Errorf("%q is not a path such as a.b[0].c", text)
			}
			p.steps = append(p.steps, step{index: int(index)})
			if indexes == "" {
				break
			}
			if indexes[0] != '[' {
				return Path{}, fmt.Errorf("%q is not a path such as a.b[0].c", text)
			}
			indexes = indexes[1:]
		}
	}
	if len(p.steps) > maxPathSteps {
		return Path{}, fmt.Errorf("%q has %d steps; at most %d", text, len(p.steps), maxPathSteps)
	}
	return p, nil
}

// String returns the path as it was written.
func (p Path) String() string { return p.text }

// Find returns the member of a document as encoding/json decodes it into an any; false
// if there is none. A member that is null is there.
func (p Path) Find(document any) (any, bool) {
	for _, s := range p.steps {
		if s.name != "" {
			members, _ := document.(map[string]any)
			member, ok := members[s.name]
			if !ok {
				return nil, false
			}
			document = member
			continue
		}
		list, _ := document.([]any)
		if s.index >= len(list) {
			return nil, false
		}
		document = list[s.index]
	}
	return document, p.text != ""
}

// Text returns the member as text, if it is text, a number, true or false. A number
// reads as it was written only if the document was decoded with UseNumber.
func (p Path) Text(document any) (string, bool) {
	member, ok := p.Find(document)
	if !ok {
		return "", false
	}
	switch m := member.(type) {
	case string:
		return m, true
	case json.Number:
		return m.String(), true
	case float64:
		return strconv.FormatFloat(m, 'f', -1, 64), true
	case bool:
		return strconv.FormatBool(m), true
	}
	return "", false
}

// Paths are tried in order.
type Paths []Path

// Find returns the first member that is there and not null.
func (p Paths) Find(document any) (any, bool) {
	for _, path := range p {
		if member, ok := path.Find(document); ok && member != nil {
			return member, true
		}
	}
	return nil, false
}

// Text returns the first member that is there, is text, a number, true or false, and
// is not empty.
func (p Paths) Text(document any) (string, bool) {
	for _, path := range p {
		if text, ok := path.Text(document); ok && text != "" {
			return text, true
		}
	}
	return "", false
}
