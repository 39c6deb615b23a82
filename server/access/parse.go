package access

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

// mostProblems bounds an error: a file that is none of ours may have a problem in
// each line.
const mostProblems = 100

// Parse reads an access table; file is its name in messages. The error is a
// *[strictyaml.Error] with everything that is wrong.
func Parse(file string, raw []byte) (*Table, error) {
	problems, parsed := parse(raw)
	if err := strictyaml.NewError(file, bounded(problems)); err != nil {
		return nil, err
	}
	return newTable(file, parsed.callers, parsed.rows), nil
}

func bounded(problems []strictyaml.Problem) []strictyaml.Problem {
	more := len(problems) - mostProblems
	if more <= 0 {
		return problems
	}
	next := problems[mostProblems]
	return append(problems[:mostProblems:mostProblems], strictyaml.Problem{Line: next.Line, Text: fmt.Sprintf("and %d more problems", more)})
}

// parse returns what is wrong: with the form and the meaning of each key, or, if
// nothing is, with the rows beside each other.
func parse(raw []byte) ([]strictyaml.Problem, *parser) {
	if len(raw) > maxFileBytes {
		return []strictyaml.Problem{{Line: 1, Text: fmt.Sprintf("has %d bytes; at most %d", len(raw), maxFileBytes)}}, nil
	}
	var f File
	problems := strictyaml.Decode(raw, &f)
	p := &parser{doc: strictyaml.NewDocument(raw)}
	problems = slices.Concat(problems, p.doc.Nulls(), p.doc.Aliases())
	p.broken = len(problems) > 0
	p.file(&f)
	p.forget(problems[:min(len(problems), mostProblems)])
	if !ended(raw) {
		problems = append(problems, strictyaml.Problem{
			Line: 1 + bytes.Count(bytes.TrimRight(raw, "\r\n"), []byte("\n")),
			Text: `the last line must be "...", which shows that the file is whole`,
		})
	}
	problems = append(problems, p.located()...)
	if len(problems) == 0 {
		p.compare()
		problems = p.located()
	}
	return problems, p
}

// ended reports whether the last line of raw is the end marker. Without it a row
// might have been cut off before the keys that restrict it.
func ended(raw []byte) bool {
	line := bytes.TrimRight(raw, "\r\n")
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	return string(line) == endMarker
}

// finding is a problem of meaning.
type finding struct {
	key, text string
	// missing says that something is not there, which is no wonder where its key is
	// misspelled or its value has the wrong form.
	missing bool
}

// parser turns a file into the callers and rows of a table and collects what is wrong.
type parser struct {
	doc      *strictyaml.Document // nil where there is no file
	broken   bool                 // the file has problems of form
	findings []finding

	callers []*caller
	rows    []*row
	names   map[string]int // name → index in callers
}

func (p *parser) add(key, format string, args ...any) {
	p.findings = append(p.findings, finding{key: key, text: fmt.Sprintf(format, args...)})
}

func (p *parser) missing(key, text string) {
	p.findings = append(p.findings, finding{key: key, text: text, missing: true})
}

// line returns where a key is written, 0 where there is no file.
func (p *parser) line(key string) int {
	if p.doc == nil {
		return 0
	}
	return p.doc.Line(key)
}

// zero reports whether a number is written down as 0, which is not the same as absent.
func (p *parser) zero(key string, value float64) bool {
	return value == 0 && p.doc != nil && p.doc.Has(key)
}

func (p *parser) located() []strictyaml.Problem {
	problems := make([]strictyaml.Problem, 0, len(p.findings))
	for _, f := range p.findings {
		problems = append(problems, strictyaml.Problem{Line: p.line(f.key), Key: f.key, Text: f.text})
	}
	return problems
}

// forget drops the findings that something is missing where a problem of form
// explains it: what is misspelled is not there under its name.
func (p *parser) forget(form []strictyaml.Problem) {
	p.findings = slices.DeleteFunc(p.findings, func(f finding) bool {
		entry, _, within := strings.Cut(f.key, "]")
		return f.missing && slices.ContainsFunc(form, func(problem strictyaml.Problem) bool {
			return !within || p.doc.Holds(entry+"]", problem.Line)
		})
	})
}

