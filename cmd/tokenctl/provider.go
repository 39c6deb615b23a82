package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// providerCommand shows the profiles of authorization servers that the broker has.
type providerCommand struct {
	List providerListCommand `cmd:"" help:"List the profiles that a client may name."`
	Get  providerGetCommand  `cmd:"" help:"Show all that a profile declares."`
}

// providerPrefix begins the names of profiles in the API.
const providerPrefix = "providers/"

type providerListCommand struct{}

// Help implements kong.HelpProvider.
func (c *providerListCommand) Help() string {
	return `Example:

    tokenctl provider list`
}

// Run implements the command.
func (c *providerListCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		all, err := listProviders(ctx, b)
		if err != nil {
			return err
		}
		return s.show(all, func(w io.Writer) {
			var rows [][]string
			for _, p := range all.GetProviders() {
				rows = append(rows, []string{
					strings.TrimPrefix(p.GetName(), providerPrefix), p.GetTitle(), yes(p.GetBuiltIn(), "built in"),
					strings.Join(grantWords(p), ", "), strings.Join(variableWords(p), ", "),
				})
			}
			table(w, []string{"PROVIDER", "TITLE", "FROM", "GRANTS", "VARIABLES"}, rows)
		})
	})
}

// listProviders returns all pages as one.
func listProviders(ctx context.Context, b *services) (*pb.ListProvidersResponse, error) {
	all := &pb.ListProvidersResponse{}
	for request := (&pb.ListProvidersRequest{PageSize: 1000}); ; {
		page, err := b.clients.ListProviders(ctx, request)
		if err != nil {
			return nil, err
		}
		all.Providers = append(all.Providers, page.GetProviders()...)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return all, nil
		}
	}
}

func grantWords(p *pb.Provider) (words []string) {
	for _, g := range p.GetGrantTypes() {
		words = append(words, enumWord(g.Descriptor(), g.Number()))
	}
	return words
}

// variableWords are the names of variables; those that need not be said are in brackets.
func variableWords(p *pb.Provider) (words []string) {
	for _, v := range p.GetVariables() {
		if v.GetDefaultValue() != "" {
			words = append(words, "["+v.GetName()+"]")
		} else {
			words = append(words, v.GetName())
		}
	}
	return words
}

type providerGetCommand struct {
	Provider string `arg:"" help:"Name of the profile: okta, or providers/okta." complete:"provider"`
}

// Help implements kong.HelpProvider.
func (c *providerGetCommand) Help() string {
	return `Example:

    tokenctl provider get okta`
}

// Run implements the command.
func (c *providerGetCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		found, err := b.clients.GetProvider(ctx, &pb.GetProviderRequest{Name: providerPrefix + strings.TrimPrefix(c.Provider, providerPrefix)})
		if err != nil {
			return err
		}
		return s.show(found, func(w io.Writer) { describeProvider(w, found.GetProvider()) })
	})
}

func describeProvider(w io.Writer, p *pb.Provider) {
	var l listing
	l.addIf("provider", p.GetName())
	l.addIf("title", p.GetTitle())
	l.addIf("from", yes(p.GetBuiltIn(), "built in")+yes(!p.GetBuiltIn(), "the broker's configuration"))
	l.addIf("grants", strings.Join(grantWords(p), ", "))
	var methods []string
	for _, m := range p.GetAuthenticationMethods() {
		methods = append(methods, enumWord(m.Descriptor(), m.Number()))
	}
	l.addIf("methods", strings.Join(methods, ", "))
	for _, v := range p.GetVariables() {
		l.addIf("variable "+v.GetName(), v.GetDescription()+yes(v.GetExample() != "", ", such as "+v.GetExample())+yes(v.GetDefaultValue() != "", "; by default "+v.GetDefaultValue()))
	}
	l.addIf("status", p.GetStatusPage())
	l.addIf("source", p.GetSources()...)
	l.addIf("unverified", p.GetUnverified()...)
	l.write(w, "")
	if p.GetDefinition() != "" {
		fmt.Fprintln(w)
		for line := range strings.Lines(p.GetDefinition()) {
			fmt.Fprintln(w, clean(strings.TrimSuffix(line, "\n")))
		}
	}
}
