package plugin_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/plugin"
	"github.com/tokenbroker/tokenbroker/plugin/plugintest"
	rotatorv1 "github.com/tokenbroker/tokenbroker/proto/tokenbroker/rotator/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

func TestShapes(t *testing.T) {
	tests := []struct {
		name    string
		config  plugin.Config
		forgets bool
	}{
		{"overlapping", plugin.Config{Shape: broker.ShapeOverlapping}, false},
		{"overlapping, shown once", plugin.Config{Shape: broker.ShapeOverlapping}, true},
		{"overlapping, chosen", plugin.Config{Shape: broker.ShapeOverlapping, TakesChosen: true, Parameters: []string{"b", "a"}}, false},
		{"activated", plugin.Config{Shape: broker.ShapeActivated}, false},
		{"activated, works before, shown once", plugin.Config{Shape: broker.ShapeActivated, WorksBeforeActivation: true}, true},
		{"replaced", plugin.Config{Shape: broker.ShapeReplaced}, false},
		{"replaced, shown once", plugin.Config{Shape: broker.ShapeReplaced}, true},
		{"replaced, chosen", plugin.Config{Shape: broker.ShapeReplaced, TakesChosen: true}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			plugintest.TestRotator(t, func(t *testing.T) plugintest.Subject {
				f := &fake{config: test.config, forgets: test.forgets}
				restart := startFake(t, f)
				return plugintest.Subject{
					Config: f.config, Accepts: f.accepts, Count: f.count, Restart: restart,
					Client: plugintest.Client{ID: "acme-crm", ClientID: fakeClientID, TokenEndpoint: "https://as.example/token", Method: "client_secret_basic", Secret: "the-first-secret"},
				}
			})
		})
	}
}

// exampleCall is one with secrets that nothing may show.
func exampleCall() broker.RotatorCall {
	return broker.RotatorCall{
		Token: "aaaaaaaaaaaaaaaaaaaaaaaaaa", ID: "acme-crm", UID: "bbbbbbbbbbbbbbbbbbbbbbbbbb", ClientID: fakeClientID,
		TokenEndpoint: "https://as.example/token", Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
		Settings: broker.RotationSettings{Parameters: map[string]string{"pool": "a"}, Endpoint: "https://admin.example"},
		Current:  secret.NewString("canary-current"), CurrentHandle: "h1", New: secret.NewString("canary-new"), Handle: "h2",
	}
}

func dial(t *testing.T, cfg plugin.Config) *plugin.Rotator {
	t.Helper()
	r, err := plugin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// TestCodes compares with what the contract says of each code.
func TestCodes(t *testing.T) {
	patience, err := status.New(codes.ResourceExhausted, "slow down").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(90 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name      string
		answer    error
		reason    broker.Reason
		unchanged bool
		after     time.Duration
	}{
		{"invalid", status.Error(codes.InvalidArgument, "x"), broker.ReasonRotatorRefused, true, 0},
		{"not found", status.Error(codes.NotFound, "x"), broker.ReasonRotatorRefused, true, 0},
		{"precondition", status.Error(codes.FailedPrecondition, "x"), broker.ReasonRotatorRefused, true, 0},
		{"unimplemented", status.Error(codes.Unimplemented, "x"), broker.ReasonRotatorRefused, true, 0},
		{"unauthenticated", status.Error(codes.Unauthenticated, "x"), broker.ReasonRotatorUnauthorized, true, 0},
		{"denied", status.Error(codes.PermissionDenied, "x"), broker.ReasonRotatorUnauthorized, true, 0},
		{"patience", patience.Err(), broker.ReasonUpstreamRateLimited, true, 90 * time.Second},
		{"exhausted, as gRPC says of a large answer", status.Error(codes.ResourceExhausted, "x"), broker.ReasonUpstreamRateLimited, false, 0},
		{"unavailable", status.Error(codes.Unavailable, "x"), broker.ReasonUpstreamUnavailable, false, 0},
		{"deadline", status.Error(codes.DeadlineExceeded, "x"), broker.ReasonUpstreamTimeout, false, 0},
		{"aborted", status.Error(codes.Aborted, "x"), broker.ReasonUpstreamUnavailable, false, 0},
		{"already exists", status.Error(codes.AlreadyExists, "x"), broker.ReasonUpstreamUnavailable, false, 0},
		{"internal", status.Error(codes.Internal, "x"), broker.ReasonUpstreamUnavailable, false, 0},
		{"no status", errors.New("x"), broker.ReasonUpstreamUnavailable, false, 0},
	}
	f := &fake{config: plugin.Config{Shape: broker.ShapeOverlapping}}
	startFake(t, f)
	r := dial(t, f.config)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f.fail = test.answer
			err := r.Revoke(t.Context(), exampleCall())
			var unsent *broker.UnsentError
			if got := broker.AsError(err); got.Reason != test.reason || errors.As(err, &unsent) != test.unchanged || got.RetryAfter != test.after || got.Client != "acme-crm" {
				t.Errorf("got %v, unchanged %v, after %v; want %s, %v, %v", err, errors.As(err, &unsent), got.RetryAfter, test.reason, test.unchanged, test.after)
			}
		})
	}
}

