package client_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/client"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// canary stands in every token, so that one that was printed is found.
const canary = "CANARY"

// fake is a broker that knows one client, clients/acme, with the scopes read and
// write. It keeps what package server promises: TestConformance runs against both.
type fake struct {
	pb.UnimplementedTokenServiceServer
	listener *bufconn.Listener
	server   *grpc.Server

	mu       sync.Mutex    // guards what follows
	skew     time.Duration // of its clock, against ours
	undated  bool          // its answers lack server_time, as those of older brokers
	lifetime time.Duration
	delay    time.Duration // of answers
	fail     error         // the answer of GetToken instead of a token
	pushback string        // grpc-retry-pushback-ms beside fail
	watchEnd error         // what WatchToken answers; nil serves
	current  *pb.GetTokenResponse
	minted   int
	requests []*pb.GetTokenRequest
	headers  []metadata.MD
	streams  int           // that were ever opened
	changed  chan struct{} // closed when current or watchEnd changes
}

func newFake(t *testing.T, options ...grpc.ServerOption) *fake {
	t.Helper()
	f := &fake{listener: bufconn.Listen(64 << 10), lifetime: time.Hour, changed: make(chan struct{})}
	f.server = grpc.NewServer(append(options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: 10 * time.Second, PermitWithoutStream: true,
	}))...)
	pb.RegisterTokenServiceServer(f.server, f)
	served := make(chan struct{})
	go func() { defer close(served); _ = f.server.Serve(f.listener) }()
	t.Cleanup(func() { f.server.Stop(); <-served })
	return f
}

func (f *fake) dial(ctx context.Context, _ string) (net.Conn, error) {
	return f.listener.DialContext(ctx)
}

// set changes the fake under its lock.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) get(read func() int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return read()
}

func (f *fake) asked() int { return f.get(func() int { return len(f.requests) }) }
func (f *fake) mints() int { return f.get(func() int { return f.minted }) }

// now is the fake's clock.
func (f *fake) now() time.Time { return time.Now().Add(f.skew) }

func (f *fake) mintLocked() {
	f.minted++
	text := fmt.Sprintf("%s-%d", canary, f.minted)
	sum := sha256.Sum256([]byte(text))
	now := f.now()
	f.current = &pb.GetTokenResponse{
		AccessToken: text, TokenType: "Bearer", IssueTime: timestamppb.New(now), ExpireTime: timestamppb.New(now.Add(f.lifetime)),
		ExpirySource: pb.ExpirySource_EXPIRY_SOURCE_RESPONSE, RefreshAfter: timestamppb.New(now.Add(f.lifetime * 4 / 5)),
		Scopes: []string{"read"}, TokenId: hex.EncodeToString(sum[:8]), SecretVersion: 1,
	}
}

// fault is an error as the broker words it.
func fault(code codes.Code, reason client.Reason, recovery client.Recovery, retry time.Duration) error {
	details := &errdetails.ErrorInfo{
		Reason: string(reason), Domain: "tokenbroker", Metadata: map[string]string{"recovery": string(recovery), "request_id": "REQUEST-1"},
	}
	s := status.New(code, string(reason)+": by order of the test.")
	s, err := s.WithDetails(details)
	if err == nil && retry > 0 {
		s, err = s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
	}
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func check(name string, scopes []string, validity time.Duration) error {
	slices.Sort(scopes)
	switch {
	case len(name) <= len("clients/") || name[:len("clients/")] != "clients/",
		validity < 0 || validity > 24*time.Hour, len(slices.Compact(slices.Clone(scopes))) != len(scopes):
		return fault(codes.InvalidArgument, client.ReasonInvalidRequest, client.RecoveryFixCaller, 0)
	case name != "clients/acme":
		return fault(codes.NotFound, client.ReasonClientNotFound, client.RecoveryFixCaller, 0)
	}
	for _, s := range scopes {
		if s != "read" && s != "write" {
			return fault(codes.PermissionDenied, client.ReasonScopeNotAllowed, client.RecoveryFixCaller, 0)
		}
	}
	return nil
}

// GetToken implements TokenService.
func (f *fake) GetToken(ctx context.Context, r *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	header, _ := metadata.FromIncomingContext(ctx)
	f.mu.Lock()
	f.requests, f.headers = append(f.requests, proto.Clone(r).(*pb.GetTokenRequest)), append(f.headers, header)
	delay, fail, pushback := f.delay, f.fail, f.pushback
	f.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	if fail != nil {
		if pushback != "" {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", pushback))
		}
		return nil, fail
	}
	validity := 10 * time.Second
	if r.GetMinValidity() != nil {
		validity = r.GetMinValidity().AsDuration()
	}
	if err := check(r.GetClient(), r.GetScopes(), validity); err != nil {
		return nil, err
	}
	var served *pb.GetTokenResponse
	f.set(func() { served = f.datedLocked(f.serveLocked(min(validity, f.lifetime/2), r.GetRejectedTokenId())) })
	return served, nil
}

// datedLocked returns a response with the time by the fake's clock.
func (f *fake) datedLocked(shared *pb.GetTokenResponse) *pb.GetTokenResponse {
	if f.undated {
		return shared
	}
	response := proto.CloneOf(shared)
	response.ServerTime = timestamppb.New(f.now())
	return response
}

// serveLocked serves the old token while the new one is being made, as the broker does.
func (f *fake) serveLocked(validity time.Duration, rejectedID string) *pb.GetTokenResponse {
	now, held := f.now(), f.current
	switch {
	case held == nil, held.GetExpireTime().AsTime().Sub(now) < validity,
		held.GetTokenId() == rejectedID && now.Sub(held.GetIssueTime().AsTime()) >= 5*time.Second:
		f.mintLocked()
		return f.current
	case now.After(held.GetRefreshAfter().AsTime()):
		f.mintLocked()
	}
	return held
}

// push makes a new token, which streams send.
func (f *fake) push() { f.set(f.mintLocked) }

// WatchToken implements TokenService.
func (f *fake) WatchToken(r *pb.WatchTokenRequest, stream grpc.ServerStreamingServer[pb.WatchTokenResponse]) error {
	f.set(func() { f.streams++ })
	if err := check(r.GetClient(), r.GetScopes(), 0); err != nil {
		return err
	}
	sent := ""
	for {
		f.mu.Lock()
		if f.current == nil && f.watchEnd == nil {
			f.mintLocked()
		}
		current, end, changed := f.current, f.watchEnd, f.changed
		var refresh <-chan time.Time
		if current != nil {
			refresh = time.After(current.GetRefreshAfter().AsTime().Sub(f.now()))
		}
		f.mu.Unlock()
		if end != nil {
			return end
		}
		if current.GetTokenId() != sent {
			sent = current.GetTokenId()
			f.mu.Lock()
			current = f.datedLocked(current)
			f.mu.Unlock()
			if err := stream.Send(&pb.WatchTokenResponse{Token: current}); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-refresh:
			f.push()
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// connect returns a client of the fake, closed with the test.
func (f *fake) connect(t *testing.T, options ...client.Option) *client.Client {
	t.Helper()
	return connect(t, f.dial, options...)
}

func connect(t *testing.T, dial func(context.Context, string) (net.Conn, error), options ...client.Option) *client.Client {
	t.Helper()
	options = append([]client.Option{client.WithInsecureLoopback(), client.WithDialOptions(grpc.WithContextDialer(dial))}, options...)
	c, err := client.New("passthrough:///broker", options...)
	if err != nil {
		t.Fatalf("make client: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// must returns the value of a call that may not fail.
func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("unexpected error: %v", err)
		}
		return value
	}
}
