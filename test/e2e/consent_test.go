package e2e_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

// TestConsent is the way of a user's consent through a real authorization server, by each
// callback and each method of authentication.
func TestConsent(t *testing.T) {
	t.Parallel()
	needServers(t)
	key := newKey(t, "ES256")
	a := newAsking(t, 0, func(config *oidcprovider.Config) {
		keyed := config.Clients[0]
		keyed.ID, keyed.Secret, keyed.AuthMethod, keyed.JWKS = "keyed", "", oidcprovider.PrivateKeyJWT, key.jwks
		config.Clients = append(config.Clients, keyed)
	})
	s := newSite(t, embeddedStore(t.TempDir()), a.ca)
	a.configure(t, s)
	n := s.start(t, program(t))
	a.create(n, a.web("web"), webSecret)
	t.Run("the broker's callback", func(t *testing.T) { consentAtTheCallback(t, a, s, n) })
	t.Run("answers that are not taken", func(t *testing.T) { consentNotTaken(t, a, s, n) })
	t.Run("had elsewhere", func(t *testing.T) { consentHadElsewhere(t, a, n) })
	methods := map[string]struct {
		method pb.AuthenticationMethod
		secret *pb.SecretInput
	}{
		"web":     {basic, secretInput(webSecret)},
		"keyed":   {keyJWT, keyInput(key.jwk)},
		"signing": {pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_JWT, secretInput(webSecret)},
		"public":  {publicClient, nil},
	}
	for id, m := range methods {
		t.Run(id, func(t *testing.T) {
			// All endpoints are discovered.
			client := &pb.Client{
				Name: "clients/found-" + id, GrantType: byCode, ClientId: id, AuthenticationMethod: m.method, Issuer: a.provider.Issuer(),
				DefaultScopes: []string{"openid", "read", "write"}, RedirectUris: []string{appCallback},
			}
			created, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: m.secret})
			if err != nil {
				t.Fatal(err)
			}
			if got := created.GetClient(); got.GetTokenEndpoint() != a.provider.TokenEndpoint() || got.GetAuthorizationEndpoint() != a.provider.AuthorizationEndpoint() ||
				got.GetRevocationEndpoint() != a.provider.RevocationEndpoint() {
				t.Errorf("discovered were %s, %s and %s", got.GetTokenEndpoint(), got.GetAuthorizationEndpoint(), got.GetRevocationEndpoint())
			}
			a.consents(t, n, client.GetName(), ada)
			got, err := n.tokenOf(t, client.GetName(), ada)
			wantUsers(t, got, err)
			wantRefreshed(t, n, client.GetName(), ada)
		})
	}
	n.stop(t)
}

func consentAtTheCallback(t *testing.T, a *asking, s *site, n *node) {
	const client, subject = "clients/web", "users/at-the-callback"
	_, err := n.tokenOf(t, client, subject)
	wantReason(t, "before anybody was asked", err, "AUTHORIZATION_REQUIRED")
	q := a.start(t, n, client, subject, "")
	_, err = n.tokenOf(t, client, subject)
	wantReason(t, "before consent", err, "AUTHORIZATION_PENDING")
	opened, err := url.Parse(q.url)
	if err != nil || opened.Query().Get("code_challenge_method") != "S256" || opened.Query().Get("nonce") == "" || opened.Query().Get("redirect_uri") != a.callback() {
		t.Fatalf("the user opens %s, %v; want PKCE, a nonce and the broker's callback", q.url, err)
	}
	back := a.provider.Consent(q.url, "ann")
	if status, page := a.browse(t, s, back); status != http.StatusOK || strings.Contains(page, back.Get("code")) {
		t.Fatalf("the callback: status %d, %s", status, page)
	}
	got, err := n.authorization(t, client, subject)
	if err != nil || got.GetState() != consentActive || !got.GetRefreshable() || !slices.Equal(got.GetScopes(), []string{"read", "write"}) {
		t.Errorf("GetAuthorization: %v, %v; want it active, refreshable, with the scopes that the provider says", got, err)
	}
	token, err := n.tokenOf(t, client, subject)
	wantUsers(t, token, err)
	_, err = n.tokenOf(t, client, "users/somebody-else")
	wantReason(t, "another user", err, "AUTHORIZATION_REQUIRED")

	// A reload of the page sends no code a second time: the provider would end the grant.
	if status, page := a.browse(t, s, back); status == http.StatusOK || !strings.Contains(page, "STATE_INVALID") {
		t.Errorf("the callback once more: status %d, %s", status, page)
	}
	wantRefreshed(t, n, client, subject)
}

