package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// watchCommand follows the tokens of a client.
type watchCommand struct {
	clientArg
	Scope     []string `help:"Scope to ask for, in place of the client's default scopes; may be repeated." placeholder:"SCOPE" sep:"none"`
	Audience  string   `help:"Audience to ask for." placeholder:"AUDIENCE"`
	Resource  []string `help:"Resource (RFC 8707) to ask for; may be repeated." placeholder:"URI" sep:"none"`
	Subject   string   `help:"Whose grant is meant, for clients of users' grants." placeholder:"SUBJECT"`
	ShowToken bool     `help:"Print the access tokens themselves."`
}

// Help implements kong.HelpProvider.
func (c *watchCommand) Help() string {
	return `A line for the present token, and one for each that takes its place, until Ctrl-C or --timeout. The token itself is hidden without --show-token. A broker that restarts is watched again by itself.

Examples:

    tokenctl watch acme-crm
    tokenctl watch acme-crm --scope contacts.read -o json`
}

// Run implements the command.
func (c *watchCommand) Run(ctx context.Context, s *session) error {
	w := tokenWatch{screen: newScreen(s), session: s, command: c}
	err := s.call(ctx, withoutEnd, w.follow)
	w.end()
	if p := problemOf(ctx, err); err != nil && w.last != "" && (p.Status == exitInterrupted || p.Status == exitDeadline) {
		told := *p
		told.Message, told.Hint = "stopped watching", ""
		return &told
	}
	return err
}

// tokenWatch watches the tokens of one client. It belongs to one command.
type tokenWatch struct {
	screen
	session *session
	command *watchCommand
	last    string // token_id of the token that was shown last; "" before the first
}

// follow watches, and watches again when the broker or the way to it broke.
func (w *tokenWatch) follow(ctx context.Context, b *services) error {
	pause, told := firstPause, false
	for {
		seen := w.last
		err := w.stream(ctx, b)
		code := status.Code(err)
		again := errors.Is(err, io.EOF) || code == codes.Unavailable || code == codes.Aborted
		if ctx.Err() != nil || !again || w.last == "" && code == codes.Unavailable {
			return err // before the first token nobody knows whether there is a broker at all
		}
		if w.last != seen {
			pause, told = firstPause, false
		}
		const broke = "the stream ended; watching again"
		if w.terminal() {
			w.transient(broke)
		} else if !told {
			w.session.note(broke)
		}
		told = true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

// stream shows the tokens of one stream, and returns how it ended.
func (w *tokenWatch) stream(ctx context.Context, b *services) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := w.command
	stream, err := b.tokens.WatchToken(ctx, &pb.WatchTokenRequest{Client: c.name(), Scopes: c.Scope, Audience: c.Audience, Resources: c.Resource, Subject: c.Subject})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := w.show(message); err != nil {
			return err
		}
	}
}

// show prints a token that was not shown yet: the present one comes first in each stream.
func (w *tokenWatch) show(message *pb.WatchTokenResponse) error {
	t := message.GetToken()
	if t.GetTokenId() == w.last && w.last != "" {
		w.end()
		return nil
	}
	w.last = orElse(t.GetTokenId(), "unnamed")
	if !w.command.ShowToken {
		message = proto.CloneOf(message)
		message.GetToken().AccessToken = ""
		t = message.GetToken()
	}
	if w.session.Output != outputText {
		return w.session.showLine(message)
	}
	w.line(clean(tokenLine(time.Now(), t))) // one line, whatever its width
	if t.GetAccessToken() != "" {
		w.line("  " + clean(t.GetAccessToken())) // whole: it is to be copied
	}
	for _, each := range t.GetWarnings() {
		w.wrapped("  warning: ", each.GetReason()+": "+each.GetMessage())
	}
	return nil
}

// tokenLine says in one line what is known of a token.
func tokenLine(now time.Time, t *pb.GetTokenResponse) string {
	return fmt.Sprintf("%s  %s%s%s  scopes: %s%s", t.GetIssueTime().AsTime().Format(secondsUTC), t.GetTokenId(),
		yes(t.GetTokenType() != "" && t.GetTokenType() != "Bearer", " "+t.GetTokenType()),
		yes(t.GetExpireTime() != nil, "  expires "+when(now, t.GetExpireTime())),
		orElse(strings.Join(t.GetScopes(), " "), "none told"), yes(t.GetSecretVersion() != 0, "  secret version "+number(t.GetSecretVersion())))
}
