package main

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// watched runs a command line until its output has a text.
func (o *operator) watched(until string, args ...string) outcome {
	o.t.Helper()
	ctx, cancel := context.WithCancel(o.t.Context())
	defer cancel()
	o.output = &buffer{wrote: func(all string) {
		if strings.Contains(all, until) {
			cancel()
		}
	}}
	return o.runIn(ctx, args...)
}

// TestWatch: a line for each token, and none of it.
func TestWatch(t *testing.T) {
	f := newFake(t)
	f.ends = []error{status.Error(codes.Unavailable, "stopping"), refusal(codes.Aborted, "ACCESS_CHANGED", "RETRY", "Other scopes.")}
	got := f.operator().watched("SCOPES_NARROWED", "watch", "acme-crm").want(exitInterrupted, "stopped watching").without(canary)
	golden(t, "watch.txt", ago.ReplaceAllString(got.stdout, "(when)"))
	if n := strings.Count(got.stderr, "the stream ended; watching again"); n != 1 {
		t.Errorf("told %d times that it broke, want once for the two streams that brought nothing new:\n%s", n, got.stderr)
	}
}

func TestWatchShowsTokensIfAsked(t *testing.T) {
	f := newFake(t)
	f.operator().watched(canary+"1\n", "watch", "acme-crm", "--show-token").want(exitInterrupted, "\n  "+canary+"1\n")
	f.streams = 0
	f.operator().watched("\n", "watch", "acme-crm", "-o", "json").want(exitInterrupted, `"token_id":"0123456789abcde1"`).without(canary, "access_token")
	f.streams = 0
	f.operator().watched("\n", "watch", "acme-crm", "-o", "json", "--show-token").want(exitInterrupted, `"access_token":"`+canary)
}

func TestWatchRequest(t *testing.T) {
	f := newFake(t)
	f.operator().watched("\n", "watch", "acme-crm", "--scope", "a", "--scope", "b,c", "--audience", "x", "--resource", "https://r.example", "--subject", "u").want(exitInterrupted)
	r := asked[*pb.WatchTokenRequest](f)
	if r.GetClient() != "clients/acme-crm" || len(r.GetScopes()) != 2 || r.GetScopes()[1] != "b,c" || r.GetAudience() != "x" || len(r.GetResources()) != 1 || r.GetSubject() != "u" {
		t.Errorf("the request is %v", r)
	}
}

// TestWatchThatCannotGoOn ends with the cause.
func TestWatchThatCannotGoOn(t *testing.T) {
	f := newFake(t)
	f.ends = []error{refusal(codes.FailedPrecondition, "CLIENT_DISABLED", "FIX_CLIENT", "It is disabled.")}
	f.operator().run("watch", "acme-crm").want(exitPrecondition, "0123456789abcde1", "CLIENT_DISABLED")
	f.refuse(refusal(codes.Unavailable, "STORE_UNREACHABLE", "FIX_STORE", "Away."))
	f.operator().run("watch", "acme-crm").want(exitUnavailable, "STORE_UNREACHABLE")
	f.refuse(nil)
	f.operator().run("watch", "acme-crm", "--timeout", "2s").want(exitDeadline, "stopped watching")
}
