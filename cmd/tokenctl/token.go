package main

import (
	"context"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// tokenCommand gets access tokens.
type tokenCommand struct {
	Get tokenGetCommand `cmd:"" help:"Get an access token; it is hidden without --show."`
}

type tokenGetCommand struct {
	clientArg
	Scope       []string      `help:"Scope to ask for, in place of the client's default scopes; may be repeated." placeholder:"SCOPE" sep:"none"`
	Audience    string        `help:"Audience to ask for." placeholder:"AUDIENCE"`
	Resource    []string      `help:"Resource (RFC 8707) to ask for; may be repeated." placeholder:"URI" sep:"none"`
	MinValidity time.Duration `help:"How long it must still be good, such as 5m; by default what the client's settings say." placeholder:"DURATION"`
	Show        bool          `help:"Print the access token itself."`
}

// Help implements kong.HelpProvider.
func (c *tokenGetCommand) Help() string {
	return `Examples:

    tokenctl token get acme-crm
    tokenctl token get acme-crm --scope contacts.read --scope contacts.write --min-validity 5m
    tokenctl token get acme-crm --show -o json | jq -r .access_token`
}

// Run implements the command.
func (c *tokenGetCommand) Run(ctx context.Context, s *session) error {
	request := &pb.GetTokenRequest{Client: c.name(), Scopes: c.Scope, Audience: c.Audience, Resources: c.Resource}
	if c.MinValidity != 0 {
		request.MinValidity = durationpb.New(c.MinValidity)
	}
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		token, err := b.tokens.GetToken(ctx, request)
		if err != nil {
			return err
		}
		if !c.Show {
			token = proto.CloneOf(token)
			token.AccessToken = ""
		}
		return s.show(token, func(w io.Writer) { describeToken(w, time.Now(), token) })
	})
}

func describeToken(w io.Writer, now time.Time, t *pb.GetTokenResponse) {
	var l listing
	l.addIf("token", orElse(t.GetAccessToken(), "hidden; --show prints it"))
	l.addIf("id", t.GetTokenId())
	l.addIf("type", t.GetTokenType())
	l.addIf("scopes", strings.Join(t.GetScopes(), " "))
	l.addIf("expires", when(now, t.GetExpireTime()))
	l.addIf("known by", word(t.GetExpirySource().String(), "EXPIRY_SOURCE_"))
	l.addIf("issued", when(now, t.GetIssueTime()))
	l.addIf("secret", yes(t.GetSecretVersion() != 0, "version "+number(t.GetSecretVersion())))
	l.write(w, "")
	describeWarnings(w, t.GetWarnings())
}
