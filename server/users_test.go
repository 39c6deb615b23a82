package server_test

import (
	"testing"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	// usersIssuer is the authorization server of [world.users].
	usersIssuer   = "https://auth.example.com"
	usersCallback = "https://broker.example.com/authorization/callback"
	sampleSubject = "users/4711"
)

// asksUsers makes acme a client whose users are asked for consent.
func asksUsers(t *testing.T, w *world) {
	t.Helper()
	message := clientMessage("acme")
	usersOf(message)
	_, err := w.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{
		Client: message, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}},
	})
	must(t, err)
}

// usersOf makes a client one whose users are asked for consent.
func usersOf(c *pb.Client) {
	c.GrantType = pb.GrantType_GRANT_TYPE_AUTHORIZATION_CODE
	c.Issuer, c.AuthorizationEndpoint, c.RevocationEndpoint = usersIssuer, usersIssuer+"/authorize", usersIssuer+"/revoke"
}

// startAuthorization asks for the sample subject's consent.
func (w *world) startAuthorization(t *testing.T, id string) *pb.Authorization {
	t.Helper()
	started, err := w.consents.StartAuthorization(t.Context(), &pb.StartAuthorizationRequest{Client: "clients/" + id, Subject: sampleSubject})
	must(t, err)
	return started.GetAuthorization()
}

// consent has the sample subject consent and returns what the browser brings back.
func (w *world) consent(t *testing.T, id string) (state, code string) {
	t.Helper()
	query, err := w.users.Consent(w.startAuthorization(t, id).GetConsent().GetAuthorizationUrl())
	must(t, err)
	return query.Get("state"), query.Get("code")
}
