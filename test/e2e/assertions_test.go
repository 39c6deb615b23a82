package e2e_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/djangotoolkit"
)

const (
	jwtBearer     = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	tokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessTokens  = "urn:ietf:params:oauth:token-type:access_token"
)

// asserting is a token endpoint that takes assertions (RFC 7523 §3) and exchanges tokens
// (RFC 8693), and refuses whatever those forbid.
type asserting struct {
	t   *testing.T
	key any // the public half of the client's

	mu       sync.Mutex
	used     map[string]bool // jti of assertions; guarded by mu
	subjects []string        // of what was granted; guarded by mu
}

func (a *asserting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	answer := func(status int, members map[string]any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(members)
	}
	switch r.PostFormValue("grant_type") {
	case jwtBearer:
		subject, problem := a.asserted(r.PostFormValue("assertion"), "https://"+r.Host+r.URL.Path)
		if problem != "" {
			answer(http.StatusBadRequest, map[string]any{"error": "invalid_grant", "error_description": problem})
			return
		}
		answer(http.StatusOK, map[string]any{"access_token": "token-of-" + subject, "token_type": "Bearer", "expires_in": 600, "scope": r.PostFormValue("scope")})
	case tokenExchange:
		id, secret, _ := r.BasicAuth()
		token, ok := strings.CutPrefix(r.PostFormValue("subject_token"), "good-")
		if id != "gateway" || secret != "gateway-secret" {
			answer(http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		} else if !ok || r.PostFormValue("subject_token_type") != accessTokens {
			answer(http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
		} else {
			a.note(token)
			answer(http.StatusOK, map[string]any{"access_token": "exchanged-" + token, "token_type": "Bearer", "expires_in": 600, "issued_token_type": accessTokens})
		}
	default:
		answer(http.StatusBadRequest, map[string]any{"error": "unsupported_grant_type"})
	}
}

func (a *asserting) note(subject string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.subjects = append(a.subjects, subject)
}

func (a *asserting) granted() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.subjects...)
}

// asserted returns the subject of an assertion, or what is wrong with it.
func (a *asserting) asserted(assertion, audience string) (subject, problem string) {
	signed, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "", "not a JWT signed by ES256"
	}
	var claims jwt.Claims
	if err := signed.Claims(a.key, &claims); err != nil {
		return "", "not signed by the client's key"
	}
	if err := claims.ValidateWithLeeway(jwt.Expected{Issuer: "reports@project", AnyAudience: jwt.Audience{audience}, Time: time.Now()}, time.Minute); err != nil {
		return "", "claims: " + err.Error()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if claims.ID == "" || a.used[claims.ID] || claims.Expiry == nil {
		return "", "no jti, one that was used, or no exp"
	}
	a.used[claims.ID] = true
	a.subjects = append(a.subjects, claims.Subject)
	return claims.Subject, ""
}

