package profile

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxVariables     = 16
	maxVariableName  = 32
	maxVariableValue = 512
	maxPattern       = 512
	defaultPattern   = `[A-Za-z0-9._-]+`
)

// variable is a [Variable] whose pattern and default are parsed.
type variable struct {
	pattern *regexp.Regexp
	// runes are what a value that the pattern matches may consist of, as ranges.
	runes    []rune
	fallback template
	required bool
}

// checkVariables parses the variables, and finds what is wrong with them besides their
// use.
func checkVariables(c *checker, declared map[string]Variable) map[string]variable {
	if len(declared) > maxVariables {
		c.add("variables", "has %d entries; at most %d", len(declared), maxVariables)
	}
	parsed := make(map[string]variable, len(declared))
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		at, v := "variables."+name, declared[name]
		if !isVariableName(name) {
			c.add(at, "a name has up to %d of a-z, 0-9 and _, and begins with a letter", maxVariableName)
		}
		if name == "token_endpoint" || name == "issuer" || slices.Contains(claimVariables, name) {
			c.add(at, "is what assertion_audience or assertion_claims calls the client's own; choose another name")
		}
		c.text(at+".description", v.Description)
		c.text(at+".example", v.Example)
		p := variable{required: v.Default == ""}
		var err error
		if p.pattern, p.runes, err = compilePattern(v.Pattern); err != nil {
			c.add(at+".pattern", "%v", err)
		}
		if p.fallback, err = parseTemplate(v.Default); err != nil {
			c.add(at+".default", "%v", err)
		}
		parsed[name] = p
		if v.Example == "" && v.Default == "" {
			c.add(at+".example", "is required of a variable without default")
		}
		if len(p.fallback.variables()) == 0 && v.Default != "" {
			c.value(at+".default", v.Default, p)
		}
		if v.Example != "" {
			c.value(at+".example", v.Example, p)
		}
	}
	checkDefaults(c, parsed)
	return parsed
}

// value checks a value that the profile itself has.
func (c *checker) value(at, value string, v variable) {
	if v.pattern == nil {
		return
	}
	if problem := valueProblem(value, v); problem != "" {
		c.add(at, "%s", problem)
	}
}

// checkDefaults finds defaults that name what is not there or lead back to themselves.
func checkDefaults(c *checker, variables map[string]variable) {
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string, way []string)
	visit = func(name string, way []string) {
		switch state[name] {
		case done:
			return
		case visiting:
			from := slices.Index(way, name)
			c.add("variables."+name+".default", "names itself: %s", strings.Join(append(way[from:], name), " → "))
			return
		}
		state[name] = visiting
		for _, next := range variables[name].fallback.variables() {
			if _, ok := variables[next]; !ok {
				c.add("variables."+name+".default", "names {%s}, which is not among variables", next)
				continue
			}
			visit(next, append(slices.Clone(way), name))
		}
		state[name] = done
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		visit(name, nil)
	}
}

// compilePattern compiles a pattern for whole values, and says of what these may consist.
func compilePattern(pattern string) (*regexp.Regexp, []rune, error) {
	if pattern == "" {
		pattern = defaultPattern
	}
	if _, err := compileRegexp(pattern); err != nil { // by itself: "a)(b" would fit into a group
		return nil, nil, err
	}
	whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, nil, errors.New("is not a regular expression that can be matched as a whole")
	}
	if whole.MatchString("") {
		return nil, nil, errors.New("matches the empty text, which would mean that nothing was said")
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, nil, errors.New("is not a regular expression")
	}
	return whole, runesOf(tree), nil
}

// compileRegexp compiles a regular expression that is short enough. Those of Go need
// time that is linear in the text, whatever they are.
func compileRegexp(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("has %d bytes; at most %d", len(pattern), maxPattern)
	}
	compiled, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("is not a regular expression: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return compiled, nil
}

// runesOf returns ranges that hold all that a match of the expression may consist of.
func runesOf(tree *syntax.Regexp) []rune {
	switch tree.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return []rune{0, utf8.MaxRune}
	case syntax.OpCharClass:
		return tree.Rune
	case syntax.OpLiteral:
		var ranges []rune
		for _, r := range tree.Rune {
			ranges = append(ranges, r, r)
			if tree.Flags&syntax.FoldCase != 0 { // K has a third case, the sign of Kelvin
				for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
					ranges = append(ranges, other, other)
				}
			}
		}
		return ranges
	}
	var ranges []rune
	for _, sub := range tree.Sub {
		ranges = append(ranges, runesOf(sub)...)
	}
	return ranges
}

// consistsOf reports whether values have nothing but what allowed lists.
func (v variable) consistsOf(allowed string) bool {
	for i := 0; i+1 < len(v.runes); i += 2 {
		for r := v.runes[i]; r <= v.runes[i+1]; r++ {
			if !strings.ContainsRune(allowed, r) {
				return false
			}
		}
	}
	return true
}

// valueProblem says why a value cannot be v's; "" if it can.
func valueProblem(value string, v variable) string {
	switch {
	case len(value) > maxVariableValue:
		return fmt.Sprintf("has %d bytes; at most %d", len(value), maxVariableValue)
	case !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "has a control character or is not UTF-8"
	case value == "." || value == "..":
		return "is a step of a path and not a value"
	case !v.pattern.MatchString(value):
		return "does not match " + strings.TrimSuffix(strings.TrimPrefix(v.pattern.String(), `\A(?:`), `)\z`)
	}
	return ""
}

// resolve returns the values of all variables: those that are said, and defaults.
func (c *compiled) resolve(said map[string]string) map[string]string {
	if len(c.variables) == 0 {
		return nil
	}
	values := make(map[string]string, len(c.variables))
	var value func(name string) string
	value = func(name string) string {
		if v, ok := values[name]; ok {
			return v
		}
		v := said[name]
		if v == "" {
			fallback := c.variables[name].fallback
			for _, other := range fallback.variables() { // without loops: checkDefaults
				value(other)
			}
			v = fallback.expand(values, asIs)
		}
		values[name] = v
		return v
	}
	for name := range c.variables {
		value(name)
	}
	return values
}
