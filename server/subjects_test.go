package server_test

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// TestSubjectsBindEveryCall: a row lets a caller name its own users and nobody else's,
// by subject and by name, and shows no others.
func TestSubjectsBindEveryCall(t *testing.T) {
	writing := newWorld(t, setup{})
	writing.register(t, writing.peer, "acme", usersOf)
	names := map[string]string{}
	for _, subject := range []string{"portal/1", "other/1"} {
		brought, err := writing.consents.ImportAuthorization(t.Context(), &pb.ImportAuthorizationRequest{
			Client: "clients/acme", Subject: subject, Grant: &pb.ImportAuthorizationRequest_RefreshToken{RefreshToken: "r"},
		})
		must(t, err)
		names[subject] = brought.GetAuthorization().GetName()
	}
	path := filepath.Join(t.TempDir(), "access.yaml")
	must(t, os.WriteFile(path, []byte(`callers:
  - {name: portal, identities: [insecure-loopback]}
rules:
  - callers: [portal]
    permissions: [token.get, authorization.start, authorization.complete, authorization.read, authorization.import, authorization.revoke]
    clients: ["*"]
    subjects: ["prefix:portal/"]
...
`), 0o600))
	table, err := access.NewReloader(path, nil)
	must(t, err)
	w := newWorld(t, setup{access: table, prepare: func(w *world) { w.memory, w.store = writing.memory, brokertest.NewFaulty(writing.memory) }})
	w.upstream.Register("acme-at-provider", "secret-1 of acme")

	others := map[string]func() error{
		"GetToken": func() error {
			_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme", Subject: "other/1"})
			return err
		},
		"WatchToken": func() error {
			stream, err := w.tokens.WatchToken(t.Context(), &pb.WatchTokenRequest{Client: "clients/acme", Subject: "other/1"})
			must(t, err)
			_, err = stream.Recv()
			return err
		},
		"StartAuthorization": func() error {
			_, err := w.consents.StartAuthorization(t.Context(), &pb.StartAuthorizationRequest{Client: "clients/acme", Subject: "other/1"})
			return err
		},
		"GetAuthorization": func() error {
			_, err := w.consents.GetAuthorization(t.Context(), &pb.GetAuthorizationRequest{Client: "clients/acme", Subject: "other/1"})
			return err
		},
		"GetAuthorization of nobody's client": func() error {
			_, err := w.consents.GetAuthorization(t.Context(), &pb.GetAuthorizationRequest{Client: "clients/nobody", Subject: "other/1"})
			return err
		},
		"GetAuthorization by name": func() error {
			_, err := w.consents.GetAuthorization(t.Context(), &pb.GetAuthorizationRequest{Name: names["other/1"]})
			return err
		},
		"RevokeAuthorization by name": func() error {
			_, err := w.consents.RevokeAuthorization(t.Context(), &pb.RevokeAuthorizationRequest{Name: names["other/1"], Force: true})
			return err
		},
		"ImportAuthorization": func() error {
			_, err := w.consents.ImportAuthorization(t.Context(), &pb.ImportAuthorizationRequest{
				Client: "clients/acme", Subject: "other/1", Grant: &pb.ImportAuthorizationRequest_RefreshToken{RefreshToken: "r"},
			})
			return err
		},
		"CompleteAuthorization": func() error {
			started, err := writing.consents.StartAuthorization(t.Context(), &pb.StartAuthorizationRequest{Client: "clients/acme", Subject: "other/1"})
			must(t, err)
			query, err := writing.users.Consent(started.GetAuthorization().GetConsent().GetAuthorizationUrl())
			must(t, err)
			_, err = w.consents.CompleteAuthorization(t.Context(), &pb.CompleteAuthorizationRequest{Client: "clients/acme", State: query.Get("state"), Code: query.Get("code")})
			return err
		},
		"DeleteSubject": func() error {
			_, err := w.consents.DeleteSubject(t.Context(), &pb.DeleteSubjectRequest{Subject: "other/1"})
			return err
		},
	}
	for name, call := range others {
		t.Run(name, func(t *testing.T) {
			requireProblem(t, call(), codes.PermissionDenied, broker.ReasonCallerNotAllowed)
		})
	}
	if _, err := w.consents.GetAuthorization(t.Context(), &pb.GetAuthorizationRequest{Name: names["portal/1"]}); err != nil {
		t.Errorf("its own user's authorization: %v", err)
	}
	list, err := w.consents.ListAuthorizations(t.Context(), &pb.ListAuthorizationsRequest{Client: "clients/acme"})
	must(t, err)
	if all := list.GetAuthorizations(); len(all) != 1 || all[0].GetSubject() != "portal/1" {
		t.Errorf("listed %v, want portal/1 alone", all)
	}
	deleted, err := w.consents.DeleteSubject(t.Context(), &pb.DeleteSubjectRequest{Subject: "portal/1"})
	if err != nil || deleted.GetDeletedCount() != 1 {
		t.Errorf("DeleteSubject: %v, %v", deleted, err)
	}
}
