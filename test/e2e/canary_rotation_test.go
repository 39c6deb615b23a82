package e2e_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// bearer returns a new marked token, of what a header takes.
func (c *canaries) bearer(what string) string {
	c.made++
	value := fmt.Sprintf("cAnArY-%d-%s%s", c.made, rand.Text(), rand.Text())
	c.scanner.add(fmt.Sprintf("%s %d", what, c.made), []byte(value))
	return value
}

// receiver is a webhook that remembers everything that it is sent.
type receiver struct {
	mu  sync.Mutex // guards all
	all strings.Builder
}

// newReceiver starts one and has s tell it of everything.
func newReceiver(t *testing.T, s *site) *receiver {
	t.Helper()
	r := &receiver{}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	key := filepath.Join(t.TempDir(), "webhook.key")
	if err := os.WriteFile(key, []byte(rand.Text()+rand.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.config["notify"] = map[string]any{"webhooks": []map[string]any{{
		"name": "pager", "url": server.URL + "/cAnArY-of-the-address", "secret_file": key, "insecure_http_loopback": true,
		"events": []string{"rotation_failed", "rotation_rolled_back", "rotation_needs_operator", "rotation_completed"},
	}}}
	return r
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(_ http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintln(&r.all, request.Header, string(body))
}

func (r *receiver) heard() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.String()
}

// playedRegistrar plays a registration endpoint (RFC 7592): each update brings the next secret
// and the next registration token.
type playedRegistrar struct {
	up *upstream

	mu              sync.Mutex // guards what follows
	secrets, tokens []string   // the first ones hold
}

// registeredID is the client_id of the registration: short, so that a piece of what Basic
// sends has more than it, which tokens have too.
const registeredID = "enrolled"

// ServeHTTP implements http.Handler.
func (r *playedRegistrar) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if request.Header.Get("Authorization") != "Bearer "+r.tokens[0] {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if request.Method == http.MethodPut {
		old := secret.NewString(r.secrets[0])
		r.secrets, r.tokens = r.secrets[1:], r.tokens[1:]
		if r.up.AddSecret(registeredID, secret.NewString(r.secrets[0])) != nil || r.up.RemoveSecret(registeredID, old) != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"client_id": registeredID, "client_secret": r.secrets[0], "client_secret_expires_at": 0, "token_endpoint_auth_method": "client_secret_basic",
		"registration_access_token": r.tokens[0], "registration_client_uri": r.up.origin + "/registration",
	})
}

// rotates waits until a client's rotation has come to a state.
func (c *canarySite) rotates(name string, want pb.RotationState) {
	c.t.Helper()
	eventually(c.t, startsWithin, "the rotation of "+name, func() error {
		got, err := c.operator.rotations.GetRotation(c.ctx, &pb.GetRotationRequest{Client: name})
		if state := got.GetRotation().GetState(); err == nil && state != want {
			err = fmt.Errorf("it is %v: %s, want %v", state, got.GetRotation().GetReason(), want)
		}
		return err
	})
}

// turn goes through every way in which a secret changes and does not.
func (c *canarySite) turn() {
	const name = "clients/turning"
	first, second, third := c.secret(), c.secret(), c.secret()
	for _, value := range []string{first, second, third} {
		if err := c.up.AddSecret(appID, secret.NewString(value)); err != nil {
			c.t.Fatal(err)
		}
	}
	o := c.operator.rotations
	must(c.operator.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: newClient("turning", c.up.TokenEndpoint()), Secret: secretInput(first)}))(c.t)
	must(o.StageSecret(c.ctx, &pb.StageSecretRequest{Client: name, Secret: secretInput(c.secret()), ValidateOnly: true}))(c.t)
	must(o.RotateSecret(c.ctx, &pb.RotateSecretRequest{Client: name, Secret: secretInput(c.secret()), ValidateOnly: true}))(c.t)
	must(o.RotateSecret(c.ctx, &pb.RotateSecretRequest{Client: name, Secret: secretInput(c.secret())}))(c.t) // nobody knows it
	c.rotates(name, pb.RotationState_ROTATION_STATE_FAILED)
	must(o.RotateSecret(c.ctx, &pb.RotateSecretRequest{Client: name, Secret: secretInput(second), RequestId: "turn"}))(c.t)
	c.rotates(name, pb.RotationState_ROTATION_STATE_PROMOTED)
	must(o.RollbackSecret(c.ctx, &pb.RollbackSecretRequest{Client: name, ValidateOnly: true}))(c.t)
	must(o.RollbackSecret(c.ctx, &pb.RollbackSecretRequest{Client: name}))(c.t)
	c.rotates(name, pb.RotationState_ROTATION_STATE_ROLLED_BACK)
	must(o.StageSecret(c.ctx, &pb.StageSecretRequest{Client: name, Secret: secretInput(c.secret())}))(c.t)
	must(o.AbortRotation(c.ctx, &pb.AbortRotationRequest{Client: name}))(c.t)
	must(o.RotateSecret(c.ctx, &pb.RotateSecretRequest{Client: name, Secret: secretInput(third), Compromised: true}))(c.t)
	c.rotates(name, pb.RotationState_ROTATION_STATE_COMPLETED)
	if _, err := o.AdoptSecret(c.ctx, &pb.AdoptSecretRequest{Client: name}); err == nil {
		c.t.Error("the staged value was adopted")
	}
	wrapped := &pb.SecretInput{Value: &pb.SecretInput_WrappingToken{WrappingToken: c.bearer("invented wrapping token")}}
	if _, err := o.RotateSecret(c.ctx, &pb.RotateSecretRequest{Client: name, Secret: wrapped}); err == nil {
		c.t.Error("an invented wrapping token was unwrapped")
	}
	c.register()
	must(o.ListRotations(c.ctx, &pb.ListRotationsRequest{}))(c.t)
	stream := must(o.WatchRotation(c.ctx, &pb.WatchRotationRequest{Client: name}))(c.t)
	fmt.Fprintln(&c.site.heard, spell(must(stream.Recv())(c.t)))
}

