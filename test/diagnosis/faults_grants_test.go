package diagnosis_test

import (
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	user     = "users/4711"
	callback = "https://app.example/callback"
)

// usersServer gives tokens for codes and refresh tokens.
type usersServer struct {
	// refuses is the error code that refresh tokens get; "" takes them.
	refuses string
	// noRefresh gives no refresh token for a code.
	noRefresh bool
	spent     atomic.Int64 // refresh tokens that were used
}

// ServeHTTP implements http.Handler.
func (u *usersServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	refresh := r.PostForm.Get("grant_type") == "refresh_token"
	if refresh {
		u.spent.Add(1)
	}
	switch {
	case r.Header.Get("Authorization") == "":
		fixed(401, "application/json", `{"error":"invalid_client"}`)(w, r)
	case refresh && u.refuses != "":
		fixed(400, "application/json", `{"error":"`+u.refuses+`"}`)(w, r)
	case u.noRefresh:
		fixed(200, "application/json", bearer+"}")(w, r)
	default:
		fixed(200, "application/json", fmt.Sprintf(`%s,"refresh_token":"%s-refresh-%d"}`, bearer, canary, u.spent.Load()))(w, r)
	}
}

// forUsers makes the client one that acts for users, and asks about one of them.
func (s *scene) forUsers(server *usersServer) {
	s.as.answer(server.ServeHTTP)
	s.opaque()
	s.message.GrantType = pb.GrantType_GRANT_TYPE_AUTHORIZATION_CODE
	s.message.AuthorizationEndpoint = s.as.origin + "/authorize"
	s.message.RedirectUris = []string{callback}
	s.check.Subject = user
}

// imported has the user's refresh token be there.
func (s *scene) imported() {
	s.then(func() {
		_, err := s.authorizations.ImportAuthorization(s.t.Context(), &pb.ImportAuthorizationRequest{
			Client: s.message.GetName(), Subject: user, Grant: &pb.ImportAuthorizationRequest_RefreshToken{RefreshToken: newSecret()},
		})
		s.must(err)
	})
}

// asked asks the user for consent and returns the state of it.
func (s *scene) asked() (state string) {
	s.t.Helper()
	response, err := s.authorizations.StartAuthorization(s.t.Context(), &pb.StartAuthorizationRequest{
		Client: s.message.GetName(), Subject: user, RedirectUri: callback,
	})
	s.must(err)
	u, err := url.Parse(response.GetAuthorization().GetConsent().GetAuthorizationUrl())
	s.must(err)
	return u.Query().Get("state")
}

// answered has the user's browser come back.
func (s *scene) answered(edit func(*pb.CompleteAuthorizationRequest)) error {
	req := &pb.CompleteAuthorizationRequest{Client: s.message.GetName(), State: s.asked()}
	edit(req)
	_, err := s.authorizations.CompleteAuthorization(s.t.Context(), req)
	return err
}

// use gets the user's token, and returns why there is none.
func (s *scene) use() error {
	_, err := s.tokens.GetToken(s.t.Context(), &pb.GetTokenRequest{Client: s.message.GetName(), Subject: user})
	return err
}

