package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/tokenbroker/tokenbroker/client"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

// showing is the profile of a server that has users show their passwords to clients.
const showing = `name: showing
title: Shown passwords
sources: [https://docs.example.com/oauth]
endpoints: {token: ORIGIN/granted}
grants: [password]
authentication: {methods: [client_secret_basic]}
`

// marked is an authorization server whose users are asked, with marked secrets, and what
// was seen of it.
type marked struct {
	*asking
	front *front
	// secret is the web client's, certificate that of the client "bound".
	secret, certificate string
	states              []string
}

// users starts one.
func (c *canaries) users(up *upstream) *marked {
	m := &marked{secret: c.secret()}
	m.asking = newAsking(c.t, 0, func(config *oidcprovider.Config) {
		config.Clients[0].Secret = m.secret
		config.Clients = append(config.Clients, oidcprovider.Client{ID: "bound", AuthMethod: oidcprovider.TLS, CertificateSubject: "CN=bound"})
	})
	m.front = newFront(c.t, up, "front", m.provider.Issuer(), m.ca)
	m.certificate = m.provider.ClientCertificate("bound")
	c.made++
	pair, err := tls.X509KeyPair([]byte(m.certificate), []byte(m.certificate))
	if err != nil {
		c.t.Fatal(err)
	}
	private, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		c.t.Fatalf("the certificate's key is %T", pair.PrivateKey)
	}
	d, err := private.Bytes()
	if err != nil {
		c.t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(m.certificate))
	c.scanner.addPieces("key of a client certificate", d)
	c.scanner.addPieces("key of a client certificate, text of the PEM", []byte(base64.StdEncoding.EncodeToString(block.Bytes)[64:]))
	return m
}

// granted plays a token endpoint that grants whatever is asked for.
func (u *upstream) granted(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		token := "granted-" + rand.Text()
		u.mu.Lock()
		u.tokens = append(u.tokens, token)
		u.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":%q,"token_type":%q,"expires_in":600,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, token, kind)
	}
}

// grants goes through what users grant, and what callers bring along.
func (c *canarySite) grants() {
	c.up.mux.HandleFunc("/granted", c.up.granted("Bearer"))
	const tv = "clients/tv"
	c.users.create(c.node, &pb.Client{
		Name: tv, GrantType: byDevice, ClientId: "tv", AuthenticationMethod: publicClient, Issuer: c.users.provider.Issuer(),
		TokenEndpoint: c.users.front.base + "/token", DeviceAuthorizationEndpoint: c.users.front.base + "/device/auth", DefaultScopes: []string{"openid", "read"},
	}, "")
	device := must(c.operator.authorizations.StartAuthorization(c.ctx, &pb.StartAuthorizationRequest{Client: tv, Subject: ada}))(c.t)
	c.users.provider.ApproveDevice(device.GetAuthorization().GetConsent().GetVerificationUriComplete(), "ann")
	c.consent()
	c.brought()
	c.asserted()
	c.boundTokens()
	eventually(c.t, startsWithin, "a device's consent", func() error {
		got, err := c.authorization(c.t, tv, ada)
		if err == nil && got.GetState() != consentActive {
			err = fmt.Errorf("it is %v", got.GetState())
		}
		return err
	})
	must(c.userToken(tv))(c.t)
	must(c.userToken(tv, "read"))(c.t)
}

// userToken asks for a user's token as somebody who may have each user's.
func (c *canarySite) userToken(client string, scopes ...string) (*pb.GetTokenResponse, error) {
	return c.operator.tokens.GetToken(c.ctx, &pb.GetTokenRequest{Client: client, Subject: ada, Scopes: scopes})
}

