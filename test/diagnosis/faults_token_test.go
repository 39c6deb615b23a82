package diagnosis_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// newKey returns a private key as a client has it and the public half as a server does.
func newKey(t testing.TB) (private string, public jose.JSONWebKey) {
	t.Helper()
	half, whole, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(whole)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), jose.JSONWebKey{Key: half, Algorithm: "EdDSA"}
}

// granting answers whoever brings a credential with 200 and a body.
func granting(body string) func(*scene) {
	return answering(toCredentials(fixed(200, "application/json", body)))
}

// refusing answers whoever brings a credential with an error of OAuth.
func refusing(status int, code string) func(*scene) {
	return answering(toCredentials(fixed(status, "application/json", `{"error":"`+code+`"}`)))
}

// bearer is a whole answer but for what comes behind.
const bearer = `{"access_token":"` + canary + `-token","token_type":"Bearer","expires_in":3600`

// onlyBy registers the client anew at a server that takes one method alone.
func (s *scene) onlyBy(method, value string) {
	s.as = newUpstream(s.t, listening{}, authserver.Client{
		ID: s.message.GetClientId(), Secrets: []secret.Value{text(value)}, Method: method, Scopes: []string{"read"},
	})
	s.secret, s.value = clientSecret(value), value
	s.at(s.as.origin)
}

// rawBasic takes id and secret from a Basic header as they are, undecoded, as servers do
// that skip that step of RFC 6749 §2.3.1.
func rawBasic(id, value string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(id+":"+value)) {
			fixed(401, "application/json", `{"error":"invalid_client"}`)(w, r)
			return
		}
		fixed(200, "application/json", bearer+"}")(w, r)
	}
}

// echo answers with what it got: servers do, and the secret must not come through.
func echo(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	_, value, _ := r.BasicAuth()
	fixed(401, "application/json", fmt.Sprintf(`{"error":"invalid_client","error_description":"wrong secret %s for %s"}`, value, r.Form.Encode()))(w, r)
}

