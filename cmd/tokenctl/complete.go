package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	// completeWord begins the command lines that completion scripts send.
	completeWord = "__complete"
	// filesLine is what they get where names of files are wanted.
	filesLine = ":files"
	// completeWithin bounds the wait for names of clients: a person waits for Tab.
	completeWithin = 2 * time.Second
	// mostClients is how many names a person can look through.
	mostClients = 200
)

// candidate is one way to go on, and what it means.
type candidate struct {
	text, help string
}

// complete prints how a command line may go on whose last word is unfinished, one a
// line with a tab before its help. What fails is silent: there is nobody to read it.
func (s *session) complete(ctx context.Context, words []string) int {
	if len(words) == 0 {
		return exitDone
	}
	var cli commands
	parser, err := newParser(&cli, io.Discard, io.Discard, func(int) {})
	if err != nil {
		return exitFailed
	}
	c := completion{session: s, node: parser.Model.Node}
	for _, word := range words[:len(words)-1] {
		c.take(word)
	}
	for _, each := range c.candidates(ctx, words[len(words)-1]) {
		fmt.Fprintf(s.stdout, "%s\t%s\n", each.text, clean(each.help))
	}
	if c.files {
		fmt.Fprintln(s.stdout, filesLine)
	}
	return exitDone
}

// completion is where a command line has got to.
type completion struct {
	session    *session
	node       *kong.Node
	positional int
	literal    bool        // after --
	value      *kong.Value // of the flag whose value comes next
	files      bool
}

// take goes on by one finished word.
func (c *completion) take(word string) {
	switch {
	case c.value != nil:
		c.remember(c.value.Name, word)
		c.value = nil
	case word == "--" && !c.literal:
		c.literal = true
	case strings.HasPrefix(word, "-") && !c.literal:
		name, value, joined := strings.Cut(word, "=")
		if flag := c.flag(name); flag != nil && !flag.IsBool() {
			if joined {
				c.remember(flag.Name, value)
				return
			}
			c.value = flag.Value
		}
	default:
		for _, child := range c.node.Children {
			if child.Name == word {
				c.node = child
				return
			}
		}
		c.positional++
	}
}

// remember keeps the flags that say which broker to ask for names.
func (c *completion) remember(name, value string) {
	switch name {
	case "config":
		c.session.Config = value
	case "context":
		c.session.Context = value
	}
}

// flags are those of the command and of all above it.
func (c *completion) flags() []*kong.Flag {
	var all []*kong.Flag
	for node := c.node; node != nil; node = node.Parent {
		all = append(all, node.Flags...)
	}
	return all
}

func (c *completion) flag(word string) *kong.Flag {
	for _, flag := range c.flags() {
		if word == "--"+flag.Name || len(word) == 2 && flag.Short != 0 && word == "-"+string(flag.Short) {
			return flag
		}
	}
	return nil
}

// candidates completes the last word.
func (c *completion) candidates(ctx context.Context, word string) []candidate {
	name, typed, joined := strings.Cut(word, "=")
	switch {
	case c.value != nil:
		return c.values(ctx, c.value, word, "")
	case joined && strings.HasPrefix(word, "--") && !c.literal:
		if flag := c.flag(name); flag != nil {
			return c.values(ctx, flag.Value, typed, name+"=")
		}
		return nil
	case strings.HasPrefix(word, "-") && !c.literal:
		var all []candidate
		for _, flag := range c.flags() {
			if !flag.Hidden && strings.HasPrefix("--"+flag.Name, word) {
				all = append(all, candidate{"--" + flag.Name, flag.Help})
			}
		}
		return sorted(all)
	case len(c.node.Children) > 0:
		var all []candidate
		for _, child := range c.node.Children {
			if !child.Hidden && strings.HasPrefix(child.Name, word) {
				all = append(all, candidate{child.Name, child.Help})
			}
		}
		return all
	case c.positional < len(c.node.Positional):
		return c.values(ctx, c.node.Positional[c.positional], word, "")
	}
	return nil
}

// values completes a value by what it is.
func (c *completion) values(ctx context.Context, of *kong.Value, typed, before string) []candidate {
	var names []string
	switch of.Tag.Get("complete") {
	case "file":
		c.files = before == ""
	case "context":
		config, _, _, _ := c.session.loadConfig()
		names = slices.Collect(maps.Keys(config.Contexts))
	case "client":
		names = c.clients(ctx, typed)
	case "provider":
		names = c.providers(ctx)
	default:
		for _, each := range of.EnumSlice() {
			if each != "" {
				names = append(names, each)
			}
		}
	}
	var all []candidate
	for _, name := range names {
		if strings.HasPrefix(name, typed) {
			all = append(all, candidate{text: before + name})
		}
	}
	return sorted(all)
}

// clients asks the broker for names; none if it cannot be asked.
func (c *completion) clients(ctx context.Context, typed string) []string {
	s := c.session
	s.Config, s.Context = orElse(s.Config, s.getenv(configVariable)), orElse(s.Context, s.getenv(contextVariable))
	id, long := strings.CutPrefix(typed, clientPrefix)
	request := &pb.ListClientsRequest{PageSize: mostClients}
	if id != "" {
		request.Filter = "prefix=" + id
	}
	var names []string
	_ = s.call(ctx, completeWithin, func(ctx context.Context, b *services) error {
		for {
			page, err := b.clients.ListClients(ctx, request)
			if err != nil {
				return err
			}
			for _, each := range page.GetClients() {
				names = append(names, yes(long, clientPrefix)+strings.TrimPrefix(each.GetName(), clientPrefix))
			}
			if request.PageToken = page.GetNextPageToken(); request.PageToken == "" || len(names) >= mostClients {
				return nil
			}
		}
	})
	return names
}

// providers asks the broker for names of profiles; none if it cannot be asked.
func (c *completion) providers(ctx context.Context) (names []string) {
	s := c.session
	s.Config, s.Context = orElse(s.Config, s.getenv(configVariable)), orElse(s.Context, s.getenv(contextVariable))
	_ = s.call(ctx, completeWithin, func(ctx context.Context, b *services) error {
		all, err := listProviders(ctx, b)
		for _, p := range all.GetProviders() {
			names = append(names, strings.TrimPrefix(p.GetName(), providerPrefix))
		}
		return err
	})
	return names
}

func sorted(all []candidate) []candidate {
	slices.SortFunc(all, func(a, b candidate) int { return strings.Compare(a.text, b.text) })
	return slices.CompactFunc(all, func(a, b candidate) bool { return a.text == b.text })
}