// consent asks a user in browsers, and browses the callback with codes that nobody gave.
func (c *canarySite) consent() {
	web := c.users.front.of(c.users.web("consented"))
	name := web.GetName()
	c.users.create(c.node, web, c.users.secret)
	ask := func(redirect string) question {
		q := c.users.start(c.t, c.node, name, ada, redirect)
		opened, err := url.Parse(q.url)
		if err != nil {
			c.t.Fatal(err)
		}
		c.users.states = append(c.users.states, opened.Query().Get("state"))
		return q
	}
	back := c.users.provider.Consent(ask("").url, "ann")
	for i, query := range []url.Values{
		{"state": {"invented"}, "code": {c.bearer("code")}},
		{"state": back["state"], "code": {c.bearer("code")}, "iss": {"https://evil.example"}},
		{"state": back["state"], "code": {c.bearer("code")}, "iss": back["iss"]},
		back,
	} {
		if status, _ := c.users.browse(c.t, c.site, query); status == http.StatusOK {
			c.t.Errorf("the callback took the answer %d", i)
		}
	}
	back = c.users.provider.Consent(ask("").url, "ann")
	if status, page := c.users.browse(c.t, c.site, back); status != http.StatusOK {
		c.t.Fatalf("the callback: status %d, %s", status, page)
	}
	must(c.userToken(name))(c.t)
	must(c.userToken(name, "read"))(c.t)
	q := ask(appCallback)
	must(q.complete(c.t, c.node, c.users.provider.Consent(q.url, "ann")))(c.t)
	must(c.userToken(name, "write"))(c.t)
	must(c.operator.authorizations.ListAuthorizations(c.ctx, &pb.ListAuthorizationsRequest{Client: name}))(c.t)
	must(c.operator.diagnostics.CheckLookup(c.ctx, &pb.CheckLookupRequest{Client: name, Subject: ada}))(c.t)
	must(c.operator.authorizations.RevokeAuthorization(c.ctx, &pb.RevokeAuthorizationRequest{Client: name, Subject: ada}))(c.t)
	q = ask(appCallback)
	must(q.complete(c.t, c.node, c.users.provider.Consent(q.url, "ann")))(c.t)
}

// brought sends what was had elsewhere to a server that takes it, and to those that give
// away what they were sent.
func (c *canarySite) brought() {
	imported := func(request *pb.ImportAuthorizationRequest) {
		request.Subject = ada
		must(c.operator.authorizations.ImportAuthorization(c.ctx, request))(c.t)
	}
	for _, path := range []string{"/granted", "/echo", "/echo-redirect", "/echo-token"} {
		for _, grant := range []pb.GrantType{pb.GrantType_GRANT_TYPE_REFRESH_TOKEN, pb.GrantType_GRANT_TYPE_PASSWORD, pb.GrantType_GRANT_TYPE_TOKEN_EXCHANGE} {
			client := newClient(strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(grant.String(), "GRANT_TYPE_")+path), "/", "-"), c.up.origin+path)
			client.Name = strings.ReplaceAll(client.GetName(), "_", "-")
			if client.GrantType = grant; grant == pb.GrantType_GRANT_TYPE_PASSWORD {
				client.Provider = "showing"
			}
			c.users.create(c.node, client, c.secret())
			request := &pb.GetTokenRequest{Client: client.GetName(), Subject: ada}
			switch grant {
			case pb.GrantType_GRANT_TYPE_REFRESH_TOKEN:
				imported(&pb.ImportAuthorizationRequest{Client: client.GetName(), Grant: &pb.ImportAuthorizationRequest_RefreshToken{RefreshToken: c.bearer("refresh token")}})
			case pb.GrantType_GRANT_TYPE_PASSWORD:
				imported(&pb.ImportAuthorizationRequest{Client: client.GetName(), Grant: &pb.ImportAuthorizationRequest_Password{
					Password: &pb.PasswordGrant{Username: "ann", Password: c.secret()},
				}})
			default:
				request.Subject, request.SubjectToken = "", c.bearer("subject token")
			}
			_, err := c.operator.tokens.GetToken(c.ctx, request)
			if (err == nil) != (path == "/granted") {
				c.t.Errorf("%v at %s: %v", grant, path, err)
			}
		}
	}
}

