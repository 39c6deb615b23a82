package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
	example "github.com/tokenbroker/tokenbroker/test/rotatorexample/provider"
)

// exampleBuilt is test/rotatorexample, built once, beside the server.
var exampleBuilt struct {
	once sync.Once
	path string
	err  error
}

// ownRotator is a RotatorService as a team writes it, in a process of its own, and the
// provider that it is for.
type ownRotator struct {
	*process
	t        *testing.T
	provider *example.Provider
	gate     gate // before the provider's management API
	dir      string
	args     []string
	// config is how brokers are told of it.
	config map[string]any
}

const (
	brokerURI = "spiffe://example.org/tokenbroker"
	ownToken  = "the token of the provider's management API"
	ownHost   = "rotator.example"
)

// newOwnRotator prepares one; start starts it.
func newOwnRotator(t *testing.T) *ownRotator {
	t.Helper()
	beside := filepath.Dir(program(t))
	exampleBuilt.once.Do(func() {
		exampleBuilt.path = filepath.Join(beside, "rotatorexample")
		exampleBuilt.err = goCommand("build", "-o", exampleBuilt.path, "./test/rotatorexample")
	})
	if exampleBuilt.err != nil {
		t.Fatal(exampleBuilt.err)
	}
	r := &ownRotator{t: t, dir: t.TempDir()}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.gate.keep(r.provider.ServeHTTP)(w, request)
	}))
	t.Cleanup(web.Close)
	files := &site{dir: r.dir}
	ca, err := devpki.New("rotators")
	if err != nil {
		t.Fatal(err)
	}
	pair := func(name string, certificate, key []byte, err error) (string, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return files.write(t, name+".pem", certificate), files.write(t, name+"-key.pem", key)
	}
	certificate, key, err := ca.Server(ownHost)
	certificateFile, keyFile := pair("rotator", certificate, key, err)
	authority, address := files.write(t, "ca.pem", ca.PEM()), harness.UnusedAddress(t)
	r.args = []string{
		"-listen", address, "-certificate", certificateFile, "-key", keyFile, "-client-ca", authority, "-broker", brokerURI, "-provider", web.URL,
		"-provider-token", files.write(t, "token", []byte(ownToken+"\n")), "-derivation-key", files.write(t, "derivation-key", []byte(strings.Repeat("k", 32))),
	}
	certificate, key, err = ca.Caller(brokerURI)
	certificateFile, keyFile = pair("broker", certificate, key, err)
	r.config = map[string]any{
		"name": "example", "address": address, "ca_file": authority, "certificate_file": certificateFile, "key_file": keyFile, "server_name": ownHost,
		"shape": "overlapping", "timeout": "5s",
	}
	return r
}

// start starts it, again if it was killed.
func (r *ownRotator) start() {
	r.t.Helper()
	r.process = start(r.t, exampleBuilt.path, r.dir, nil, r.args...)
	eventually(r.t, startsWithin, "the rotator serves", func() error {
		if !strings.Contains(r.log.String(), "serving on ") {
			return errors.New(r.log.String())
		}
		return nil
	})
}

// TestFleetOwnRotator has a team's own rotator change secrets, over mutual TLS: in
// peace, killed while the provider has acted and its answer is on the way, and with the
// replica of the broker killed at the same moment.
func TestFleetOwnRotator(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	own := newOwnRotator(t)
	f := newFleetOf(t, store, func(s *site) { s.config["rotators"] = []any{own.config} })
	f.up.SetTokenLifetime(3 * time.Second)
	own.provider = example.New(f.up.Server, secret.NewString(ownToken))
	own.start()
	name := f.registerAt(own, "own")
	calling := callAllTheTime(t, f.c.node, name)
	rotate := func(by *replica, id string) {
		if _, err := by.operator.rotations.RotateSecret(t.Context(), &pb.RotateSecretRequest{Client: name, RequestId: id}); err != nil {
			t.Fatalf("RotateSecret: %v", err)
		}
	}
	// The first secret was brought by hand, and is left to hands.
	over := func(by *replica, version int64) error {
		last, err := watchToEnd(t.Context(), by, name)
		switch {
		case err != nil:
			return err
		case last.GetState() != completed || last.GetSecretVersion() != version:
			return fmt.Errorf("it ended as %v %s (%s) with version %d, events %v", last.GetState(), last.GetReason(), last.GetDetail(), last.GetSecretVersion(), last.GetEvents())
		case own.provider.Count("own") != 2:
			return fmt.Errorf("the provider takes %d secrets, want the first and version %d", own.provider.Count("own"), version)
		}
		return by.newTokenOf(t.Context(), name, version)
	}
	for version := int64(2); version <= 3; version++ {
		rotate(f.b, fmt.Sprint("peace-", version))
		if err := over(f.b, version); err != nil {
			t.Fatalf("in peace: %v", err)
		}
	}
	frozen := func(id string) {
		reached := own.gate.freeze(1, true)
		rotate(f.b, id)
		if err := within30s(t.Context(), reached); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
	}

	frozen("rotator")
	fault := inject(t, "kill -9 of the rotator, the provider having acted")
	own.Kill()
	own.gate.thaw()
	own.start()
	fault.survived(over(f.b, 4))

	frozen("replica")
	fault = inject(t, "kill -9 of the replica that rotates, its rotator waiting for the provider's answer")
	f.b.Kill()
	own.gate.thaw()
	fault.survived(over(f.a, 5))
	f.restart(f.b)
	calling()
	f.stop()
}

// registerAt makes a client of the provider's, whose secret the rotator changes.
func (f *fleet) registerAt(own *ownRotator, id string) (name string) {
	f.t.Helper()
	if err := own.provider.Register(id, "first", secret.NewString(firstSecret)); err != nil {
		f.t.Fatal(err)
	}
	client := newClient(id, f.up.TokenEndpoint())
	client.ClientId, client.DefaultScopes = id, nil
	client.Rotation = &pb.RotationSettings{
		Rotator: "example", Propagation: durationpb.New(time.Second), Overlap: durationpb.New(time.Second), VerifyTokens: 2, VerifySpacing: durationpb.New(10 * time.Millisecond),
	}
	if _, err := f.a.operator.clients.CreateClient(f.t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(firstSecret)}); err != nil {
		f.t.Fatalf("CreateClient %s: %v", id, err)
	}
	return client.GetName()
}