// register has a provider make the next secret, twice, and gets tokens with it.
func (c *canarySite) register() {
	const name = "clients/registered"
	r := &playedRegistrar{up: c.up}
	for range 3 {
		r.secrets, r.tokens = append(r.secrets, c.secret()), append(r.tokens, c.bearer("registration access token"))
	}
	if err := c.up.AddClient(authserver.Client{ID: registeredID, Secrets: []secret.Value{secret.NewString(r.secrets[0])}, Scopes: []string{"read"}}); err != nil {
		c.t.Fatal(err)
	}
	input := secretInput(r.secrets[0])
	input.RegistrationAccessToken = r.tokens[0]
	c.up.mux.Handle("/registration", r)
	client := newClient("registered", c.up.TokenEndpoint())
	client.ClientId, client.Rotation = registeredID, &pb.RotationSettings{Rotator: "rfc7592", Endpoint: c.up.origin + "/registration"}
	must(c.operator.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: client, Secret: input}))(c.t)
	for _, id := range []string{"first", "second"} {
		must(c.operator.rotations.RotateSecret(c.ctx, &pb.RotateSecretRequest{Client: name, RequestId: id}))(c.t)
		c.rotates(name, pb.RotationState_ROTATION_STATE_PROMOTED)
		must(c.caller.tokens.GetToken(c.ctx, &pb.GetTokenRequest{Client: name}))(c.t)
		rotation := must(c.operator.rotations.GetRotation(c.ctx, &pb.GetRotationRequest{Client: name}))(c.t).GetRotation()
		must(c.operator.rotations.RetireSecret(c.ctx, &pb.RetireSecretRequest{Client: name, SecretVersion: rotation.GetReplacedVersion()}))(c.t)
	}
}

// unwraps rotates by a wrapping token of a real Vault.
func (c *canarySite) unwraps(store *vaultStore, mount string) {
	const name = "clients/unwrapping"
	first, second := c.secret(), c.secret()
	for _, value := range []string{first, second} {
		if err := c.up.AddSecret(appID, secret.NewString(value)); err != nil {
			c.t.Fatal(err)
		}
	}
	must(c.operator.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: newClient("unwrapping", c.up.TokenEndpoint()), Secret: secretInput(first)}))(c.t)
	store.must("POST", mount+"/data/oauth/acme", map[string]any{"data": map[string]any{"client_secret": second}})
	token := store.wrapped(mount + "/data/oauth/acme")
	c.scanner.add("wrapping token", []byte(token))
	wrapped := &pb.SecretInput{Value: &pb.SecretInput_WrappingToken{WrappingToken: token}}
	must(c.operator.rotations.RotateSecret(c.ctx, &pb.RotateSecretRequest{Client: name, Secret: wrapped, RequestId: "wrapped"}))(c.t)
	c.rotates(name, pb.RotationState_ROTATION_STATE_PROMOTED)
	if _, err := c.operator.rotations.StageSecret(c.ctx, &pb.StageSecretRequest{Client: "clients/canary", Secret: wrapped}); err == nil {
		c.t.Error("a wrapping token was unwrapped twice")
	}
}

// journals returns what the store holds beside secrets and tokens: journals, grants,
// clients and who used them.
func (v *vaultStore) journals() string {
	v.t.Helper()
	keys := []string{"active-rotations"}
	for _, folder := range []string{"rotations", "usage", "upstream"} {
		for _, name := range v.list(folder) {
			keys = append(keys, folder+"/"+name)
		}
	}
	for _, client := range v.list("grants") {
		for _, name := range v.list("grants/" + client) {
			keys = append(keys, "grants/"+client+name)
		}
	}
	for _, shard := range v.list("clients") {
		for _, name := range v.list("clients/" + shard) {
			keys = append(keys, "clients/"+shard+name)
		}
	}
	var all strings.Builder
	for _, key := range keys {
		record, err := json.Marshal(v.read(key, 0))
		if err != nil {
			v.t.Fatal(err)
		}
		fmt.Fprintln(&all, key, string(record))
	}
	return all.String()
}
