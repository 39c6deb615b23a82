package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/zoo/systems"
)

const (
	connectionsSecret = "the connections' secret"
	appCallback       = "https://app.example/callback"
	ada               = "users/ada"
	// tokensLive is how long access tokens of these tests live: they are refreshed in real time.
	tokensLive = 6 * time.Second
)

// connectionsProfile is what a user would write for a style of the system.
func connectionsProfile(style systems.Style) string {
	text := `name: connections
title: Connections
sources: [https://docs.connections.example.com/oauth]
endpoints:
  authorization: ORIGIN/oauth/authorize
  token: ORIGIN/oauth/token
`
	rest := map[systems.Style]string{
		systems.Rotating:               "refresh: {rotation: always}\n",
		systems.RefreshElsewhere:       "  refresh: ORIGIN/oauth/refresh\nrefresh: {rotation: never}\n",
		systems.RefreshWithAccessToken: "  refresh: ORIGIN/oauth/refresh\nrefresh: {with: access_token}\n",
		systems.ExpiringRefresh:        "refresh: {rotation: never}\nerrors:\n  descriptions:\n    - {match: refresh token has expired, reason: REFRESH_TOKEN_EXPIRED}\n",
	}
	return text + rest[style] + "grants: [authorization_code]\nauthentication: {methods: [client_secret_basic]}\n"
}

// TestSystemConnections is users' consent: each style in which such systems keep connections alive, and how each of them ends.
func TestSystemConnections(t *testing.T) {
	t.Parallel()
	tests := []struct {
		style systems.Style
		// refreshes is how often a token is refreshed before end makes the connection end.
		refreshes int
		end       func(*systems.Connections)
		want      string
	}{
		{systems.Rotating, 2, (*systems.Connections).Disconnect, "REFRESH_TOKEN_REJECTED"},
		{systems.RefreshElsewhere, 2, (*systems.Connections).Disconnect, "REFRESH_TOKEN_REJECTED"},
		{systems.RefreshWithAccessToken, 2, (*systems.Connections).Disconnect, "REFRESH_TOKEN_REJECTED"},
		{systems.NoRefresh, 0, func(*systems.Connections) {}, "REFRESH_TOKEN_MISSING"},
		{systems.ExpiringRefresh, 1, func(c *systems.Connections) { c.Advance(20 * tokensLive) }, "REFRESH_TOKEN_EXPIRED"},
	}
	for _, test := range tests {
		t.Run(string(test.style), func(t *testing.T) {
			t.Parallel()
			server := systems.NewConnections(test.style, "acme", connectionsSecret, tokensLive)
			c := newConnection(t, server, test.style)
			if got := c.connect("deny"); got != "AUTHORIZATION_DENIED" {
				t.Errorf("a user who does not consent: %s, want AUTHORIZATION_DENIED", got)
			}
			if got := c.connect("allow"); got != "" {
				t.Fatalf("a user who consents: %s", got)
			}
			got := c.next("")
			_, err := c.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: c.client, Subject: "staff/grace"})
			wantReason(t, "somebody whom the caller has nothing to do with", err, "CALLER_NOT_ALLOWED")
			if warned := hasWarning(got, "REFRESH_TOKEN_ABSENT"); warned != (test.style == systems.NoRefresh) {
				t.Errorf("it is said that there is no refresh token: %v", warned)
			}
			for range test.refreshes {
				got = c.next(got.GetTokenId())
			}
			if server.Refreshes() < test.refreshes {
				t.Errorf("%d refreshes, want %d", server.Refreshes(), test.refreshes)
			}
			test.end(server)
			eventually(t, time.Minute, "the end of the connection", func() error {
				_, err := c.token()
				return hasReason("GetToken", err, test.want)
			})
			ended, err := c.authorizations.GetAuthorization(t.Context(), &pb.GetAuthorizationRequest{Client: c.client, Subject: ada})
			if state := ended.GetAuthorization().GetState(); err != nil || state != pb.AuthorizationState_AUTHORIZATION_STATE_ENDED || ended.GetAuthorization().GetReason() != test.want {
				t.Errorf("the authorization is %v with %q, %v; want ended with %s", state, ended.GetAuthorization().GetReason(), err, test.want)
			}
			// New consent mends it.
			if got := c.connect("allow"); got != "" {
				t.Fatalf("consent once more: %s", got)
			}
			c.next(got.GetTokenId())
			c.stop(t)
		})
	}
}

