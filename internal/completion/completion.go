// Package completion completes the command lines of a program whose flags and commands
// kong knows.
//
// It knows commands, flags, enumerations and files. Names of other things, whose values
// have a tag complete:"KIND", it asks the program for.
package completion

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/alecthomas/kong"
)

const (
	// Word begins the command lines that the scripts send.
	Word = "__complete"
	// FilesLine is what they get where names of files are wanted.
	FilesLine = ":files"
)

// Completer is what a program says of its own. The zero value knows no names.
type Completer struct {
	// Names returns names of a kind that begin with what was typed, and may return others
	// too; nil knows none.
	Names func(ctx context.Context, kind, typed string) []string
	// Flag is told the flags before the last word and their values; nil is not.
	Flag func(name, value string)
}

// Complete prints how a command line of model may go on whose last word is unfinished,
// one a line with a tab before its help. What fails is silent: there is nobody to read it.
func (c Completer) Complete(ctx context.Context, model *kong.Application, words []string, out io.Writer) {
	if len(words) == 0 {
		return
	}
	l := line{Completer: c, node: model.Node}
	last := len(words) - 1
	for _, word := range words[:last] {
		l.take(word)
	}
	for _, each := range l.candidates(ctx, words[last]) {
		_, _ = fmt.Fprintf(out, "%s\t%s\n", each.text, plain(each.help)) // nobody to tell
	}
	if l.files {
		_, _ = fmt.Fprintln(out, FilesLine) // the same
	}
}

// candidate is one way to go on, and what it means.
type candidate struct {
	text, help string
}

// line is where a command line has got to.
type line struct {
	Completer
	node       *kong.Node
	positional int
	literal    bool        // after --
	value      *kong.Value // of the flag whose value comes next
	files      bool
}

// take goes on by one finished word.
func (l *line) take(word string) {
	switch {
	case l.value != nil:
		l.tell(l.value.Name, word)
		l.value = nil
	case word == "--" && !l.literal:
		l.literal = true
	case strings.HasPrefix(word, "-") && !l.literal:
		name, value, joined := strings.Cut(word, "=")
		if flag := l.flag(name); flag != nil && !flag.IsBool() {
			if joined {
				l.tell(flag.Name, value)
				return
			}
			l.value = flag.Value
		}
	default:
		for _, child := range l.node.Children {
			if child.Name == word {
				l.node = child
				return
			}
		}
		l.positional++
	}
}

func (l *line) tell(name, value string) {
	if l.Flag != nil {
		l.Flag(name, value)
	}
}

// flags are those of the command and of all above it.
func (l *line) flags() []*kong.Flag {
	var all []*kong.Flag
	for node := l.node; node != nil; node = node.Parent {
		all = append(all, node.Flags...)
	}
	return all
}

func (l *line) flag(word string) *kong.Flag {
	for _, flag := range l.flags() {
		if word == "--"+flag.Name || len(word) == 2 && flag.Short != 0 && word == "-"+string(flag.Short) {
			return flag
		}
	}
	return nil
}

// candidates completes the last word.
func (l *line) candidates(ctx context.Context, word string) []candidate {
	name, typed, joined := strings.Cut(word, "=")
	switch {
	case l.value != nil:
		return l.values(ctx, l.value, word, "")
	case joined && strings.HasPrefix(word, "--") && !l.literal:
		if flag := l.flag(name); flag != nil {
			return l.values(ctx, flag.Value, typed, name+"=")
		}
		return nil
	case strings.HasPrefix(word, "-") && !l.literal:
		var all []candidate
		for _, flag := range l.flags() {
			if !flag.Hidden && strings.HasPrefix("--"+flag.Name, word) {
				all = append(all, candidate{"--" + flag.Name, flag.Help})
			}
		}
		return sorted(all)
	case len(l.node.Children) > 0:
		var all []candidate
		for _, child := range l.node.Children {
			if !child.Hidden && strings.HasPrefix(child.Name, word) {
				all = append(all, candidate{child.Name, child.Help})
			}
		}
		return all
	case l.positional < len(l.node.Positional):
		return l.values(ctx, l.node.Positional[l.positional], word, "")
	case len(l.node.Positional) > 0 && l.node.Positional[len(l.node.Positional)-1].IsSlice():
		return l.values(ctx, l.node.Positional[len(l.node.Positional)-1], word, "")
	}
	return nil
}

// values completes a value by what it is.
func (l *line) values(ctx context.Context, of *kong.Value, typed, before string) []candidate {
	var names []string
	switch kind := of.Tag.Get("complete"); {
	case kind == "file" || kind == "" && of.Tag.Type == "path":
		l.files = before == ""
	case kind != "" && l.Names != nil:
		names = l.Names(ctx, kind, typed)
	case kind == "":
		names = of.EnumSlice()
	}
	var all []candidate
	for _, name := range names {
		if name != "" && strings.HasPrefix(name, typed) {
			all = append(all, candidate{text: before + name})
		}
	}
	return sorted(all)
}

func sorted(all []candidate) []candidate {
	slices.SortFunc(all, func(a, b candidate) int { return strings.Compare(a.text, b.text) })
	return slices.CompactFunc(all, func(a, b candidate) bool { return a.text == b.text })
}

// plain is text on one line, without what a terminal may obey.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}
