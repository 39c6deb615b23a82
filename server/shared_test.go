package server_test

import (
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestSharedResponseKeepsToItself has callers who are warned and callers who are
// not ask for the same token at once: those share one response, these must not
// write into it. Each has its own time.
func TestSharedResponseKeepsToItself(t *testing.T) {
	w := newWorld(t, setup{})
	w.register(t, w.peer, "acme")
	plain := &pb.GetTokenRequest{Client: "clients/acme"}
	want, err := w.tokens.GetToken(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	if len(want.GetWarnings()) > 0 {
		t.Fatalf("got warnings %v of a fresh token", want.GetWarnings())
	}
	first := takeServerTime(t, want)
	demanding := &pb.GetTokenRequest{Client: "clients/acme", MinValidity: durationpb.New(24 * time.Hour)}
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			got, err := w.tokens.GetToken(t.Context(), plain)
			if at := takeServerTime(t, got); !at.After(first) {
				t.Errorf("server_time is %v, not after that of the response before, %v", at, first)
			}
			if err != nil || !proto.Equal(got, want) {
				t.Errorf("got another response, error %v", err)
			}
		})
		running.Go(func() {
			got, err := w.tokens.GetToken(t.Context(), demanding)
			if err != nil || len(got.GetWarnings()) != 1 {
				t.Errorf("got warnings %v, error %v; want one warning", got.GetWarnings(), err)
				return
			}
			got.Warnings = nil
			takeServerTime(t, got)
			if !proto.Equal(got, want) {
				t.Error("a response with a warning differs in more than the warning")
			}
		})
	}
	running.Wait()
}

// takeServerTime returns the server's time in a response and takes it out.
func takeServerTime(t *testing.T, response *pb.GetTokenResponse) time.Time {
	t.Helper()
	at := response.GetServerTime()
	if err := at.CheckValid(); err != nil {
		t.Errorf("server_time: %v", err)
	}
	if response != nil {
		response.ServerTime = nil
	}
	return at.AsTime()
}
