package main

import (
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestTokenIsHidden unless it is asked for, in every form of output.
func TestTokenIsHidden(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	const token = "access-token-of-acme"
	o.run("token", "get", "acme-crm").want(exitDone, "token     hidden; --show prints it", "id        0123456789abcdef", "scopes    read write", "(in 58 min)", "(1 min ago)",
		"secret    version 3", "known by  response", "warning: USING_PREVIOUS_SECRET: The token was got").without(token)
	o.run("token", "get", "acme-crm", "-o", "json").want(exitDone, `"token_id": "0123456789abcdef"`).without(token, "access_token")
	o.run("token", "get", "acme-crm", "-o", "yaml").want(exitDone, "token_id: 0123456789abcdef").without(token, "access_token")
	o.run("token", "get", "acme-crm", "--show").want(exitDone, "token     "+token)
	var answer struct {
		Token string `json:"access_token"`
	}
	if got := o.run("token", "get", "acme-crm", "--show", "-o", "json").want(exitDone); json.Unmarshal([]byte(got.stdout), &answer) != nil || answer.Token != token {
		t.Errorf("as JSON: %s", got.stdout)
	}
}

func TestTokenRequest(t *testing.T) {
	f := newFake(t)
	f.operator().run("token", "get", "acme-crm", "--scope", "read", "--scope", "a,b", "--audience", "https://api.example", "--resource", "https://r.example", "--min-validity", "5m").want(exitDone)
	r := asked[*pb.GetTokenRequest](f)
	if len(r.GetScopes()) != 2 || r.GetScopes()[1] != "a,b" || r.GetAudience() != "https://api.example" || len(r.GetResources()) != 1 || r.GetMinValidity().AsDuration() != 5*time.Minute {
		t.Errorf("the request is %v", r)
	}
	f.operator().run("token", "get", "acme-crm").want(exitDone)
	if r := asked[*pb.GetTokenRequest](f); r.GetMinValidity() != nil || r.GetScopes() != nil {
		t.Errorf("the request is %v, want the client's own settings", r)
	}
}

func TestWhoami(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	o.run("whoami").want(exitDone, "identity  spiffe://example.org/operator\n          dns:ops.example.org", "(in 3 days)", "caller    oncall", "rule     rules[2]", "may      token.get, secret.stage",
		"clients  prefix:acme-", "except   acme-billing", "scopes   by default read; allowed write", "limits   50 calls a second, 3 sets of scopes")
	f.refuse(refusal(codes.Unauthenticated, "CALLER_UNAUTHENTICATED", "FIX_CALLER", "Nobody."))
	o.run("whoami").want(exitNotAllowed, "CALLER_UNAUTHENTICATED", "or who you are (`tokenctl whoami`)")
}
