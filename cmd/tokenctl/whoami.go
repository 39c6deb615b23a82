package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// whoamiCommand asks who the operator is at the broker.
type whoamiCommand struct{}

// Help implements kong.HelpProvider.
func (c *whoamiCommand) Help() string {
	return `Example:

    tokenctl whoami --context prod`
}

// Run implements the command.
func (c *whoamiCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		me, err := b.access.WhoAmI(ctx, &pb.WhoAmIRequest{})
		if err != nil {
			return err
		}
		return s.show(me, func(w io.Writer) { describeMe(w, time.Now(), me) })
	})
}

func describeMe(w io.Writer, now time.Time, me *pb.WhoAmIResponse) {
	var l listing
	l.addIf("identity", me.GetIdentities()...)
	l.addIf("expires", when(now, me.GetExpireTime()))
	l.addIf("caller", orElse(me.GetCaller(), "none: the access table lists no such identity"))
	l.write(w, "")
	for _, g := range me.GetGrants() {
		fmt.Fprintln(w)
		describeGrant(w, g)
	}
}

func describeGrant(w io.Writer, g *pb.Grant) {
	var l listing
	l.addIf("rule", fmt.Sprintf("rules[%d]", g.GetRule()))
	l.addIf("may", strings.Join(g.GetPermissions(), ", "))
	l.addIf("clients", strings.Join(g.GetClients(), ", "))
	l.addIf("except", strings.Join(g.GetExceptClients(), ", "))
	l.addIf("subjects", strings.Join(g.GetSubjects(), ", "))
	for _, each := range []struct {
		name string
		of   *pb.Restriction
	}{{"scopes", g.GetScopes()}, {"audiences", g.GetAudiences()}, {"resources", g.GetResources()}} {
		if each.of != nil {
			l.addIf(each.name, restriction(each.of))
		}
	}
	l.addIf("limits", limits(g.GetLimits()))
	l.write(w, "  ")
}

func restriction(r *pb.Restriction) string {
	byDefault := orElse(strings.Join(r.GetDefaultValues(), " "), "none, name one")
	return "by default " + byDefault + yes(len(r.GetAllowedValues()) > 0, "; allowed "+strings.Join(r.GetAllowedValues(), " "))
}

func limits(u *pb.UseLimits) string {
	var parts []string
	add := func(value float64, text string) {
		if value != 0 {
			parts = append(parts, fmt.Sprintf(text, value))
		}
	}
	add(u.GetRequestsPerSecond(), "%v calls a second")
	add(float64(u.GetBurst()), "%v at once after a pause")
	add(float64(u.GetConcurrentRequests()), "%v under way")
	add(float64(u.GetScopeSets()), "%v sets of scopes an hour for each client")
	add(u.GetClientRequestsPerSecond(), "%v calls a second for one client")
	add(float64(u.GetClientBurst()), "%v at once for one client")
	add(float64(u.GetClientConcurrentRequests()), "%v under way for one client")
	return strings.Join(parts, ", ")
}