func consentNotTaken(t *testing.T, a *asking, s *site, n *node) {
	const client, subject = "clients/web", "users/not-taken"
	q := a.start(t, n, client, subject, "")
	status, page := a.browse(t, s, a.provider.Deny(q.url))
	if status == http.StatusOK || !strings.Contains(page, "AUTHORIZATION_DENIED") {
		t.Errorf("a user who denies: status %d, %s", status, page)
	}
	_, err := n.tokenOf(t, client, subject)
	wantReason(t, "after a denial", err, "AUTHORIZATION_REQUIRED")

	// An answer of another issuer is refused.
	q = a.start(t, n, client, subject, appCallback)
	back := a.provider.Consent(q.url, "ann")
	mixed := url.Values{"state": back["state"], "code": back["code"], "iss": {"https://evil.example"}}
	_, err = q.complete(t, n, mixed)
	wantReason(t, "another issuer", err, "ISSUER_MISMATCH")

	// The link of a consent that was asked for again is dead.
	older := a.start(t, n, client, subject, appCallback)
	newer := a.start(t, n, client, subject, appCallback)
	_, err = older.complete(t, n, a.provider.Consent(older.url, "ann"))
	wantReason(t, "the older consent", err, "STATE_INVALID")
	back = a.provider.Consent(newer.url, "ann")
	if _, err = newer.complete(t, n, back); err != nil {
		t.Errorf("the newer consent: %v", err)
	}
	_, err = newer.complete(t, n, back)
	wantReason(t, "the same answer twice", err, "STATE_INVALID")
	wantRefreshed(t, n, client, subject) // the code was not sent twice
	_, err = n.operator.authorizations.StartAuthorization(t.Context(), &pb.StartAuthorizationRequest{Client: client, Subject: subject, RedirectUri: appCallback + "/x"})
	wantReason(t, "a redirect URI that is not the client's", err, "INVALID_REQUEST")
}

