package plugin_test

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/plugin"
	rotatorv1 "github.com/tokenbroker/tokenbroker/proto/tokenbroker/rotator/v1"
)

const fakeClientID = "acme"

// fake is a RotatorService and its provider in one, of any shape. The example rotator
// passes the same suite.
type fake struct {
	rotatorv1.UnimplementedRotatorServiceServer
	config plugin.Config
	// forgets says that the provider shows a secret once.
	forgets bool

	mu      sync.Mutex
	secrets []fakeSecret // guarded by mu, as is what follows
	seen    []any        // requests
	fail    error        // answers everything with it
}

// fakeSecret is a secret at the provider; note is the token that made it.
type fakeSecret struct {
	value, note string
	works       bool
}

// startFake serves f on a UNIX socket until the test ends, and returns its settings and
// a restart.
func startFake(t *testing.T, f *fake) func(*testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "r.sock")
	f.config.Name, f.config.Address = "fake", "unix:"+path
	f.secrets = []fakeSecret{{value: "the-first-secret", works: true}}
	var stop func()
	begin := func(t *testing.T) {
		t.Helper()
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		rotatorv1.RegisterRotatorServiceServer(server, f)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = server.Serve(listener) // ends with Stop
		}()
		stop = func() { server.Stop(); <-done }
	}
	begin(t)
	t.Cleanup(func() { stop() })
	return func(t *testing.T) { stop(); begin(t) }
}

func (f *fake) enter(request any) error {
	f.seen = append(f.seen, request)
	return f.fail
}

func (f *fake) known(token string, client *rotatorv1.RotatedClient) error {
	switch {
	case token == "":
		return status.Error(codes.InvalidArgument, "there is no token")
	case client.GetClientId() != fakeClientID:
		return status.Error(codes.NotFound, "there is no such client")
	}
	return nil
}

func (f *fake) find(note string) int {
	return slices.IndexFunc(f.secrets, func(s fakeSecret) bool { return s.note == note })
}

// DescribeRotator implements RotatorService.
func (f *fake) DescribeRotator(_ context.Context, request *rotatorv1.DescribeRotatorRequest) (*rotatorv1.DescribeRotatorResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter(request); err != nil {
		return nil, err
	}
	shapes := map[broker.Shape]rotatorv1.Shape{
		broker.ShapeOverlapping: rotatorv1.Shape_SHAPE_OVERLAPPING, broker.ShapeActivated: rotatorv1.Shape_SHAPE_ACTIVATED, broker.ShapeReplaced: rotatorv1.Shape_SHAPE_REPLACED,
	}
	return &rotatorv1.DescribeRotatorResponse{
		Shape: shapes[f.config.Shape], TakesChosen: f.config.TakesChosen, WorksBeforeActivation: f.config.WorksBeforeActivation,
		Propagation: durationpb.New(f.config.Propagation), Parameters: f.config.Parameters, OptionalParameters: f.config.OptionalParameters,
	}, nil
}

// CreateSecret implements RotatorService.
func (f *fake) CreateSecret(_ context.Context, request *rotatorv1.CreateSecretRequest) (*rotatorv1.CreateSecretResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter(request); err != nil {
		return nil, err
	}
	if err := f.known(request.GetToken(), request.GetClient()); err != nil {
		return nil, err
	}
	if i := f.find(request.GetToken()); i >= 0 {
		if f.forgets {
			return nil, status.Error(codes.AlreadyExists, "that secret was shown")
		}
		return &rotatorv1.CreateSecretResponse{Secret: f.shown(i)}, nil
	}
	made := fakeSecret{value: request.GetChosen(), note: request.GetToken()}
	if !f.config.TakesChosen {
		made.value = "made-" + request.GetToken()
	}
	made.works = f.config.Shape != broker.ShapeActivated || f.config.WorksBeforeActivation
	if f.config.Shape == broker.ShapeReplaced {
		f.secrets = nil
	}
	f.secrets = append(f.secrets, made)
	return &rotatorv1.CreateSecretResponse{Secret: f.shown(len(f.secrets) - 1)}, nil
}

func (f *fake) shown(i int) *rotatorv1.Secret {
	s := &rotatorv1.Secret{Value: f.secrets[i].value, Handle: f.secrets[i].note}
	if f.config.TakesChosen {
		s.Value = ""
	}
	return s
}

// RecoverSecret implements RotatorService.
func (f *fake) RecoverSecret(_ context.Context, request *rotatorv1.RecoverSecretRequest) (*rotatorv1.RecoverSecretResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter(request); err != nil {
		return nil, err
	}
	if err := f.known(request.GetToken(), request.GetClient()); err != nil {
		return nil, err
	}
	i := f.find(request.GetToken())
	switch {
	case i < 0:
		return &rotatorv1.RecoverSecretResponse{Outcome: rotatorv1.RecoverSecretResponse_OUTCOME_NOT_DONE}, nil
	case !f.forgets || f.config.TakesChosen:
		return &rotatorv1.RecoverSecretResponse{Outcome: rotatorv1.RecoverSecretResponse_OUTCOME_DONE, Secret: f.shown(i)}, nil
	case f.config.Shape == broker.ShapeReplaced:
		return &rotatorv1.RecoverSecretResponse{Outcome: rotatorv1.RecoverSecretResponse_OUTCOME_LOST}, nil
	}
	f.secrets = slices.Delete(f.secrets, i, i+1)
	return &rotatorv1.RecoverSecretResponse{Outcome: rotatorv1.RecoverSecretResponse_OUTCOME_NOT_DONE}, nil
}

// SetSecret implements RotatorService.
func (f *fake) SetSecret(_ context.Context, request *rotatorv1.SetSecretRequest) (*rotatorv1.SetSecretResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter(request); err != nil {
		return nil, err
	}
	if f.find(request.GetSecret().GetHandle()) < 0 {
		return nil, status.Error(codes.FailedPrecondition, "there is no such secret")
	}
	f.secrets = slices.DeleteFunc(f.secrets, func(s fakeSecret) bool { return s.note != request.GetSecret().GetHandle() })
	f.secrets[0].works = true
	return &rotatorv1.SetSecretResponse{}, nil
}

// FinishSecret implements RotatorService.
func (f *fake) FinishSecret(_ context.Context, request *rotatorv1.FinishSecretRequest) (*rotatorv1.FinishSecretResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter(request); err != nil {
		return nil, err
	}
	f.secrets = slices.DeleteFunc(f.secrets, func(s fakeSecret) bool { return s.value == request.GetSecret().GetValue() })
	return &rotatorv1.FinishSecretResponse{}, nil
}

// TestSecret implements RotatorService.
func (f *fake) TestSecret(ctx context.Context, request *rotatorv1.TestSecretRequest) (*rotatorv1.TestSecretResponse, error) {
	f.mu.Lock()
	err := f.enter(request)
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	accepted, _ := f.accepts(ctx, request.GetSecret().GetValue()) // never fails
	return &rotatorv1.TestSecretResponse{Accepted: accepted}, nil
}

// accepts is the provider's token endpoint.
func (f *fake) accepts(_ context.Context, value string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.secrets, func(s fakeSecret) bool { return s.value == value && s.works }), nil
}

func (f *fake) count(context.Context) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.secrets), nil
}
