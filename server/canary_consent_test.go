package server_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// consentsSucceed brings marked refresh tokens, passwords and codes, and what callers
// bring with GetToken.
func (c *canary) consentsSucceed(t *testing.T) {
	t.Helper()
	marked := func(name string) string {
		value := "brought-" + random(40)
		c.add(name, []byte(value))
		return value
	}
	message := clientMessage("users")
	usersOf(message)
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, &pb.CreateClientRequest{Client: message, Secret: c.secret("users")}, codes.OK)
	old := clientMessage("old")
	old.GrantType, old.Provider = pb.GrantType_GRANT_TYPE_PASSWORD, "example" // which takes it
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, &pb.CreateClientRequest{Client: old, Secret: c.secret("old")}, codes.OK)
	start := &pb.StartAuthorizationRequest{Client: "clients/users", Subject: sampleSubject}
	c.do(t, c.peer, pb.AuthorizationService_StartAuthorization_FullMethodName, start, codes.OK)
	state, code := c.consent(t, "users")
	c.do(t, c.peer, pb.AuthorizationService_CompleteAuthorization_FullMethodName, &pb.CompleteAuthorizationRequest{Client: "clients/users", State: state, Code: code, Issuer: usersIssuer}, codes.OK)
	c.do(t, c.peer, pb.AuthorizationService_CompleteAuthorization_FullMethodName, &pb.CompleteAuthorizationRequest{Client: "clients/users", State: state, Code: marked("code")}, codes.InvalidArgument)
	state, _ = c.consent(t, "users")
	c.do(t, c.peer, pb.AuthorizationService_CompleteAuthorization_FullMethodName, &pb.CompleteAuthorizationRequest{Client: "clients/users", State: state, Code: marked("code")}, codes.FailedPrecondition)
	c.do(t, c.peer, pb.AuthorizationService_GetAuthorization_FullMethodName, &pb.GetAuthorizationRequest{Client: "clients/users", Subject: sampleSubject}, codes.OK)
	c.do(t, c.peer, pb.AuthorizationService_ListAuthorizations_FullMethodName, &pb.ListAuthorizationsRequest{Client: "clients/users"}, codes.OK)
	c.do(t, c.peer, pb.AuthorizationService_RevokeAuthorization_FullMethodName, &pb.RevokeAuthorizationRequest{Client: "clients/users", Subject: sampleSubject}, codes.OK)
	bring := &pb.ImportAuthorizationRequest{Client: "clients/users", Subject: sampleSubject, Grant: &pb.ImportAuthorizationRequest_RefreshToken{RefreshToken: marked("refresh token")}}
	c.do(t, c.peer, pb.AuthorizationService_ImportAuthorization_FullMethodName, bring, codes.OK)
	password := &pb.ImportAuthorizationRequest_Password{Password: &pb.PasswordGrant{Username: "ann", Password: marked("user's password")}}
	c.do(t, c.peer, pb.AuthorizationService_ImportAuthorization_FullMethodName, &pb.ImportAuthorizationRequest{Client: "clients/old", Subject: sampleSubject, Grant: password}, codes.OK)
	c.do(t, c.peer, pb.AuthorizationService_ImportAuthorization_FullMethodName, &pb.ImportAuthorizationRequest{Client: "clients/users", Subject: sampleSubject, Grant: password}, codes.FailedPrecondition)
	c.do(t, c.peer, pb.TokenService_GetToken_FullMethodName, &pb.GetTokenRequest{Client: "clients/old", Subject: sampleSubject}, codes.OK)
	c.do(t, c.peer, pb.TokenService_GetToken_FullMethodName, &pb.GetTokenRequest{
		Client: "clients/old", Subject: sampleSubject, SubjectToken: marked("subject token"), DpopProof: marked("proof"),
	}, codes.InvalidArgument)
	c.do(t, c.peer, pb.AuthorizationService_DeleteSubject_FullMethodName, &pb.DeleteSubjectRequest{Subject: sampleSubject}, codes.OK)
}
