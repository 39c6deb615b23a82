package oauth_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// echoes are the ways in which servers spell what they were sent.
var echoes = map[string]func(string) string{
	"raw":    func(s string) string { return s },
	"start":  func(s string) string { return s[:14] },
	"form":   url.QueryEscape,
	"path":   url.PathEscape,
	"html":   html.EscapeString,
	"hex":    func(s string) string { return hex.EncodeToString([]byte(s)) },
	"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte("reports:" + s)) },
	"dump":   func(s string) string { return fmt.Sprintf("%q", s) },
}

// places are where in an answer an echo may stand.
var places = map[string]func(w http.ResponseWriter, echo string){
	"description": func(w http.ResponseWriter, echo string) {
		answer(401, marshal(map[string]any{"error": "invalid_client", "error_description": "secret " + echo + " is wrong"}))(w, nil)
	},
	"code":      func(w http.ResponseWriter, echo string) { answer(400, marshal(map[string]any{"error": echo}))(w, nil) },
	"code, 200": func(w http.ResponseWriter, echo string) { answer(200, marshal(map[string]any{"error": echo}))(w, nil) },
	"token type": func(w http.ResponseWriter, echo string) {
		answer(200, marshal(map[string]any{"access_token": "at", "token_type": echo}))(w, nil)
	},
	"token": func(w http.ResponseWriter, echo string) {
		answer(200, marshal(map[string]any{"access_token": echo + " "}))(w, nil)
	},
	"scope": func(w http.ResponseWriter, echo string) {
		answer(200, marshal(map[string]any{"access_token": "at", "scope": []any{echo, 1}}))(w, nil)
	},
	"other": func(w http.ResponseWriter, echo string) {
		answer(400, marshal(map[string]any{"message": echo, "error": map[string]any{"m": echo}}))(w, nil)
	},
	"page": func(w http.ResponseWriter, echo string) { answer(500, "<html>"+echo)(w, nil) },
	"text": func(w http.ResponseWriter, echo string) { answer(200, echo)(w, nil) },
	"form": func(w http.ResponseWriter, echo string) {
		answer(400, "error=x&error_description="+url.QueryEscape(echo))(w, nil)
	},
	"cut JSON": func(w http.ResponseWriter, echo string) { answer(200, `{"access_token":"`+echo)(w, nil) },
	"type":     func(w http.ResponseWriter, echo string) { answer(200, "", "Content-Type", echo)(w, nil) },
	"challenge": func(w http.ResponseWriter, echo string) {
		answer(401, "", "WWW-Authenticate", `Bearer error="x", error_description="`+strings.ReplaceAll(echo, `"`, `\"`)+`"`)(w, nil)
	},
	"challenge code": func(w http.ResponseWriter, echo string) {
		answer(401, "", "WWW-Authenticate", `Basic error="`+echo+`"`)(w, nil)
	},
	"location": func(w http.ResponseWriter, echo string) {
		answer(307, "", "Location", "https://"+echo+".example/"+echo+"?"+echo)(w, nil)
	},
	"retry": func(w http.ResponseWriter, echo string) { answer(429, "", "Retry-After", echo, "Date", echo)(w, nil) },
}