var grantFaults = []fault{
	{
		"a user who has granted nothing", token,
		func(s *scene) { s.forUsers(&usersServer{}) },
		proven(broker.StageAuthorization, broker.ReasonAuthorizationRequired),
	},
	{
		"a user who has not answered yet", token,
		func(s *scene) {
			s.forUsers(&usersServer{})
			s.then(func() { s.asked() })
		},
		proven(broker.StageAuthorization, broker.ReasonAuthorizationPending, "asked for until"),
	},
	{
		"a user who said no", token,
		func(s *scene) {
			s.forUsers(&usersServer{})
			s.then(func() {
				if err := s.answered(func(req *pb.CompleteAuthorizationRequest) { req.Error = "access_denied" }); err == nil {
					s.t.Fatal("consent that was denied is taken")
				}
			})
		},
		proven(broker.StageAuthorization, broker.ReasonAuthorizationRequired, "came to nothing: AUTHORIZATION_DENIED"),
	},
	{
		"a grant that has ended", token,
		func(s *scene) {
			s.forUsers(&usersServer{refuses: "invalid_grant"})
			s.imported()
			s.then(func() {
				if s.use() == nil {
					s.t.Fatal("a refresh token that was refused brought a token")
				}
			})
		},
		proven(broker.StageAuthorization, broker.ReasonRefreshTokenRejected, "granted at"),
	},
	{
		"a grant of the client it was before", token,
		func(s *scene) {
			s.forUsers(&usersServer{})
			s.imported()
			s.editRecord(func(own map[string]any) { at(own, "upstream")["client_id"] = "another-app" })
		},
		proven(broker.StageAuthorization, broker.ReasonGrantOfOldClient, "granted at"),
	},
	{
		"a refresh token past its end", token,
		func(s *scene) {
			s.forUsers(&usersServer{})
			s.message.Provider = "brief"
			s.imported()
			s.then(func() { <-time.After(1100 * time.Millisecond) }) // a real clock has nothing to wait on but time
		},
		proven(broker.StageAuthorization, broker.ReasonRefreshTokenExpired, "granted at"),
	},
	{
		"a grant without a refresh token", token,
		func(s *scene) {
			s.forUsers(&usersServer{noRefresh: true})
			s.then(func() {
				s.must(s.answered(func(req *pb.CompleteAuthorizationRequest) { req.Code = "code" }))
				s.must(s.use())
			})
		},
		warned(broker.StageTokenRefresh, broker.ReasonRefreshTokenAbsent),
	},
}

// metadata has the issuer say this of itself once the client is registered; before, it
// says what is so.
func (s *scene) metadata(change func(map[string]any)) {
	said := map[string]any{
		"issuer": s.as.origin, "token_endpoint": s.as.TokenEndpoint(), "authorization_endpoint": s.as.origin + "/authorize",
		"response_types_supported": []string{"code"}, "grant_types_supported": []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"}, "scopes_supported": []string{"read", "write"},
	}
	s.message.Issuer = s.as.origin
	s.as.describe(said)
	s.then(func() {
		changed := map[string]any{}
		for name, value := range said {
			changed[name] = value
		}
		change(changed)
		s.as.describe(changed)
	})
}

var metadataFaults = []fault{
	{
		"a token endpoint that has moved", token,
		func(s *scene) {
			s.metadata(func(said map[string]any) { said["token_endpoint"] = s.as.origin + "/v2/token" })
			s.unknownThere()
		},
		likely(broker.StageMetadata, broker.ReasonMetadataDisagrees, "token_endpoint is", "/v2/token"),
	},
	{
		"a grant that the metadata does not offer", token,
		func(s *scene) {
			s.metadata(func(said map[string]any) { said["grant_types_supported"] = []string{"authorization_code"} })
			refusing(400, "unauthorized_client")(s)
		},
		likely(broker.StageMetadata, broker.ReasonMetadataDisagrees, "the grant is client_credentials, the metadata offers authorization_code"),
	},
	{
		"a scope that the metadata does not list", token,
		func(s *scene) {
			s.metadata(func(said map[string]any) { said["scopes_supported"] = []string{"openid"} })
			refusing(400, "invalid_scope")(s)
		},
		likely(broker.StageMetadata, broker.ReasonMetadataDisagrees, `does not list the scope "read"`),
	},
	{
		"metadata of another issuer", token,
		func(s *scene) {
			s.metadata(func(said map[string]any) { said["issuer"] = "https://other.example" })
		},
		warned(broker.StageMetadata, broker.ReasonDiscoveryFailed),
	},
	{
		"metadata that is gone", token,
		func(s *scene) {
			s.metadata(func(said map[string]any) { clear(said) })
		},
		warned(broker.StageMetadata, broker.ReasonDiscoveryFailed),
	},
}
