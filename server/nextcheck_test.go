package server_test

import (
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

// newFailures returns a ring that was filled once over by one: "0" to "10000".
func newFailures(t *testing.T) server.Failures {
	t.Helper()
	kept := server.NewFailures()
	for i := range server.KeptFailures + 1 {
		kept.Note(strconv.Itoa(i), "clients/"+strconv.Itoa(i))
	}
	return kept
}

// TestErrorsTeach: an error names the check that tells more, to those who may make it.
func TestErrorsTeach(t *testing.T) {
	w, _ := tabled(t,
		row("client.write, secret.stage, token.get", `"*"`, ""),
		row("lookup.check", "checked", ""), row("lookup.check", `"label:team=crm"`, ""))
	w.create(t, "checked", "unchecked")
	for id, team := range map[string]string{"ours": "crm", "theirs": "erp"} {
		w.accept(id)
		_, err := w.clients.CreateClient(t.Context(), w.creation(id, map[string]string{"team": team}))
		must(t, err)
	}
	for _, test := range []struct {
		name, client string
		upstream     broker.Reason
		scopes       []string
		code         codes.Code
		want         string
	}{
		{"upstream", "checked", broker.ReasonUpstreamDNS, nil, codes.Unavailable, "tokenctl check checked --depth token"},
		{"by label", "ours", broker.ReasonClientRejected, nil, codes.FailedPrecondition, "tokenctl check ours --depth token"},
		{"may not", "unchecked", broker.ReasonUpstreamDNS, nil, codes.Unavailable, ""},
		{"may not by label", "theirs", broker.ReasonUpstreamDNS, nil, codes.Unavailable, ""},
		{"the caller's own fault", "checked", "", []string{"admin"}, codes.PermissionDenied, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.upstream.Always(brokertest.Step{Err: &broker.Error{Reason: test.upstream}})
			_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/" + test.client, Scopes: test.scopes})
			p := problemOf(err)
			if got, there := p.metadata["next_check"]; p.code != test.code || got != test.want || there != (test.want != "") {
				t.Errorf("got %v with next_check %q, want %v and %q", err, got, test.code, test.want)
			}
		})
	}
	w.store.Always(brokertest.Fail(broker.ReasonStoreSealed), brokertest.Any)
	for id, want := range map[string]string{"checked": "tokenctl check checked", "unchecked": ""} {
		_, err := w.clients.DisableClient(t.Context(), &pb.DisableClientRequest{Name: "clients/" + id})
		if got := requireProblem(t, err, codes.Unavailable, broker.ReasonStoreSealed).metadata["next_check"]; got != want {
			t.Errorf("%s in a sealed store: got next_check %q, want %q", id, got, want)
		}
	}
}

// TestWhichErrorsHaveACheck: those that somebody else than the caller mends, and of which
// a lookup can see something.
func TestWhichErrorsHaveACheck(t *testing.T) {
	const shallow, deep = "tokenctl check acme", "tokenctl check acme --depth token"
	for reason, want := range map[broker.Reason]string{
		broker.ReasonClientNotFound: shallow, broker.ReasonClientDisabled: shallow, broker.ReasonStoreUnreachable: shallow, broker.ReasonRecordPruned: shallow,
		broker.ReasonSecretDestroyed: shallow, broker.ReasonSecretChangedOutside: shallow, broker.ReasonDestinationNotBound: shallow,
		broker.ReasonUpstreamTimeout: deep, broker.ReasonClientRejected: deep, broker.ReasonScopeRejected: deep, broker.ReasonRefreshTokenRejected: deep,
		broker.ReasonInvalidRequest: "", broker.ReasonCallerNotAllowed: "", broker.ReasonTooManyRequests: "", broker.ReasonInternal: "",
		broker.ReasonEtagMismatch: "", broker.ReasonClientAlreadyExists: "", broker.ReasonSecretWrongStage: "", broker.ReasonStoreConflict: "",
		broker.ReasonRotationUnderWay: "", broker.ReasonFailureNotSeen: "",
	} {
		if got := server.CheckLine(reason, "acme"); got != want {
			t.Errorf("%s: got %q, want %q", reason, got, want)
		}
	}
	for _, info := range broker.Reasons() {
		line := server.CheckLine(info.Reason, "acme")
		if info.Recovery == broker.RecoveryFixStore && line == "" {
			t.Errorf("%s: has no check, but an operator must mend the store", info.Reason)
		}
		if strings.HasPrefix(string(info.Reason), "CALLER_") && line != "" {
			t.Errorf("%s: got the check %q, want none of a caller", info.Reason, line)
		}
	}
	if got := server.CheckLine(broker.ReasonUpstreamTimeout, ""); got != "" {
		t.Errorf("of no client: got %q, want none", got)
	}
}