// asserted signs for a server that takes it, and for those that give away what they were
// sent.
func (c *canarySite) asserted() {
	for _, path := range []string{"/granted", "/echo", "/echo-redirect", "/echo-token"} {
		byGrant := newClient("grant-asserted"+strings.ReplaceAll(path, "/", "-"), c.up.origin+path)
		byGrant.GrantType, byGrant.AuthenticationMethod = pb.GrantType_GRANT_TYPE_JWT_BEARER, publicClient
		byHeader := newClient("header-asserted"+strings.ReplaceAll(path, "/", "-"), c.up.origin+path)
		byHeader.AuthenticationMethod = pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_BEARER
		for _, client := range []*pb.Client{byGrant, byHeader} {
			_, before := c.up.seen()
			must(c.operator.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: client, Secret: keyInput(c.key("ES256").pem)}))(c.t)
			_, err := c.operator.tokens.GetToken(c.ctx, &pb.GetTokenRequest{Client: client.GetName()})
			if (err == nil) != (path == "/granted") {
				c.t.Errorf("%s: %v", client.GetName(), err)
			}
			_, after := c.up.seen()
			if sent := after[len(before):]; len(sent) == 0 || !strings.HasPrefix(strings.TrimPrefix(sent[0], "Bearer "), "ey") {
				c.t.Errorf("%s sent %d credentials and no assertion: the search would prove little", client.GetName(), len(sent))
			}
		}
	}
}

// boundTokens gets tokens that are bound to keys.
func (c *canarySite) boundTokens() {
	c.up.mux.HandleFunc("/bound", func(w http.ResponseWriter, r *http.Request) {
		c.users.front.mu.Lock()
		c.users.front.given[r.Header.Get("DPoP")] = "DPoP proof"
		c.users.front.mu.Unlock()
		c.up.granted("DPoP")(w, r)
	})
	bound := newClient("bound", c.up.origin+"/bound")
	bound.TokenBinding = pb.TokenBinding_TOKEN_BINDING_DPOP
	c.users.create(c.node, bound, c.secret())
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	key := must(client.NewDPoPKey(private))(c.t)
	caller := client.NewFromConn(c.operator.conn, client.WithDPoP(key))
	must(caller.Token(c.ctx, client.Request{Client: bound.GetName()}))(c.t)
	if err := caller.Close(); err != nil {
		c.t.Error(err)
	}
	if _, err := c.operator.tokens.GetToken(c.ctx, &pb.GetTokenRequest{Client: bound.GetName(), DpopProof: c.bearer("invented proof")}); err == nil {
		c.t.Error("an invented proof was taken")
	}
	certified := &pb.Client{
		Name: "clients/certified", TokenEndpoint: c.users.provider.MTLSTokenEndpoint(), ClientId: "bound",
		AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_TLS_CLIENT_AUTH,
	}
	must(c.operator.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: certified, Secret: keyInput(c.users.certificate)}))(c.t)
	must(c.caller.tokens.GetToken(c.ctx, &pb.GetTokenRequest{Client: certified.GetName()}))(c.t)
}

// passedFront has everything looked for that passed the front, and returns the access
// tokens among it.
func (c *canarySite) passedFront() (tokens []string) {
	kinds := map[string]int{}
	f := c.users.front
	f.mu.Lock()
	defer f.mu.Unlock()
	for value, what := range f.given {
		kinds[what]++
		switch {
		case what == "access_token":
			tokens = append(tokens, value)
		case !strings.HasPrefix(value, "cAnArY"): // those are looked for already
			c.scanner.addPieces(what+" as sent", []byte(signatureOf(value)))
		}
	}
	for _, what := range []string{"code", "code_verifier", "device_code", "refresh_token", "id_token", "access_token", "DPoP proof"} {
		if kinds[what] == 0 {
			c.t.Errorf("no %s passed: the search would prove little", what)
		}
	}
	return tokens
}