// consentHadElsewhere brings a refresh token that an application had by itself.
func consentHadElsewhere(t *testing.T, a *asking, n *node) {
	const client, subject = "clients/web", "users/had-elsewhere"
	verifier := strings.Repeat("v", 43)
	challenge := sha256.Sum256([]byte(verifier))
	back := a.provider.Consent(a.provider.AuthorizationEndpoint()+"?"+url.Values{
		"response_type": {"code"}, "client_id": {"web"}, "redirect_uri": {appCallback}, "scope": {"openid read write"}, "state": {"s"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}.Encode(), "ann")
	form := url.Values{"grant_type": {"authorization_code"}, "code": back["code"], "code_verifier": {verifier}, "redirect_uri": {appCallback}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.provider.TokenEndpoint(), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth("web", url.QueryEscape(webSecret))
	var had struct {
		RefreshToken string `json:"refresh_token"`
	}
	a.ask(t, request, &had)
	imported, err := n.operator.authorizations.ImportAuthorization(t.Context(), &pb.ImportAuthorizationRequest{
		Client: client, Subject: subject, Grant: &pb.ImportAuthorizationRequest_RefreshToken{RefreshToken: had.RefreshToken},
	})
	if err != nil || imported.GetAuthorization().GetState() != consentActive {
		t.Fatalf("ImportAuthorization: %v, %v", imported, err)
	}
	got, err := n.tokenOf(t, client, subject)
	wantUsers(t, got, err)
	wantRefreshed(t, n, client, subject) // with the successor
	_, err = n.operator.authorizations.ImportAuthorization(t.Context(), &pb.ImportAuthorizationRequest{
		Client: client, Subject: "users/invented", Grant: &pb.ImportAuthorizationRequest_RefreshToken{RefreshToken: "invented"},
	})
	if err != nil {
		t.Fatalf("ImportAuthorization of what is not looked at: %v", err)
	}
	_, err = n.tokenOf(t, client, "users/invented")
	wantReason(t, "an invented refresh token", err, "REFRESH_TOKEN_REJECTED")
}

// deviceLasts is how long users of devices have: longer than the slowest poll that is tried.
const deviceLasts = 25 * time.Second

// TestDevices has users enter codes of devices, in time or not. All of them wait at the same time.
func TestDevices(t *testing.T) {
	t.Parallel()
	needServers(t)
	a := newAsking(t, 0, func(config *oidcprovider.Config) { config.DeviceLifetime = deviceLasts })
	up := newUpstream(t)
	f := newFront(t, up, "front", a.provider.Issuer(), a.ca)
	f.slow = 1
	s := newSite(t, embeddedStore(t.TempDir()), a.ca, up.ca)
	a.configure(t, s)
	n := s.start(t, program(t))
	const straight, slowed = "clients/straight", "clients/slowed"
	for name, at := range map[string]string{straight: a.provider.Issuer(), slowed: f.base} {
		a.create(n, &pb.Client{
			Name: name, GrantType: byDevice, ClientId: "tv", AuthenticationMethod: publicClient, Issuer: a.provider.Issuer(),
			TokenEndpoint: at + "/token", DeviceAuthorizationEndpoint: at + "/device/auth", DefaultScopes: []string{"openid", "read", "write"},
		}, "")
	}
	tests := []struct {
		client, subject string
		act             func(verificationURI string)
		want            string // the reason why nothing comes of it
	}{
		{straight, ada, func(at string) { a.provider.ApproveDevice(at, "ann") }, ""},
		{straight, "users/grace", a.provider.DenyDevice, "AUTHORIZATION_DENIED"},
		{slowed, ada, func(at string) { a.provider.ApproveDevice(at, "ann") }, ""},
		{straight, "users/late", func(string) {}, "AUTHORIZATION_EXPIRED"},
	}
	for _, test := range tests {
		started, err := n.operator.authorizations.StartAuthorization(t.Context(), &pb.StartAuthorizationRequest{Client: test.client, Subject: test.subject})
		consent := started.GetAuthorization().GetConsent()
		if err != nil || consent.GetUserCode() == "" || consent.GetVerificationUri() == "" {
			t.Fatalf("StartAuthorization: %v, %v; want a code and where it is entered", started, err)
		}
		_, err = n.tokenOf(t, test.client, test.subject)
		wantReason(t, "before consent", err, "AUTHORIZATION_PENDING")
		test.act(consent.GetVerificationUriComplete())
	}
	for _, test := range tests {
		eventually(t, time.Minute, test.client+" of "+test.subject, func() error {
			got, err := n.authorization(t, test.client, test.subject)
			if active := got.GetState() == consentActive; err == nil && (got.GetConsent().GetReason() != test.want || active != (test.want == "")) {
				err = fmt.Errorf("it is %v, and of the consent is said %q", got.GetState(), got.GetConsent().GetReason())
			}
			return err
		})
		got, err := n.tokenOf(t, test.client, test.subject)
		if test.want != "" {
			wantReason(t, "without consent", err, "AUTHORIZATION_REQUIRED")
			continue
		}
		wantUsers(t, got, err)
		wantRefreshed(t, n, test.client, test.subject)
	}
	// RFC 8628, sections 3.2 and 3.5: five seconds where nothing is said, and five more from then on.
	if pauses := f.pauses(); len(pauses) != 1 || pauses[0] < 10*time.Second-100*time.Millisecond {
		t.Errorf("the pauses between polls are %v, want one of ten seconds", pauses)
	}
	n.stop(t)
}
