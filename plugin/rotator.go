package plugin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	rotatorv1 "github.com/tokenbroker/tokenbroker/proto/tokenbroker/rotator/v1"
)

const (
	// mostMessage bounds messages, both ways: two secrets and settings fit four times.
	mostMessage = 256 << 10
	// idleAfter is how long a connection without calls is kept. It is short so that
	// each rotation sees the certificates of the day.
	idleAfter = time.Minute
)

// Rotator is a rotator of others. It implements [broker.Rotator] and
// [broker.SecretTester], is safe for concurrent use and belongs to whoever made it.
type Rotator struct {
	config Config
	conn   *grpc.ClientConn
	remote rotatorv1.RotatorServiceClient
}

var (
	_ broker.Rotator      = (*Rotator)(nil)
	_ broker.SecretTester = (*Rotator)(nil)
)

// New returns a Rotator, which connects when it is called. Its error names everything
// that is wrong with the settings, or a file that cannot be read. Options are added to
// the package's own: a stats handler, an interceptor.
func New(cfg Config, options ...grpc.DialOption) (*Rotator, error) {
	var problems []error
	cfg.Check(func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s "+format, append([]any{key}, args...)...))
	})
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("rotator %.64s: %w", cfg.Name, err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	var transport credentials.TransportCredentials = newLocalCredentials()
	target := cfg.Address // unix:
	if cfg.CAFile != "" {
		files, err := newFileCredentials(cfg)
		if err != nil {
			return nil, fmt.Errorf("rotator %s: %w", cfg.Name, err)
		}
		transport = files
	}
	if cfg.CAFile != "" || cfg.InsecureLoopback {
		target = "passthrough:///" + cfg.Address
	}
	all := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		// A CreateSecret that gRPC repeats by itself could make two secrets. Neither may
		// a resolver bring a service config that says so.
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(idleAfter),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mostMessage), grpc.MaxCallSendMsgSize(mostMessage)),
		grpc.WithStatsHandler(sentHandler{}), grpc.WithUserAgent("tokenbroker"),
	}
	conn, err := grpc.NewClient(target, append(all, options...)...)
	if err != nil {
		return nil, fmt.Errorf("rotator %s: %w", cfg.Name, err)
	}
	return &Rotator{config: cfg, conn: conn, remote: rotatorv1.NewRotatorServiceClient(conn)}, nil
}

// Name returns what clients' rotation settings call it.
func (r *Rotator) Name() string { return r.config.Name }

// Close ends the connection and what is under way on it.
func (r *Rotator) Close() error { return r.conn.Close() }

// Traits implements [broker.Rotator]: they are the configuration's.
func (r *Rotator) Traits(broker.RotationSettings) broker.RotatorTraits { return r.config.traits() }

// Create implements [broker.Rotator]. A rotator that does not describe itself as it is
// configured is not asked for a secret: ROTATOR_REFUSED.
func (r *Rotator) Create(ctx context.Context, call broker.RotatorCall) (broker.CreatedSecret, error) {
	if err := r.checkDescription(ctx, call); err != nil {
		return broker.CreatedSecret{}, err
	}
	answer, err := invoke(ctx, r, "CreateSecret", call, r.remote.CreateSecret, &rotatorv1.CreateSecretRequest{
		Token: call.Token, Client: clientOf(call), Chosen: r.chosen(call), Current: r.current(call),
	})
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	return r.created(call, answer.GetSecret(), answer.GetExpireTime())
}

// Recover implements [broker.Rotator].
func (r *Rotator) Recover(ctx context.Context, call broker.RotatorCall) (broker.RecoveredCreate, error) {
	answer, err := invoke(ctx, r, "RecoverSecret", call, r.remote.RecoverSecret, &rotatorv1.RecoverSecretRequest{
		Token: call.Token, Client: clientOf(call), Chosen: r.chosen(call), Current: r.current(call),
	})
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	switch answer.GetOutcome() {
	case rotatorv1.RecoverSecretResponse_OUTCOME_NOT_DONE:
		return broker.RecoveredCreate{Outcome: broker.CreateNotDone}, nil
	case rotatorv1.RecoverSecretResponse_OUTCOME_LOST:
		return broker.RecoveredCreate{Outcome: broker.CreateLost}, nil
	case rotatorv1.RecoverSecretResponse_OUTCOME_UNKNOWN:
		return broker.RecoveredCreate{Outcome: broker.CreateUnknown}, nil
	case rotatorv1.RecoverSecretResponse_OUTCOME_DONE:
		created, err := r.created(call, answer.GetSecret(), answer.GetExpireTime())
		if err != nil {
			return broker.RecoveredCreate{}, err
		}
		return broker.RecoveredCreate{Outcome: broker.CreateDone, Created: created}, nil
	}
	return broker.RecoveredCreate{}, r.malformed(call, "RecoverSecret answered no outcome")
}

// Activate implements [broker.Rotator].
func (r *Rotator) Activate(ctx context.Context, call broker.RotatorCall) error {
	if r.config.Shape != broker.ShapeActivated {
		return nil
	}
	_, err := invoke(ctx, r, "SetSecret", call, r.remote.SetSecret, &rotatorv1.SetSecretRequest{
		Token: call.Token, Client: clientOf(call), Secret: secretOf(call),
	})
	return err
}

// Revoke implements [broker.Rotator].
func (r *Rotator) Revoke(ctx context.Context, call broker.RotatorCall) error {
	_, err := invoke(ctx, r, "FinishSecret", call, r.remote.FinishSecret, &rotatorv1.FinishSecretRequest{
		Token: call.Token, Client: clientOf(call), Secret: secretOf(call),
	})
	return err
}

// TestSecret implements [broker.SecretTester]. A rotator that has no test passes.
func (r *Rotator) TestSecret(ctx context.Context, call broker.RotatorCall) error {
	answer, err := invoke(ctx, r, "TestSecret", call, r.remote.TestSecret, &rotatorv1.TestSecretRequest{
		Token: call.Token, Client: clientOf(call), Secret: secretOf(call),
	})
	var f *failure
	switch {
	case errors.As(err, &f) && f.code == codes.Unimplemented:
		return nil
	case err != nil:
		return err
	case !answer.GetAccepted():
		return r.failed(call, broker.ReasonClientRejected, "its provider refuses the new secret")
	}
	return nil
}

// invoke makes one call within the configured time and turns its error into the
// broker's.
func invoke[Q, A any](ctx context.Context, r *Rotator, method string, call broker.RotatorCall,
	do func(context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	ctx, sent := observeSending(ctx)
	answer, err := do(ctx, request)
	if err != nil {
		return nil, r.classify(method, call, status.Convert(err), sent.Load())
	}
	return answer, nil
}
