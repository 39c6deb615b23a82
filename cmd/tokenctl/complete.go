package main

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/completion"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	// completeWithin bounds the wait for names of clients: a person waits for Tab.
	completeWithin = 2 * time.Second
	// mostClients is how many names a person can look through.
	mostClients = 200
)

// completionCommand prints what a shell loads.
type completionCommand struct {
	Shell string `arg:"" help:"bash, zsh or fish." enum:"bash,zsh,fish"`
}

// Help implements kong.HelpProvider.
func (c *completionCommand) Help() string {
	return `It completes commands, flags, contexts and, by asking the broker, names of clients.

Put one of these into the file that your shell begins with:

    source <(tokenctl completion bash)
    source <(tokenctl completion zsh)
    tokenctl completion fish | source`
}

// Run implements the command.
func (c *completionCommand) Run(s *session) error {
	script, err := completion.Script("tokenctl", c.Shell)
	if err != nil {
		return err
	}
	_, err = io.WriteString(s.stdout, script)
	return err
}

// complete prints how a command line may go on whose last word is unfinished.
func (s *session) complete(ctx context.Context, words []string) int {
	var cli commands
	parser, err := newParser(&cli, io.Discard, io.Discard, func(int) {})
	if err != nil {
		return exitFailed
	}
	completer := completion.Completer{
		Names: s.names,
		Flag: func(name, value string) { // those that say which broker to ask for names
			switch name {
			case "config":
				s.Config = value
			case "context":
				s.Context = value
			}
		},
	}
	completer.Complete(ctx, parser.Model, words, s.stdout)
	return exitDone
}

// names returns the names of a kind that begin with what was typed, and perhaps others.
func (s *session) names(ctx context.Context, kind, typed string) []string {
	switch kind {
	case "context":
		config, _, _, _ := s.loadConfig()
		return slices.Collect(maps.Keys(config.Contexts))
	case "client":
		return s.clientNames(ctx, typed)
	case "provider":
		return s.providerNames(ctx)
	}
	return nil
}

// clientNames asks the broker for names; none if it cannot be asked.
func (s *session) clientNames(ctx context.Context, typed string) []string {
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

// providerNames asks the broker for names of profiles; none if it cannot be asked.
func (s *session) providerNames(ctx context.Context) (names []string) {
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
