// Package strictyaml reads YAML files that people write and this service obeys.
// Whatever a file says beyond what its struct has room for is a problem, all
// problems are reported at once, and each has the line that it is written on.
//
// It guards that nothing is taken silently for something else: not a misspelled
// key for a default, nor a key without a value for an absent one. It does not say
// what values mean: that is its callers' to validate, with [Document.Locate] to
// find the lines.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is one thing that is wrong with a file.
type Problem struct {
	// Line is where, from 1.
	Line int
	// Key is the path of the key concerned, "callers[0].role"; "" if it is none's.
	Key string
	// Text says what is wrong and what is accepted.
	Text string
}

// String returns "key: text".
func (p Problem) String() string {
	if p.Key == "" {
		return p.Text
	}
	return p.Key + ": " + p.Text
}

// Error is all that is wrong with a file.
type Error struct {
	// File is the file's name, as it was given.
	File string
	// Problems are in the order of their lines; there is at least one.
	Problems []Problem
}

// NewError returns an *Error with the problems in the order of their lines, or nil
// if there are none.
func NewError(file string, problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	sorted := slices.Clone(problems)
	slices.SortStableFunc(sorted, func(a, b Problem) int { return a.Line - b.Line })
	return &Error{File: file, Problems: sorted}
}

// Error lists the problems, one a line, as file:line: key: text.
func (e *Error) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d: %s", e.File, p.Line, p)
	}
	return b.String()
}

var (
	yamlLine   = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	unknownKey = regexp.MustCompile(`^field (\S+) not found in type .+$`)
	wrongType  = regexp.MustCompile("^cannot unmarshal !!(\\w+)( `.*`)? into (.+)$")
	// parserFault is what the YAML package says with lines counted from 0; those of its
	// scanner are counted from 1.
	parserFault = regexp.MustCompile(`^did not find expected (?:<.*>|node content|'-' indicator|key|',' or '.')$`)
)

// Decode fills into, which is a pointer to a struct with yaml tags, and returns the
// problems of form: syntax, unknown and duplicate keys, wrong types, a second
// document. An empty file has none and changes nothing. Fields whose form is right
// are filled even where others have problems.
func Decode(raw []byte, into any) []Problem {
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	err := decoder.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	var typed *yaml.TypeError
	if err != nil && !errors.As(err, &typed) {
		return []Problem{problemOf(err.Error())}
	}
	var problems []Problem
	if typed != nil {
		for _, text := range typed.Errors {
			problems = append(problems, problemOf(text))
		}
	}
	var second yaml.Node
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		problems = append(problems, problemOf(err.Error()))
	default:
		problems = append(problems, Problem{Line: max(second.Line, 1), Text: "begins a second document; put all settings into one"})
	}
	return problems
}

// problemOf takes the line out of a message of the YAML package and the Go types
// out of its words.
func problemOf(text string) Problem {
	p := Problem{Line: 1, Text: strings.TrimPrefix(text, "yaml: ")}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		p.Text = m[2]
		if parserFault.MatchString(p.Text) {
			p.Line++
		}
	}
	if m := unknownKey.FindStringSubmatch(p.Text); m != nil {
		p.Text = "unknown key " + m[1]
	}
	if m := wrongType.FindStringSubmatch(p.Text); m != nil {
		p.Text = wordsOf(m[1], m[3])
		if m[2] != "" {
			p.Text = m[2][1:] + " " + p.Text
		}
	}
	return p
}

// wordsOf says which form was found and which is needed.
func wordsOf(tag, goType string) string {
	found := map[string]string{
		"str": "is text", "int": "is a number", "float": "is a number", "bool": "is a yes or no", "null": "is nothing",
		"seq": "is a list", "map": "is a mapping of keys", "timestamp": "is a date",
	}[tag]
	if found == "" {
		found = "is of the type " + tag
	}
	goType = strings.TrimLeft(goType, "*")
	switch {
	case strings.HasPrefix(goType, "[]"):
		return found + " where a list is needed"
	case strings.HasPrefix(goType, "map["):
		return found + " where a mapping of keys is needed"
	case goType == "string":
		return found + " where text is needed"
	case goType == "bool":
		return found + " where true or false is needed"
	case strings.HasPrefix(goType, "int"), strings.HasPrefix(goType, "uint"):
		return found + " where a whole number is needed"
	case strings.HasPrefix(goType, "float"):
		return found + " where a number is needed"
	case goType == "time.Duration":
		return found + " where a duration such as 30s is needed"
	default:
		return found + ", which cannot stand here"
	}
}