func marshal(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func TestEchoedSecretsStayOutOfErrors(t *testing.T) {
	var place func(http.ResponseWriter, string)
	var spell func(string) string
	client, server := serve(t, func(w http.ResponseWriter, _ *http.Request) { place(w, spell(canary)) })
	for placeName, p := range places {
		for echoName, e := range echoes {
			for _, method := range []broker.AuthenticationMethod{broker.ClientSecretBasic, broker.ClientSecretPost} {
				t.Run(placeName+" "+echoName+" "+string(method), func(t *testing.T) {
					place, spell = p, e
					req := tokenRequest(server)
					req.Authentication.Method = method
					_, err := client.RequestToken(t.Context(), req)
					if err == nil {
						t.Fatal("no error")
					}
					wantNoCanary(t, err)
				})
			}
		}
	}
}

// TestEchoedGrantsStayOutOfErrors: what a request presents is as secret as what it
// authenticates with, whatever the format that it goes in.
func TestEchoedGrantsStayOutOfErrors(t *testing.T) {
	s := secret.NewString(canary)
	set := profiles(t, map[string]string{
		"form": "refresh: {names: {access_token: at}}\n", "json": "request: {format: json}\n", "query": "request: {format: query, method: GET}\n",
		"access": "refresh: {with: access_token, names: {refresh_token: rt}}\n",
	})
	var place func(http.ResponseWriter, string)
	var spell func(string) string
	client, server := serve(t, func(w http.ResponseWriter, _ *http.Request) { place(w, spell(canary)) }, func(_ *httptest.Server, cfg *oauth.Config) { cfg.Profiles = set })
	spelled := maps.Clone(echoes)
	spelled["json"] = marshalled
	for grantName, grant := range map[string]broker.GrantParameters{
		"code":          {Type: broker.AuthorizationCode, Code: s},
		"verifier":      {Type: broker.AuthorizationCode, Code: secret.NewString("c-1"), CodeVerifier: s},
		"device code":   {Type: broker.DeviceCode, DeviceCode: s},
		"refresh token": {Type: broker.RefreshToken, RefreshToken: s, AccessToken: secret.NewString("a-1")},
		"access token":  {Type: broker.RefreshToken, AccessToken: s, RefreshToken: secret.NewString("r-1")},
		"subject token": {Type: broker.TokenExchange, SubjectToken: s, SubjectTokenType: "x"},
		"password":      {Type: broker.Password, Username: "ann", UserPassword: s},
	} {
		for _, provider := range []string{"form", "json", "query", "access"} {
			for placeName, p := range places {
				for echoName, e := range spelled {
					place, spell = p, e
					req := tokenRequest(server)
					req.Provider, req.Grant, req.Secret = provider, grant, secret.NewString("another-secret")
					_, err := client.RequestToken(t.Context(), req)
					if err == nil {
						t.Fatalf("%s %s %s %s: no error", grantName, provider, placeName, echoName)
					}
					wantNoCanary(t, err)
				}
			}
		}
	}
}

// TestEchoedProofsStayOutOfErrors: so are the proof of a key and an assertion.
func TestEchoedProofsStayOutOfErrors(t *testing.T) {
	var sent string
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		sent = r.Header.Get("DPoP") + form.Get("assertion")
		answer(400, marshal(map[string]any{"error": "x", "error_description": "bad: " + sent[len(sent)-14:]}))(w, r)
	})
	proven := tokenRequest(server)
	proven.Grant.DPoPProof = jwt("{}") + "NotSoRandomNow"
	asserted := tokenRequest(server)
	asserted.Grant.Type, asserted.Authentication.Method, asserted.Secret = broker.JWTBearer, broker.NoAuthentication, secret.NewString(keyJWK(t))
	for _, req := range []broker.TokenRequest{proven, asserted} {
		_, err := client.RequestToken(t.Context(), req)
		wantReason(t, err, broker.ReasonUpstreamRefused, "(withheld: it may echo a credential)")
		if strings.Contains(err.Error(), sent[len(sent)-14:]) {
			t.Errorf("the error has the end of %q: %v", sent, err)
		}
	}
}

// marshalled is how a server echoes a JSON body.
func marshalled(s string) string { return strings.Trim(marshal(s), `"`) }

func TestEchoedRequestsStayOutOfErrors(t *testing.T) {
	key := keyJWK(t)
	d := strings.Split(strings.Split(key, `"d":"`)[1], `"`)[0]
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		switch r.URL.Path {
		case "/assertion":
			answer(401, marshal(map[string]any{"error": "invalid_client", "error_description": "bad: " + form.Get("client_assertion")}))(w, r)
		case "/part":
			answer(401, marshal(map[string]any{"error": "invalid_client", "error_description": "bad: " + strings.Split(form.Get("client_assertion"), ".")[2][:12]}))(w, r)
		case "/key":
			answer(401, marshal(map[string]any{"error": "invalid_client", "error_description": "bad: " + d}))(w, r)
		case "/tokens":
			answer(200, marshal(map[string]any{
				"access_token": "first-token", "refresh_token": "second-token", "error": "invalid_scope", "error_description": "not for second-token",
			}))(w, r)
		}
	})
	for _, path := range []string{"/assertion", "/part", "/key", "/tokens"} {
		req := requestTo(server.URL + path)
		req.Authentication.Method = broker.PrivateKeyJWT
		req.Secret = secret.NewString(key)
		_, err := client.RequestToken(t.Context(), req)
		reason := broker.ReasonClientRejected
		if path == "/tokens" {
			reason = broker.ReasonScopeRejected
		}
		wantReason(t, err, reason, "(withheld: it may echo a credential)")
		for _, leaked := range []string{d, "eyJ", "first-token", "second-token"} {
			if strings.Contains(err.Error(), leaked) {
				t.Errorf("%s: error has %q: %v", path, leaked, err)
			}
		}
	}
}

// TestNothingOfARequestIsPrinted looks at what a careless log line would show.
func TestNothingOfARequestIsPrinted(t *testing.T) {
	server := httptest.NewServer(answer(200, `{"access_token":"canary-7f3a9c"}`))
	defer server.Close()
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true})
	defer client.Close()
	req := tokenRequest(server)
	res, err := client.RequestToken(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []any{req, &req, res, &res} {
		wantNoCanary(t, fmt.Errorf("%v %+v %#v", subject, subject, subject))
	}
}
