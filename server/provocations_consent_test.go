package server_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// consentContract is the part of AuthorizationService. Its client acme asks users.
var consentContract = map[string][]provocation{
	"StartAuthorization": {
		{"no subject", codes.InvalidArgument, broker.ReasonInvalidRequest, "subject", startConsent(func(r *pb.StartAuthorizationRequest) { r.Subject = "" })},
		{"bad name", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", startConsent(func(r *pb.StartAuthorizationRequest) { r.Client = "acme" })},
		{"open redirect", codes.InvalidArgument, broker.ReasonInvalidRequest, "redirect_uri", startConsent(func(r *pb.StartAuthorizationRequest) { r.RedirectUri = "https://evil.example.com" })},
		{"long hint", codes.InvalidArgument, broker.ReasonInvalidRequest, "login_hint", startConsent(func(r *pb.StartAuthorizationRequest) { r.LoginHint = strings.Repeat("a", 257) })},
		{"scope", codes.PermissionDenied, broker.ReasonScopeNotAllowed, "", startConsent(func(r *pb.StartAuthorizationRequest) { r.Scopes = []string{"admin"} })},
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", startConsent(func(r *pb.StartAuthorizationRequest) { r.Client = "clients/nobody" })},
		{"no users", codes.FailedPrecondition, broker.ReasonAuthorizationNotOffered, "", startConsent(func(r *pb.StartAuthorizationRequest) { r.Client = "clients/bare" })},
		{"disabled", codes.FailedPrecondition, broker.ReasonClientDisabled, "", after(asksUsers, after(disable, startConsent(nil)))},
		{"secret destroyed", codes.FailedPrecondition, broker.ReasonSecretDestroyed, "", after(asksUsers, after(takeSecret(broker.AbsentDestroyed), startConsent(nil)))},
		{"store down", codes.Unavailable, broker.ReasonStoreUnreachable, "", after(storeFails(broker.ReasonStoreUnreachable), startConsent(nil))},
	},
	"CompleteAuthorization": {
		{"invented state", codes.InvalidArgument, broker.ReasonStateInvalid, "", completeConsent(func(r *pb.CompleteAuthorizationRequest) { r.State = "invented" })},
		{"no code", codes.InvalidArgument, broker.ReasonInvalidRequest, "code", completeConsent(func(r *pb.CompleteAuthorizationRequest) { r.Code = "" })},
		{"another client's state", codes.InvalidArgument, broker.ReasonStateInvalid, "", completeConsent(func(r *pb.CompleteAuthorizationRequest) { r.Client = "clients/bare" })},
		{"denied", codes.FailedPrecondition, broker.ReasonAuthorizationDenied, "", completeConsent(func(r *pb.CompleteAuthorizationRequest) { r.Code, r.Error = "", "access_denied" })},
		{"another issuer", codes.FailedPrecondition, broker.ReasonIssuerMismatch, "", completeConsent(func(r *pb.CompleteAuthorizationRequest) { r.Issuer = "https://evil.example.com" })},
		{"not taken", codes.FailedPrecondition, broker.ReasonAuthorizationNotTaken, "", completeConsent(func(r *pb.CompleteAuthorizationRequest) { r.Code = "another" })},
		{"upstream down", codes.Unavailable, broker.ReasonUpstreamDNS, "", completeAfter(upstreamFails(broker.ReasonUpstreamDNS, 0))},
		{"store down", codes.Unavailable, broker.ReasonStoreUnreachable, "", completeAfter(storeFails(broker.ReasonStoreUnreachable))},
	},
	"ImportAuthorization": {
		{"nothing", codes.InvalidArgument, broker.ReasonInvalidRequest, "grant", importGrant(func(r *pb.ImportAuthorizationRequest) { r.Grant = nil })},
		{"bad time", codes.InvalidArgument, broker.ReasonInvalidRequest, "refresh_expire_time", importGrant(func(r *pb.ImportAuthorizationRequest) { r.RefreshExpireTime = &timestamppb.Timestamp{Nanos: -1} })},
		{"password without a name", codes.InvalidArgument, broker.ReasonInvalidRequest, "password.username", importGrant(func(r *pb.ImportAuthorizationRequest) {
			r.Grant = &pb.ImportAuthorizationRequest_Password{Password: &pb.PasswordGrant{Password: "x"}}
		})},
		{"scope", codes.PermissionDenied, broker.ReasonScopeNotAllowed, "", importGrant(func(r *pb.ImportAuthorizationRequest) { r.Scopes = []string{"admin"} })},
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", importGrant(func(r *pb.ImportAuthorizationRequest) { r.Client = "clients/nobody" })},
		{"no users", codes.FailedPrecondition, broker.ReasonAuthorizationNotOffered, "", importGrant(func(r *pb.ImportAuthorizationRequest) { r.Client = "clients/bare" })},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(asksUsers, after(remove, importGrant(nil)))},
	},
	"GetAuthorization": {
		{"neither name nor client", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", getAuthorization(&pb.GetAuthorizationRequest{})},
		{"both", codes.InvalidArgument, broker.ReasonInvalidRequest, "name", getAuthorization(&pb.GetAuthorizationRequest{Name: "clients/acme/authorizations/x", Client: "clients/acme"})},
		{"half a name", codes.InvalidArgument, broker.ReasonInvalidRequest, "name", getAuthorization(&pb.GetAuthorizationRequest{Name: "clients/acme"})},
		{"no such client", codes.NotFound, broker.ReasonClientNotFound, "", getAuthorization(&pb.GetAuthorizationRequest{Client: "clients/nobody", Subject: sampleSubject})},
		{"nobody asked", codes.NotFound, broker.ReasonAuthorizationNotFound, "", getAuthorization(&pb.GetAuthorizationRequest{Client: "clients/acme", Subject: sampleSubject})},
		{"no such name", codes.NotFound, broker.ReasonAuthorizationNotFound, "", getAuthorization(&pb.GetAuthorizationRequest{Name: "clients/acme/authorizations/../../x"})},
	},
	"ListAuthorizations": {
		{"bad page token", codes.InvalidArgument, broker.ReasonInvalidRequest, "page_token", listAuthorizations(&pb.ListAuthorizationsRequest{Client: "clients/acme", PageToken: "2"})},
		{"negative page", codes.InvalidArgument, broker.ReasonInvalidRequest, "page_size", listAuthorizations(&pb.ListAuthorizationsRequest{Client: "clients/acme", PageSize: -1})},
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", listAuthorizations(&pb.ListAuthorizationsRequest{Client: "clients/nobody"})},
	},
	"RevokeAuthorization": {
		{"both", codes.InvalidArgument, broker.ReasonInvalidRequest, "name", revokeAuthorization(&pb.RevokeAuthorizationRequest{Name: "clients/acme/authorizations/x", Subject: "a"})},
		{"nobody asked", codes.NotFound, broker.ReasonAuthorizationNotFound, "", revokeAuthorization(&pb.RevokeAuthorizationRequest{Client: "clients/acme", Subject: sampleSubject})},
		{"store down", codes.Unavailable, broker.ReasonStoreUnreachable, "", after(storeFails(broker.ReasonStoreUnreachable), revokeAuthorization(&pb.RevokeAuthorizationRequest{Client: "clients/acme", Subject: sampleSubject}))},
	},
	"DeleteSubject": {
		{"nobody", codes.InvalidArgument, broker.ReasonInvalidRequest, "subject", deleteSubject("")},
		{"store down", codes.Unavailable, broker.ReasonStoreUnreachable, "", after(storeFails(broker.ReasonStoreUnreachable), deleteSubject("a"))},
	},
}

func startConsent(edit func(*pb.StartAuthorizationRequest)) act {
	return call(func(t *testing.T, w *world) error {
		request := &pb.StartAuthorizationRequest{Client: "clients/acme", Subject: sampleSubject}
		if edit != nil {
			edit(request)
			asksUsers(t, w)
		}
		_, err := w.consents.StartAuthorization(t.Context(), request)
		return err
	})
}

func completeConsent(edit func(*pb.CompleteAuthorizationRequest)) act {
	return call(func(t *testing.T, w *world) error {
		asksUsers(t, w)
		request := &pb.CompleteAuthorizationRequest{Client: "clients/acme", Issuer: usersIssuer}
		request.State, request.Code = w.consent(t, "acme")
		edit(request)
		_, err := w.consents.CompleteAuthorization(t.Context(), request)
		return err
	})
}

// completeAfter breaks something between the consent and its answer.
func completeAfter(broken func(*testing.T, *world)) act {
	return call(func(t *testing.T, w *world) error {
		asksUsers(t, w)
		request := &pb.CompleteAuthorizationRequest{Client: "clients/acme", Issuer: usersIssuer}
		request.State, request.Code = w.consent(t, "acme")
		broken(t, w)
		_, err := w.consents.CompleteAuthorization(t.Context(), request)
		return err
	})
}

func importGrant(edit func(*pb.ImportAuthorizationRequest)) act {
	return call(func(t *testing.T, w *world) error {
		request := &pb.ImportAuthorizationRequest{
			Client: "clients/acme", Subject: sampleSubject, Grant: &pb.ImportAuthorizationRequest_RefreshToken{RefreshToken: "r"},
			RefreshExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
		}
		if edit != nil {
			edit(request)
			asksUsers(t, w)
		}
		_, err := w.consents.ImportAuthorization(t.Context(), request)
		return err
	})
}

func getAuthorization(request *pb.GetAuthorizationRequest) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.consents.GetAuthorization(t.Context(), request)
		return err
	})
}

func listAuthorizations(request *pb.ListAuthorizationsRequest) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.consents.ListAuthorizations(t.Context(), request)
		return err
	})
}

func revokeAuthorization(request *pb.RevokeAuthorizationRequest) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.consents.RevokeAuthorization(t.Context(), request)
		return err
	})
}

func deleteSubject(subject string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.consents.DeleteSubject(t.Context(), &pb.DeleteSubjectRequest{Subject: subject})
		return err
	})
}