// connection is a client of Connections and one user of it.
type connection struct {
	*system
	client         string
	authorizations pb.AuthorizationServiceClient
}

func newConnection(t *testing.T, server *systems.Connections, style systems.Style) *connection {
	t.Helper()
	s := newSystem(t, server, map[string]string{"connections": connectionsProfile(style)})
	c := &connection{system: s, client: "clients/connections", authorizations: pb.NewAuthorizationServiceClient(s.operator.conn)}
	client := &pb.Client{Name: c.client, Provider: "connections", ClientId: "acme", DefaultScopes: []string{"profile"}, RedirectUris: []string{appCallback}}
	if _, err := s.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(connectionsSecret)}); err != nil {
		t.Fatalf("CreateClient: %v", err)
	}
	return c
}

// hidden matches the fields that a page of the system sends on.
var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// connect takes a user through the page of the system and hands over what comes to the application's callback. It returns the reason
// if nothing comes of it.
func (c *connection) connect(decision string) (reason string) {
	c.t.Helper()
	started, err := c.authorizations.StartAuthorization(c.t.Context(), &pb.StartAuthorizationRequest{Client: c.client, Subject: ada, RedirectUri: appCallback})
	if err != nil {
		c.t.Fatalf("StartAuthorization: %v", err)
	}
	page, err := c.http.Get(started.GetAuthorization().GetConsent().GetAuthorizationUrl())
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(page.Body)
	_ = page.Body.Close()
	if err != nil || page.StatusCode != http.StatusOK {
		c.t.Fatalf("the consent page: status %d, %v: %s", page.StatusCode, err, body)
	}
	form := url.Values{"decision": {decision}}
	for _, field := range hidden.FindAllStringSubmatch(string(body), -1) {
		form.Set(field[1], strings.ReplaceAll(field[2], "&amp;", "&"))
	}
	back, err := c.http.PostForm(c.origin+"/oauth/authorize", form)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = back.Body.Close()
	target, err := back.Location()
	if err != nil || !strings.HasPrefix(target.String(), appCallback) {
		c.t.Fatalf("the browser is sent to %v, %v", target, err)
	}
	query := target.Query()
	_, err = c.authorizations.CompleteAuthorization(c.t.Context(), &pb.CompleteAuthorizationRequest{
		Client: c.client, State: query.Get("state"), Code: query.Get("code"), Error: query.Get("error"), ErrorDescription: query.Get("error_description"),
	})
	return reasonOf(err)
}

func (c *connection) token() (*pb.GetTokenResponse, error) {
	return c.caller.tokens.GetToken(c.t.Context(), &pb.GetTokenRequest{Client: c.client, Subject: ada})
}

// next waits for another token than before, and calls the API with it.
func (c *connection) next(before string) *pb.GetTokenResponse {
	c.t.Helper()
	var got *pb.GetTokenResponse
	eventually(c.t, time.Minute, "another token", func() (err error) {
		if got, err = c.token(); err == nil && got.GetTokenId() == before {
			err = fmt.Errorf("it is still %s", before)
		}
		return err
	})
	c.wantStatus("a user's token", "/api/me", got.GetAccessToken(), http.StatusOK)
	return got
}

func hasWarning(got *pb.GetTokenResponse, reason string) bool {
	for _, warning := range got.GetWarnings() {
		if warning.GetReason() == reason {
			return true
		}
	}
	return false
}
