package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// rolling is what replacing the replicas of fleets under load came to.
var rolling struct {
	stops, calls, failed atomic.Int64
}

// tellRolling prints the figures, if there are any.
func tellRolling(w io.Writer) {
	if rolling.stops.Load() > 0 {
		fmt.Fprintf(w, "figure rolling_stops %d\nfigure rolling_calls %d\nfigure rolling_failed_calls %d\n", rolling.stops.Load(), rolling.calls.Load(), rolling.failed.Load())
	}
}

// names is the name service of a fleet: it learns late that a replica is gone.
type names struct {
	resolvers []*manual.Resolver
	state     resolver.State
}

// of returns a dial option with which targets of the scheme "fleet" are the fleet.
func (n *names) of() grpc.DialOption {
	r := manual.NewBuilderWithScheme("fleet")
	r.InitialState(n.state)
	n.resolvers = append(n.resolvers, r)
	return grpc.WithResolvers(r)
}

func (n *names) are(replicas ...*replica) {
	n.state = resolver.State{}
	for _, r := range replicas {
		n.state.Addresses = append(n.state.Addresses, resolver.Address{Addr: r.address, ServerName: "127.0.0.1"})
	}
	for _, r := range n.resolvers {
		r.UpdateState(n.state)
	}
}

// vouched gives a site the certificates of another authority.
func (s *site) vouched(t *testing.T, ca *devpki.Authority) {
	certificate, key, err := ca.Server("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	s.ca = ca
	s.write(t, "server.pem", certificate)
	s.write(t, "server-key.pem", key)
	s.write(t, "ca.pem", ca.PEM())
}

// TestFleetRolls replaces one replica after the other, as a new release is rolled out,
// while callers get tokens that live for three seconds: with the Go client, with a
// connection that repeats nothing, and by watching. No call fails, and a token that lives
// longer is not asked for again.
func TestFleetRolls(t *testing.T) {
	t.Parallel()
	rounds, callers := 1, 10
	if allFaults() {
		rounds, callers = 5, 50
	}
	ca, err := devpki.New("rolling")
	if err != nil {
		t.Fatal(err)
	}
	f := newFleetOf(t, sharedStore(t), func(s *site) { s.vouched(t, ca) })
	steady := f.register(f.a, "rolling-steady", nil)
	if _, err := f.a.token(t.Context(), steady.name); err != nil {
		t.Fatal(err)
	}
	f.up.SetTokenLifetime(3 * time.Second)
	brief := make([]*registered, 10)
	for i := range brief {
		brief[i] = f.register(f.a, fmt.Sprintf("rolling-%d", i), nil)
	}
	known := &names{}
	known.are(f.replicas()...)
	load := newRollingLoad(t, f, known)
	for i := range callers {
		name := brief[i%len(brief)].name
		if i%5 == 0 {
			name = steady.name
		}
		load.call("the Go client", func(ctx context.Context) error {
			_, err := load.sdk.Token(ctx, client.Request{Client: name, MinValidity: 100 * time.Millisecond})
			return err
		})
		load.call("a connection that repeats nothing", func(ctx context.Context) error {
			_, err := load.plain.GetToken(ctx, &pb.GetTokenRequest{Client: name}, grpc.WaitForReady(true))
			return err
		})
		source := load.sdk.Source(client.Request{Client: name, Watch: true})
		load.call("a source that watches", func(ctx context.Context) error {
			_, err := source.Get(ctx)
			return err
		})
	}
	for range rounds {
		for _, r := range f.replicas() {
			time.Sleep(time.Second) // so that each has callers
			tried := inject(t, "SIGTERM of replica %s under load", r.name)
			rolling.stops.Add(1)
			err := r.end(syscall.SIGTERM, 20*time.Second)
			r.node = r.site.start(t, program(t))
			known.are(f.replicas()...)
			tried.survived(err)
		}
	}
	load.end()
	if err := steady.wasAsked(1); err != nil {
		t.Errorf("a token of five minutes: %v", err)
	}
	f.stop()
}

// rollingLoad is callers that go on until end.
type rollingLoad struct {
	t     *testing.T
	ctx   context.Context
	stop  context.CancelFunc
	group sync.WaitGroup
	sdk   *client.Client
	plain pb.TokenServiceClient

	calls, failed atomic.Int64
}

func newRollingLoad(t *testing.T, f *fleet, known *names) *rollingLoad {
	s := f.a.site
	pem, key, err := s.ca.Caller(callerIdentity)
	if err != nil {
		t.Fatal(err)
	}
	l := &rollingLoad{t: t}
	l.ctx, l.stop = context.WithCancel(t.Context())
	l.sdk, err = client.New("fleet:///brokers", client.WithDialOptions(known.of()), client.WithTLS(client.TLSFiles{
		Certificate: s.write(t, "rolling.pem", pem), Key: s.write(t, "rolling-key.pem", key), CA: filepath.Join(s.dir, "ca.pem"),
	}))
	if err != nil {
		t.Fatal(err)
	}
	config := s.trusting()
	config.GetClientCertificate = insist(*s.certificate(t, callerIdentity))
	conn, err := grpc.NewClient("fleet:///brokers", known.of(), grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithDisableRetry(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	l.plain = pb.NewTokenServiceClient(conn)
	t.Cleanup(func() {
		l.stop()
		l.group.Wait()
		if err := errors.Join(l.sdk.Close(), conn.Close()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// call makes calls of a kind, one after the other.
func (l *rollingLoad) call(kind string, one func(context.Context) error) {
	l.group.Go(func() {
		for l.ctx.Err() == nil {
			err := one(l.ctx)
			if l.ctx.Err() != nil {
				return
			}
			l.calls.Add(1)
			if err != nil && l.failed.Add(1) < 6 {
				l.t.Errorf("%s: %v", kind, err)
			}
			time.Sleep(5 * time.Millisecond) // the test's own CPU is not what is tested
		}
	})
}

// end ends the calls and counts them.
func (l *rollingLoad) end() {
	l.stop()
	l.group.Wait()
	rolling.calls.Add(l.calls.Load())
	rolling.failed.Add(l.failed.Load())
	l.t.Logf("%d calls, %d failed", l.calls.Load(), l.failed.Load())
}
