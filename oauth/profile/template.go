package profile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// template is text with variables as "{tenant}". The zero template is "".
type template struct {
	// parts alternate: text, variable, text …; there is an odd number of them, or none.
	parts []string
}

func parseTemplate(text string) (template, error) {
	var t template
	for {
		before, rest, found := strings.Cut(text, "{")
		if strings.Contains(before, "}") {
			return template{}, errors.New("has a } without a {")
		}
		t.parts = append(t.parts, before)
		if !found {
			return t, nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return template{}, errors.New("has a { without a }")
		}
		if !isVariableName(name) {
			return template{}, fmt.Errorf("{%.64s} does not name a variable: a name has a-z, 0-9 and _, and begins with a letter", name)
		}
		t.parts = append(t.parts, name)
		text = after
	}
}

// variables lists the names in t, in their order.
func (t template) variables() []string {
	var names []string
	for i := 1; i < len(t.parts); i += 2 {
		names = append(names, t.parts[i])
	}
	return names
}

// expand puts values, after escape, in the place of variables.
func (t template) expand(values map[string]string, escape func(string) string) string {
	if len(t.parts) == 1 {
		return t.parts[0]
	}
	var b strings.Builder
	for i, part := range t.parts {
		if i%2 == 1 {
			part = escape(values[part])
		}
		b.WriteString(part)
	}
	return b.String()
}

func asIs(s string) string { return s }

func isVariableName(name string) bool {
	const letters, others = "abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz0123456789_"
	return name != "" && len(name) <= maxVariableName && strings.Contains(letters, name[:1]) && strings.Trim(name, others) == ""
}

// templates are those of a mapping, by its keys.
type templates map[string]template

func (t templates) expand(values map[string]string) map[string]string {
	if len(t) == 0 {
		return nil
	}
	expanded := make(map[string]string, len(t))
	for name, text := range t {
		expanded[name] = text.expand(values, asIs)
	}
	return expanded
}

func (t templates) variables() []string {
	var names []string
	for _, text := range t {
		names = append(names, text.variables()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