// TestAssertionsAndExchanges: what a service account signs for itself and for users, and
// what a gateway exchanges, through the whole server.
func TestAssertionsAndExchanges(t *testing.T) {
	t.Parallel()
	key := newKey(t, "ES256")
	as := &asserting{t: t, key: key.private.Public(), used: map[string]bool{}}
	s := newSystem(t, as, nil)
	create := func(client *pb.Client, secret *pb.SecretInput) {
		t.Helper()
		client.TokenEndpoint, client.DefaultScopes = s.origin+"/token", []string{"read"}
		if _, err := s.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secret}); err != nil {
			t.Fatalf("CreateClient(%s): %v", client.GetName(), err)
		}
	}
	const robot, gateway = "clients/robot", "clients/gateway"
	create(&pb.Client{
		Name: robot, ClientId: "reports@project", GrantType: pb.GrantType_GRANT_TYPE_JWT_BEARER, AssertionSubject: "users/default",
		AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_NONE,
	}, keyInput(key.pem))
	create(&pb.Client{
		Name: gateway, ClientId: "gateway", GrantType: pb.GrantType_GRANT_TYPE_TOKEN_EXCHANGE, AuthenticationMethod: basic,
	}, secretInput("gateway-secret"))

	tokens := map[string]string{}
	for _, subject := range []string{"", "users/ada", "users/ben", "users/ada", ""} {
		got, err := s.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: robot, Subject: subject})
		if err != nil {
			t.Fatalf("GetToken for %q: %v", subject, err)
		}
		tokens[subject] = got.GetAccessToken()
	}
	if want := map[string]string{"": "token-of-users/default", "users/ada": "token-of-users/ada", "users/ben": "token-of-users/ben"}; !maps.Equal(tokens, want) {
		t.Errorf("tokens = %v, want %v", tokens, want)
	}
	if got := as.granted(); len(got) != 3 {
		t.Errorf("assertions for %q, want one for each subject", got)
	}
	_, err := s.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: robot, Subject: "admins/eve"})
	wantReason(t, "a subject that the caller may not name", err, "CALLER_NOT_ALLOWED")

	for _, token := range []string{"good-1", "good-1", "good-2"} { // nothing of it is kept
		got, err := s.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: gateway, SubjectToken: token})
		if err != nil || got.GetAccessToken() != "exchanged-"+token[len("good-"):] || got.GetIssuedTokenType() != accessTokens {
			t.Errorf("exchange of %s: %v, %v", token, got.GetAccessToken(), err)
		}
	}
	if got := as.granted(); len(got) != 6 {
		t.Errorf("%d grants, want three assertions and three exchanges", len(got))
	}
	_, err = s.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: gateway, SubjectToken: "stolen"})
	wantReason(t, "a token that is not taken", err, "SUBJECT_TOKEN_REJECTED")
	_, err = s.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: gateway})
	wantReason(t, "no token", err, "INVALID_REQUEST")
	if _, err = s.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: gateway, SubjectToken: "good-3"}); err != nil {
		t.Errorf("after another's token was rejected: %v", err)
	}
}

// passwords is the profile of a provider that has nothing better.
const passwords = `name: passwords
title: A provider that knows users by their passwords
sources: ["https://django-oauth-toolkit.example/"]
grants: [password]
authentication:
  methods: [client_secret_basic]
`

// TestPasswordGrant at a real server that offers it.
func TestPasswordGrant(t *testing.T) {
	t.Parallel()
	needServers(t)
	const name, word = "clients/legacy", "correct horse %+&="
	provider := djangotoolkit.Start(t, djangotoolkit.Config{Scopes: []string{"read"}, Password: word, Clients: []djangotoolkit.Client{
		{ID: "legacy", Secret: awkward, Grant: djangotoolkit.Password},
	}})
	site := newSite(t, embeddedStore(t.TempDir()), readCA(t, provider.CAFile()))
	site.addProfiles(t, "", map[string]string{"passwords": passwords})
	delete(site.config, "callers")
	site.config["access"] = map[string]any{"file": site.write(t, "access.yaml", []byte(systemAccess))}
	n := site.start(t, program(t))
	client := &pb.Client{
		Name: name, ClientId: "legacy", TokenEndpoint: provider.TokenEndpoint(), DefaultScopes: []string{"read"},
		GrantType: pb.GrantType_GRANT_TYPE_PASSWORD, AuthenticationMethod: basic,
	}
	_, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(awkward)})
	wantReason(t, "without a profile that lists the grant", err, "INVALID_REQUEST")
	client.Provider = "passwords"
	if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(awkward)}); err != nil {
		t.Fatalf("CreateClient: %v", err)
	}
	importing := func(word string) {
		t.Helper()
		_, err := n.operator.authorizations.ImportAuthorization(t.Context(), &pb.ImportAuthorizationRequest{
			Client: name, Subject: "users/ada", Grant: &pb.ImportAuthorizationRequest_Password{Password: &pb.PasswordGrant{Username: "ada", Password: word}},
		})
		if err != nil {
			t.Fatalf("ImportAuthorization: %v", err)
		}
	}
	importing("a wrong one")
	_, err = n.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: name, Subject: "users/ada"})
	wantReason(t, "a wrong password", err, "PASSWORD_REJECTED")
	importing(word)
	got, err := n.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: name, Subject: "users/ada"})
	if err != nil || len(got.GetWarnings()) != 1 || got.GetWarnings()[0].GetReason() != "PASSWORD_GRANT" {
		t.Fatalf("GetToken: %v, %v, want it with the warning PASSWORD_GRANT", got.GetWarnings(), err)
	}
}