// TestTestSecretIsOptional takes UNIMPLEMENTED for "no opinion".
func TestTestSecretIsOptional(t *testing.T) {
	f := &fake{config: plugin.Config{Shape: broker.ShapeOverlapping}}
	startFake(t, f)
	r := dial(t, f.config)
	tests := []struct {
		name   string
		answer error
		want   broker.Reason
	}{
		{"unimplemented", status.Error(codes.Unimplemented, "no"), ""},
		{"refused by the provider", nil, broker.ReasonClientRejected},
		{"away", status.Error(codes.Unavailable, "later"), broker.ReasonUpstreamUnavailable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f.fail = test.answer
			if got := broker.ReasonOf(r.TestSecret(t.Context(), exampleCall())); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestMessagesAreBounded shows operators what a rotator says, but no secret and no flood.
func TestMessagesAreBounded(t *testing.T) {
	tests := []struct{ name, message, want, never string }{
		{"shown", "the pool is full", "the pool is full", "not shown"},
		{"quotes the new secret", "cannot set canary-new", "not shown", "canary"},
		{"quotes the present secret", "canary-current is locked", "not shown", "canary"},
		{"control characters", "a\nb\x1b[31mc", "a b [31mc", "\n"},
		{"long", strings.Repeat("long ", 100), "…", strings.Repeat("long ", 50)},
	}
	f := &fake{config: plugin.Config{Shape: broker.ShapeOverlapping}}
	startFake(t, f)
	r := dial(t, f.config)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f.fail = status.Error(codes.FailedPrecondition, test.message)
			got := r.Revoke(t.Context(), exampleCall()).Error()
			if !strings.Contains(got, test.want) || strings.Contains(got, test.never) {
				t.Errorf("the error is %q, want %q in it and not %q", got, test.want, test.never)
			}
		})
	}
}

// TestCurrentIsSentOnlyIfConfigured keeps the present secret back by default.
func TestCurrentIsSentOnlyIfConfigured(t *testing.T) {
	for _, sends := range []bool{false, true} {
		f := &fake{config: plugin.Config{Shape: broker.ShapeOverlapping, SendCurrent: sends}}
		startFake(t, f)
		r := dial(t, f.config)
		if _, err := r.Create(t.Context(), exampleCall()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Recover(t.Context(), exampleCall()); err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{true: "canary-current"}[sends]
		got := f.seen[1].(*rotatorv1.CreateSecretRequest)
		again := f.seen[2].(*rotatorv1.RecoverSecretRequest)
		if got.GetCurrent().GetValue() != want || again.GetCurrent().GetValue() != want || got.GetCurrent().GetHandle() != "h1" || got.GetChosen() != "" {
			t.Errorf("with send_current %v the rotator got %v", sends, got.GetCurrent())
		}
		if c := got.GetClient(); c.GetName() != "clients/acme-crm" || c.GetUid() == "" || c.GetParameters()["pool"] != "a" || c.GetEndpoint() != "https://admin.example" || c.GetAuthenticationMethod() != "client_secret_basic" {
			t.Errorf("the rotator got the client %v", c)
		}
	}
}

// TestNobodyThere is certain that nothing was sent.
func TestNobodyThere(t *testing.T) {
	address := harness.UnusedAddress(t)
	r := dial(t, plugin.Config{Name: "away", Address: address, InsecureLoopback: true, Shape: broker.ShapeReplaced})
	for range 2 { // the second one within the connection's back-off
		err := r.Revoke(t.Context(), exampleCall())
		var unsent *broker.UnsentError
		if broker.ReasonOf(err) != broker.ReasonUpstreamConnect || !errors.As(err, &unsent) {
			t.Errorf("got %v, want %s of what was not sent", err, broker.ReasonUpstreamConnect)
		}
	}
}

// TestRotatorThatHangs is given up at the context's deadline; what became of the call
// is not known.
func TestRotatorThatHangs(t *testing.T) {
	f := &fake{config: plugin.Config{Shape: broker.ShapeOverlapping}}
	startFake(t, f)
	r := dial(t, f.config)
	if err := r.Revoke(t.Context(), exampleCall()); err != nil { // connects
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := r.Revoke(ctx, exampleCall())
	var unsent *broker.UnsentError
	if broker.ReasonOf(err) != broker.ReasonUpstreamTimeout || errors.As(err, &unsent) {
		t.Errorf("got %v, want %s of unknown outcome", err, broker.ReasonUpstreamTimeout)
	}
}