func jwtThatExpired() string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"none"}`)) + "." + part(fmt.Appendf(nil, `{"exp":%d}`, time.Now().Add(-time.Hour).Unix())) + "." + part([]byte(canary))
}

var tokenFaults = []fault{
	{
		"a wrong secret", token, func(s *scene) { s.secret = clientSecret(newSecret()) },
		proven(broker.StageTokenRequest, broker.ReasonClientRejected, "401"),
	},
	{
		"a secret that the provider has revoked", token, func(s *scene) { s.unknownThere() },
		proven(broker.StageTokenRequest, broker.ReasonClientRejected, "by client_secret_post it is refused too"),
	},
	{
		"a wrong client_id", token, func(s *scene) { s.message.ClientId += "x" },
		proven(broker.StageTokenRequest, broker.ReasonClientRejected),
	},
	{
		"a key that the server does not know", token,
		func(s *scene) {
			s.byKey()
			_, other := newKey(s.t)
			s.must(s.as.SetKeys(s.id()+"-app", other))
		},
		proven(broker.StageTokenRequest, broker.ReasonClientRejected),
	},
	{
		"a server that takes the secret in the form alone", token, func(s *scene) { s.onlyBy(authserver.MethodPost, s.value) },
		proven(broker.StageTokenRequest, broker.ReasonAuthenticationMethodWrong, "by client_secret_post the same secret gets a token"),
	},
	{
		"a server that takes the secret by Basic alone", token,
		func(s *scene) {
			s.message.AuthenticationMethod = pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_POST
			s.onlyBy(authserver.MethodBasic, s.value)
		},
		proven(broker.StageTokenRequest, broker.ReasonAuthenticationMethodWrong, "by client_secret_basic the same secret gets a token"),
	},
	{
		"a server that takes Basic unencoded, and a secret with special characters", token,
		func(s *scene) {
			s.value += "+/=:%"
			s.secret = clientSecret(s.value)
			s.as.answer(rawBasic(s.message.GetClientId(), s.value))
		},
		proven(broker.StageTokenRequest, broker.ReasonAuthenticationMethodWrong, "by client_secret_basic_raw the same secret gets a token"),
	},
	{
		"a server that wants Basic encoded, and a secret with special characters", token,
		func(s *scene) {
			s.message.AuthenticationMethod = pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC_RAW
			s.onlyBy(authserver.MethodBasic, s.value+"+/=")
		},
		proven(broker.StageTokenRequest, broker.ReasonAuthenticationMethodWrong, "by client_secret_basic the same secret gets a token"),
	},
	{
		"a scope that the server does not know", token, func(s *scene) { s.message.DefaultScopes = []string{"read", "fly"} },
		proven(broker.StageTokenRequest, broker.ReasonScopeRejected, "invalid_scope"),
	},
	{
		"an audience that the server does not know", token,
		func(s *scene) {
			s.message.Audience = "https://api.elsewhere.test"
			refusing(400, "invalid_target")(s)
		},
		proven(broker.StageTokenRequest, broker.ReasonTargetRejected, "invalid_target"),
	},
	{
		"a client that may not use the grant", token, refusing(400, "unauthorized_client"),
		proven(broker.StageTokenRequest, broker.ReasonGrantTypeRejected, "unauthorized_client"),
	},
	{
		"a server that does not know the grant", token, refusing(400, "unsupported_grant_type"),
		proven(broker.StageTokenRequest, broker.ReasonGrantTypeRejected, "unsupported_grant_type"),
	},
	{
		"a parameter that is missing", token, refusing(400, "invalid_request"),
		proven(broker.StageTokenRequest, broker.ReasonRequestRejected, "invalid_request"),
	},
	{
		"a rate limit of token requests", token, answering(toCredentials(fixed(429, "application/json", `{"error":"rate_limited"}`))),
		proven(broker.StageTokenRequest, broker.ReasonUpstreamRateLimited, "429"),
	},
	{
		"a failure behind the authentication", token, answering(toCredentials(fixed(500, "text/html", "<html>"+canary))),
		proven(broker.StageTokenRequest, broker.ReasonUpstreamUnavailable, "500"),
	},
	{
		"a refusal without a word", token, answering(toCredentials(fixed(403, "text/plain", ""))),
		unknown(broker.StageTokenRequest, broker.ReasonUpstreamRefused, "403"),
	},
	{
		"a refusal with an unknown code", token, refusing(400, "policy_violation_17"),
		unknown(broker.StageTokenRequest, broker.ReasonUpstreamRefused, "policy_violation_17"),
	},
	{
		"a server that echoes the secret", token, answering(toCredentials(echo)),
		proven(broker.StageTokenRequest, broker.ReasonClientRejected),
	},
	{
		"a page on 200, once there is a secret", token, answering(toCredentials(fixed(200, "text/html", loginPage))),
		proven(broker.StageTokenRequest, broker.ReasonUpstreamMalformed, "HTML"),
	},
	{
		"an answer without a token", token, granting(`{"token_type":"Bearer","expires_in":3600}`),
		proven(broker.StageTokenRequest, broker.ReasonUpstreamMalformed, "access_token"),
	},
	{
		"a token under another name", token, granting(`{"accessToken":"` + canary + `","token_type":"Bearer"}`),
		proven(broker.StageTokenRequest, broker.ReasonUpstreamMalformed, "access_token"),
	},
	{
		"a token of type MAC", token, granting(`{"access_token":"` + canary + `","token_type":"mac","expires_in":60}`),
		proven(broker.StageTokenRequest, broker.ReasonTokenTypeUnsupported, "mac"),
	},
	{
		"a token that has expired", token,
		func(s *scene) { granting(`{"access_token":"` + jwtThatExpired() + `","token_type":"Bearer"}`)(s) },
		proven(broker.StageTokenRequest, broker.ReasonTokenExpired),
	},
	{
		"fewer scopes than asked for", token,
		func(s *scene) {
			s.message.DefaultScopes = []string{"read", "write"}
			granting(bearer + `,"scope":"read"}`)(s)
		},
		warned(broker.StageTokenScopes, broker.ReasonScopesNarrowed, "granted: read", "not granted: write"),
	},
	{
		"fewer scopes than the client must have", token,
		func(s *scene) {
			s.message.DefaultScopes = []string{"read", "write"}
			s.message.TokenPolicy = &pb.TokenPolicy{RequireAllScopes: true}
			granting(bearer + `,"scope":"read"}`)(s)
		},
		proven(broker.StageTokenRequest, broker.ReasonScopeNotGranted, "write"),
	},
	{
		"a token that does not say when it expires", token, granting(`{"access_token":"` + canary + `","token_type":"Bearer"}`),
		warned(broker.StageTokenExpiry, broker.ReasonExpiryAssumed),
	},
}
