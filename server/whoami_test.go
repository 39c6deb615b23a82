package server_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

func TestWhoAmI(t *testing.T) {
	w, _ := tabled(t,
		row("token.get", `"prefix:acme-"`, `, except: {clients: [acme-x]}, scopes: {default: [read], allowed: [write]}, limits: {requests_per_second: 5, burst: 9, concurrent: 2}`),
		row("client.read", `"label:team=crm"`, ""))
	got, err := pb.NewAccessServiceClient(w.conn).WhoAmI(t.Context(), &pb.WhoAmIRequest{})
	must(t, err)
	if away := time.Since(got.GetServerTime().AsTime()); away < 0 || away > time.Minute {
		t.Errorf("the server's time is %v away", away)
	}
	got.ServerTime = nil
	want := &pb.WhoAmIResponse{
		Identities: []string{"insecure-loopback"}, Caller: "tester",
		Grants: []*pb.Grant{
			{
				Permissions: []string{"token.get"}, Clients: []string{"prefix:acme-"}, ExceptClients: []string{"acme-x"},
				Scopes: &pb.Restriction{DefaultValues: []string{"read"}, AllowedValues: []string{"write"}},
				Limits: &pb.UseLimits{RequestsPerSecond: 5, Burst: 9, ConcurrentRequests: 2},
			},
			{Rule: 1, Permissions: []string{"client.read"}, Clients: []string{"label:team=crm"}},
		},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

func TestWhoAmIOverTLS(t *testing.T) {
	w, a, _ := overSockets(t)
	ask := func(p *peer) (*pb.WhoAmIResponse, error) {
		return pb.NewAccessServiceClient(p.conn).WhoAmI(t.Context(), &pb.WhoAmIRequest{})
	}
	got, err := ask(w.connectTLS(t, a, a.caller(t, callerIdentity)))
	must(t, err)
	if got.GetCaller() == "" || !slices.Equal(got.GetIdentities(), []string{callerIdentity}) || got.GetExpireTime() == nil || len(got.GetGrants()) != 1 {
		t.Errorf("got %v, want the caller, its identity, the certificate's end and one grant", got)
	}
	got, err = ask(w.connectTLS(t, a, a.caller(t, "spiffe://example.org/stranger")))
	must(t, err)
	if got.GetCaller() != "" || len(got.GetGrants()) != 0 || got.GetServerTime() != nil || got.GetServerVersion() != "" || !strings.HasSuffix(strings.Join(got.GetIdentities(), ""), "/stranger") {
		t.Errorf("got %v, want the identity of a stranger and nothing else", got)
	}
	_, err = ask(w.connectTLS(t, a, nil))
	requireProblem(t, err, codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
}
