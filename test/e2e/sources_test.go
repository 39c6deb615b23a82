package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// wrapped returns a token that wraps what Vault answers to a read of path.
func (v *vaultStore) wrapped(path string) string {
	v.t.Helper()
	request, err := http.NewRequestWithContext(v.t.Context(), http.MethodGet, v.Addr()+"/v1/"+path, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	request.Header.Set("X-Vault-Token", v.RootToken())
	request.Header.Set("X-Vault-Wrap-TTL", "5m")
	roots := x509.NewCertPool()
	if file := v.CAFile(); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			v.t.Fatal(err)
		}
		roots.AppendCertsFromPEM(pem)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	response, err := client.Do(request)
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Info struct{ Token string } `json:"wrap_info"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Info.Token == "" {
		v.t.Fatalf("reading %s, wrapped: status %d: %v", path, response.StatusCode, err)
	}
	return answer.Info.Token
}

// TestSecretsFromElsewhere has a server with the printed policy take one client's
// secret from a wrapping token, and follow the owner of another's.
func TestSecretsFromElsewhere(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	others := store.NewKV()
	policy, stderr, status := output(t, "vault-policy", "--mount", store.mount, "--prefix", store.prefix, "--reference", others+":oauth")
	if status != 0 {
		t.Fatalf("vault-policy: status %d: %s", status, stderr)
	}
	store.PutPolicy(store.role, policy)
	up := newUpstream(t, "owned 1")
	site := newSite(t, store.config(store.Addr()), up.ca)
	site.config["secrets"] = map[string]any{
		"wrapping":   map[string]any{"creation_paths": []string{others + "/data/oauth/*"}},
		"references": []map[string]any{{"mount": others, "prefix": "oauth"}},
	}
	n := site.start(t, program(t))
	own := func(value string) {
		store.must("POST", others+"/data/oauth/acme", map[string]any{"data": map[string]any{"client_secret": value}})
	}
	create := func(id string, in *pb.SecretInput) error {
		_, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient(id, up.TokenEndpoint()), Secret: in})
		return err
	}
	got := func(id string) (*pb.GetTokenResponse, error) {
		return n.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/" + id})
	}
	own("owned 1")
	token := store.wrapped(others + "/data/oauth/acme")
	if err := create("wrapped", &pb.SecretInput{Value: &pb.SecretInput_WrappingToken{WrappingToken: token}}); err != nil {
		t.Fatal(err)
	}
	if _, err := got("wrapped"); err != nil {
		t.Error(err)
	}
	err := create("again", &pb.SecretInput{Value: &pb.SecretInput_WrappingToken{WrappingToken: token}})
	if err == nil || !strings.Contains(err.Error(), "WRAPPING_TOKEN_INVALID") {
		t.Errorf("CreateClient with a token that was used: %v", err)
	}

	reference := func(mount, path, field string) *pb.SecretInput {
		return &pb.SecretInput{Value: &pb.SecretInput_Reference{Reference: &pb.SecretReference{Mount: mount, Path: path, Field: field}}}
	}
	if err := create("thief", reference(store.mount, store.prefix+"/meta", "uid")); err == nil || !strings.Contains(err.Error(), "REFERENCE_NOT_ALLOWED") {
		t.Errorf("CreateClient with a reference to the broker's own records: %v", err)
	}
	up.SetTokenLifetime(time.Second)
	if err := create("referring", reference(others, "oauth/acme", "client_secret")); err != nil {
		t.Fatal(err)
	}
	for version := int64(1); version <= 3; version++ {
		if version > 1 {
			next := fmt.Sprintf("owned %d", version)
			if err := up.AddSecret(appID, secret.NewString(next)); err != nil {
				t.Fatal(err)
			}
			own(next)
		}
		eventually(t, 20*time.Second, "a token of the owner's latest", func() error {
			token, err := got("referring")
			if err == nil && token.GetSecretVersion() != version {
				err = fmt.Errorf("it is of version %d, want %d", token.GetSecretVersion(), version)
			}
			return err
		})
	}
	n.stop(t)
	for _, text := range []string{token, "owned 1", "owned 2", "owned 3"} {
		if strings.Contains(n.Output(), text) {
			t.Errorf("the log has %q", text)
		}
	}
}
