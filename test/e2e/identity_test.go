package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// workloadIssuer signs tokens of workloads; its keys are in a file.
type workloadIssuer struct {
	t    *testing.T
	file string
	key  *ecdsa.PrivateKey
}

const workloadIssuerName = "https://workloads.example.org"

func newWorkloadIssuer(t *testing.T, dir string) *workloadIssuer {
	t.Helper()
	i := &workloadIssuer{t: t, file: filepath.Join(dir, "jwks.json")}
	i.renew()
	return i
}

// renew gives the issuer another key and withdraws the one before.
func (i *workloadIssuer) renew() {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.key = key
	encoded, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: rand.Text(), Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(i.file+".next", encoded, 0o600); err != nil {
		i.t.Fatal(err)
	}
	if err := os.Rename(i.file+".next", i.file); err != nil {
		i.t.Fatal(err)
	}
}

func (i *workloadIssuer) token(subject string) string {
	i.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		i.t.Fatal(err)
	}
	claims, err := json.Marshal(map[string]any{
		"iss": workloadIssuerName, "sub": subject, "aud": []string{"tokenbroker"}, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		i.t.Fatal(err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return compact
}

// TestIdentitiesWithoutACertificate reaches a server by token and by UNIX socket, and
// sees a withdrawn key and a table that changes take effect on open connections.
func TestIdentitiesWithoutACertificate(t *testing.T) {
	t.Parallel()
	needServers(t)
	s := newSite(t, embeddedStore(t.TempDir()))
	issuer := newWorkloadIssuer(t, s.dir)
	socket := filepath.Join(s.dir, "s")
	listen := s.config["listen"].(map[string]any)
	listen["unix_socket"] = map[string]any{"path": socket}
	s.config["jwt"] = map[string]any{"issuers": []map[string]any{{
		"issuer": workloadIssuerName, "audiences": []string{"tokenbroker"}, "algorithms": []string{"ES256"}, "jwks_file": issuer.file,
	}}}
	s.config["callers"] = []map[string]any{
		{"name": "job", "identity": "jwt:" + workloadIssuerName + "#job", "role": "operator"},
		{"name": "sidecar", "identity": fmt.Sprintf("unix:uid=%d", os.Getuid()), "role": "operator"},
	}
	n := s.launch(t, program(t))

	bare := s.dial(t, n.address, nil)
	token := issuer.token("job")
	read := func(p *peer, token string) error {
		ctx := t.Context()
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		}
		_, err := p.clients.GetClient(ctx, &pb.GetClientRequest{Name: "clients/none"})
		return err
	}
	if got := status.Code(read(bare, token)); got != codes.NotFound {
		t.Errorf("by token: %v, want to be let in", got)
	}
	for name, bad := range map[string]string{"none": "", "of nobody": issuer.token("other"), "changed": token[:len(token)-8] + "AAAAAAAA"} {
		if got := status.Code(read(bare, bad)); got != codes.Unauthenticated {
			t.Errorf("token %s: %v, want Unauthenticated", name, got)
		}
	}

	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	local := pb.NewAccessServiceClient(conn)
	me, err := local.WhoAmI(t.Context(), &pb.WhoAmIRequest{})
	if err != nil || me.GetCaller() != "sidecar" {
		t.Errorf("at the socket: %v, %v, want the caller sidecar", me, err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v, want mode 0600", info, err)
	}

	issuer.renew()
	eventually(t, 10*time.Second, "the end of a withdrawn key", func() error {
		if code := status.Code(read(bare, token)); code != codes.Unauthenticated {
			return fmt.Errorf("a token of the withdrawn key gets %v", code)
		}
		return nil
	})
	if got := status.Code(read(bare, issuer.token("job"))); got != codes.NotFound {
		t.Errorf("by a token of the new key: %v, want to be let in", got)
	}
	n.stop(t)
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}
