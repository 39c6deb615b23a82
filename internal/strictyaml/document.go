package strictyaml

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Document knows which line each key of a file is written on. Keys are paths such
// as "callers[0].role"; a key that itself contains a dot or a bracket has none.
type Document struct {
	root *yaml.Node // nil if the file is empty or no YAML
}

// NewDocument looks at a file. One that [Decode] cannot read has no keys.
func NewDocument(raw []byte) *Document {
	var document yaml.Node
	if yaml.Unmarshal(raw, &document) != nil || len(document.Content) == 0 {
		return &Document{}
	}
	return &Document{root: document.Content[0]}
}

// Line returns the line of key, or of the nearest key above it that the file has.
func (d *Document) Line(key string) int {
	_, line, _ := d.find(key)
	return line
}

// Has reports whether the file has the key.
func (d *Document) Has(key string) bool {
	_, _, ok := d.find(key)
	return ok
}

// Length returns how many entries the list under key has; -1 if there is no such list.
func (d *Document) Length(key string) int {
	node, _, ok := d.find(key)
	if !ok || node.Kind != yaml.SequenceNode {
		return -1
	}
	return len(node.Content)
}

// Aliases returns a problem for each alias. What an alias stands for is written
// elsewhere, so a file whose parts are to be read by themselves has none.
func (d *Document) Aliases() []Problem {
	var problems []Problem
	if d.root != nil {
		aliases(d.root, &problems)
	}
	return problems
}

func aliases(node *yaml.Node, problems *[]Problem) {
	if node.Kind == yaml.AliasNode {
		*problems = append(*problems, Problem{Line: node.Line, Text: "*" + node.Value + " is an alias; write out what it stands for"})
	}
	for _, c := range node.Content {
		aliases(c, problems)
	}
}

// Duplicates returns a problem for each key that its mapping has already. [Decode] finds
// them too, but needs time and room that grow with the square of their number: ask first
// where a file comes from who knows where.
func (d *Document) Duplicates() []Problem {
	var problems []Problem
	if d.root != nil {
		duplicates(d.root, &problems)
	}
	return problems
}

func duplicates(node *yaml.Node, problems *[]Problem) {
	if node.Kind == yaml.MappingNode {
		lines := make(map[string]int, len(node.Content)/2) // by key
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			if first, twice := lines[key.Value]; twice && key.Kind == yaml.ScalarNode {
				*problems = append(*problems, Problem{Line: key.Line, Text: fmt.Sprintf("mapping key %q already defined at line %d", key.Value, first)})
				continue
			}
			lines[key.Value] = key.Line
		}
	}
	for _, c := range node.Content {
		duplicates(c, problems)
	}
}

// Holds reports whether line lies within what is written under key.
func (d *Document) Holds(key string, line int) bool {
	node, first, ok := d.find(key)
	return ok && line >= first && line <= lastLine(node)
}

// Locate gives each problem the line of its key.
func (d *Document) Locate(problems []Problem) {
	for i := range problems {
		problems[i].Line = d.Line(problems[i].Key)
	}
}

// Nulls returns a problem for each key and each entry of a list that has no value.
// Decoding takes them for absent, so that "scopes:" with the rest of the line
// forgotten would mean the default.
func (d *Document) Nulls() []Problem {
	var problems []Problem
	if d.root != nil {
		nulls(d.root, d.root.Line, "", &problems)
	}
	return problems
}

func nulls(node *yaml.Node, line int, path string, problems *[]Problem) {
	switch node.Kind {
	case yaml.ScalarNode:
		if node.ShortTag() == "!!null" {
			*problems = append(*problems, Problem{Line: line, Key: path, Text: "has no value"})
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			nulls(node.Content[i+1], key.Line, strings.TrimPrefix(path+"."+key.Value, "."), problems)
		}
	case yaml.SequenceNode:
		for i, entry := range node.Content {
			nulls(entry, entry.Line, fmt.Sprintf("%s[%d]", path, i), problems)
		}
	} // what an alias stands for was seen where it is written
}

// find returns the node of a key, or of the nearest one above it, and its line.
func (d *Document) find(key string) (node *yaml.Node, line int, ok bool) {
	if d.root == nil {
		return nil, 1, false
	}
	node, line = d.root, max(d.root.Line, 1)
	for _, step := range strings.FieldsFunc(key, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		next, at := child(node, step)
		if next == nil {
			return node, line, false
		}
		node, line = next, at
	}
	return node, line, true
}

// child returns the value of a key or index and the line that it is written on.
func child(node *yaml.Node, step string) (*yaml.Node, int) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i+1], node.Content[i].Line
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i].Line
		}
	}
	return nil, 0
}

func lastLine(node *yaml.Node) int {
	last := node.Line
	for _, c := range node.Content {
		last = max(last, lastLine(c))
	}
	return last
}