// file validates the whole.
func (p *parser) file(f *File) {
	p.names = make(map[string]int, len(f.Callers))
	if p.listed("callers", len(f.Callers), f.Callers == nil, maxCallers) {
		identities := make(map[string]string)
		for i := range f.Callers {
			p.caller(fmt.Sprintf("callers[%d]", i), &f.Callers[i], identities)
		}
	}
	patterns := 0
	for i := range f.Rules {
		patterns += len(f.Rules[i].Clients)
	}
	if patterns > maxPatterns {
		p.add("rules", "have %d clients; at most %d: name them by prefix or label", patterns, maxPatterns)
		return
	}
	if p.listed("rules", len(f.Rules), f.Rules == nil, maxRules) {
		for i := range f.Rules {
			p.rule(i, &f.Rules[i])
		}
	}
}

// listed reports whether a list that is required can be looked at.
func (p *parser) listed(key string, length int, absent bool, most int) bool {
	switch {
	case p.broken && p.doc.Length(key) >= 0 && p.doc.Length(key) != length:
		return false // entries of a wrong form were left out, and the others have other numbers
	case absent:
		p.missing(key, "is required")
	case length == 0:
		p.add(key, "is empty")
	case length > most:
		p.add(key, "has %d entries; at most %d", length, most)
	}
	return length > 0 && length <= most
}

// caller validates one; identities is identity → the key where it was first seen.
func (p *parser) caller(key string, c *FileCaller, identities map[string]string) {
	made := p.named(key, c.Name)
	if !p.listed(key+".identities", len(c.Identities), c.Identities == nil, maxCallers) {
		return
	}
	for i, identity := range c.Identities {
		p.identity(fmt.Sprintf("%s.identities[%d]", key, i), identity, made, identities)
	}
	p.requires(key+".requires", c, made)
}

// requires validates what a caller must show besides.
func (p *parser) requires(key string, c *FileCaller, made *caller) {
	if c.Requires != nil && !p.listed(key, len(c.Requires), false, maxCallers) {
		return
	}
	for i, identity := range c.Requires {
		normal, err := NormalIdentity(identity)
		at := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case err != nil:
			p.add(at, "%v", err)
		case slices.Contains(made.identities, normal):
			p.add(at, "%q is the caller's own; what it requires must be shown besides", identity)
		case slices.Contains(made.requires, normal):
			p.add(at, "%q is there twice", identity)
		default:
			made.requires = append(made.requires, normal)
		}
	}
}

// named adds a caller of that name.
func (p *parser) named(key, name string) *caller {
	first, twice := p.names[name]
	switch {
	case name == "":
		p.missing(key+".name", "is required")
	case twice:
		p.add(key+".name", "%q is the name of %s already", name, p.place(fmt.Sprintf("callers[%d].name", first)))
	case nameProblem(name) != "":
		p.add(key+".name", "%.140q %s", name, nameProblem(name))
	}
	if name != "" && !twice {
		p.names[name] = len(p.callers)
	}
	made := &caller{name: name}
	p.callers = append(p.callers, made)
	return made
}

func (p *parser) identity(key, identity string, of *caller, identities map[string]string) {
	normal, err := NormalIdentity(identity)
	first, twice := identities[normal]
	switch {
	case err != nil:
		p.add(key, "%v", err)
	case twice:
		p.add(key, "%q is that of %s already", identity, p.place(first))
	default:
		identities[normal] = key
		of.identities = append(of.identities, normal)
	}
}

// place names a key and its line.
func (p *parser) place(key string) string {
	if p.doc == nil {
		return key
	}
	return fmt.Sprintf("%s (line %d)", key, p.line(key))
}

func nameProblem(name string) string {
	switch {
	case len(name) > maxNameLength:
		return fmt.Sprintf("has %d bytes; at most %d", len(name), maxNameLength)
	case name == everything:
		return "stands for every caller and is no name"
	case strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }):
		return "begins or ends with a space, or has a control character"
	default:
		return ""
	}
}
