package server_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
)

// requireHealth fails unless liveness is SERVING and each of our services is want.
func requireHealth(t *testing.T, w *world, want healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()
	list, err := w.health.List(t.Context(), &healthpb.HealthListRequest{})
	must(t, err)
	if got, want := len(list.GetStatuses()), 6; got != want {
		t.Errorf("got the health of %d services, want %d: %v", got, want, list)
	}
	for service, response := range list.GetStatuses() {
		want := want
		if service == "" {
			want = serving
		}
		if got := response.GetStatus(); got != want {
			t.Errorf("service %q: got %v, want %v", service, got, want)
		}
		checked, err := w.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || checked.GetStatus() != want {
			t.Errorf("check of %q: got %v, %v, want %v", service, checked.GetStatus(), err, want)
		}
	}
}

func TestHealthFollowsTheFirstReadOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{prepare: func(w *world) {
			w.store.Always(brokertest.Fail(broker.ReasonStoreSealed), brokertest.Any)
		}})
		time.Sleep(30 * second)
		requireHealth(t, w, notServing)
		if got := w.logs.lines(t, "store not ready"); len(got) != 1 || got[0]["reason"] != "STORE_SEALED" || got[0]["level"] != "ERROR" || got[0]["remedy"] == "" {
			t.Errorf("got the log lines %v, want one about the cause", got)
		}
		w.store.Heal()
		time.Sleep(11 * second)
		requireHealth(t, w, serving)
		// An outage later changes nothing: warm tokens are served, and a restart would lose them.
		w.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		time.Sleep(time.Hour)
		requireHealth(t, w, serving)
	})
}

func TestABlindReplicaIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{maxBlind: time.Minute})
		w.register(t, w.peer, "acme")
		ask := func() error {
			_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
			return err
		}
		must(t, ask())
		time.Sleep(10 * second)
		requireHealth(t, w, serving)
		w.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		time.Sleep(50 * second)
		must(t, ask())
		requireHealth(t, w, serving)
		time.Sleep(15 * second)
		if err := ask(); status.Code(err) != codes.Unavailable {
			t.Errorf("GetToken: %v, want UNAVAILABLE", err)
		}
		requireHealth(t, w, notServing)
		if w.server.Ready() {
			t.Error("the server says that it is ready")
		}
		if got := w.logs.lines(t, "not serving"); len(got) != 1 || got[0]["reason"] != "REPLICA_BLIND" || got[0]["level"] != "ERROR" {
			t.Errorf("got the log lines %v, want one about the cause", got)
		}
		w.store.Heal()
		time.Sleep(3 * second)
		must(t, ask())
		requireHealth(t, w, serving)
	})
}

func TestTheStoreIsAskedLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{prepare: func(w *world) {
			w.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		}})
		time.Sleep(time.Minute)
		if got := w.store.Count(brokertest.Any); got < 8 || got > 14 {
			t.Errorf("got %d reads in the first minute, want one in 10 s after the first few", got)
		}
	})
}

func TestHealthOfAnUnknownService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		_, err := w.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "nobody"})
		if got := problemOf(err).code; got != codes.NotFound {
			t.Errorf("got %v, want NotFound", err)
		}
		if got := w.logs.last(t); got["level"] != "INFO" || got["code"] != "NotFound" {
			t.Errorf("got the log line %v, want one at info", got)
		}
	})
}

// watch returns the states that a watch of service sees, and why it ended.
func (w *world) watch(ctx context.Context, service string) (states <-chan healthpb.HealthCheckResponse_ServingStatus, end <-chan error) {
	seen, ended := make(chan healthpb.HealthCheckResponse_ServingStatus, 16), make(chan error, 1)
	go func() {
		stream, err := w.health.Watch(ctx, &healthpb.HealthCheckRequest{Service: service})
		for err == nil {
			var response *healthpb.HealthCheckResponse
			if response, err = stream.Recv(); err == nil {
				seen <- response.GetStatus()
			}
		}
		ended <- err
	}()
	return seen, ended
}

// TestStopLetsCallsFinish follows a stop in virtual time: health first, no new
// calls, watches end, the call under way has its answer.
func TestStopLetsCallsFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{ShutdownGrace: time.Minute}})
		w.register(t, w.peer, "acme")
		w.upstream.Script(brokertest.Step{Delay: 5 * second})
		synctest.Wait() // the server has read the store
		states, ended := w.watch(t.Context(), pb.TokenService_ServiceDesc.ServiceName)
		answered := make(chan error, 1)
		go func() {
			_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
			answered <- err
		}()
		time.Sleep(second)
		if got := <-states; got != serving {
			t.Fatalf("before the stop: got %v, want SERVING", got)
		}
		began, stopped := time.Now(), make(chan error, 1)
		go func() { stopped <- w.stop() }()
		if got := <-states; got != notServing || time.Since(began) != 0 {
			t.Errorf("got %v after %v, want NOT_SERVING at once", got, time.Since(began))
		}
		if err := <-ended; errors.Is(err, io.EOF) || time.Since(began) > second {
			t.Errorf("the watch ended with %v after %v, want an error soon", err, time.Since(began))
		}
		if err := lookup(t, w.peer); problemOf(err).code != codes.Unavailable {
			t.Errorf("a new call: got %v, want UNAVAILABLE", err)
		}
		select {
		case err := <-stopped:
			t.Fatalf("stopped with %v before the call under way has ended", err)
		default:
		}
		if err := <-answered; err != nil {
			t.Errorf("the call under way: got %v, want its token", err)
		}
		if err := <-stopped; err != nil || time.Since(began) != 4*second {
			t.Errorf("stopped with %v after %v, want with the last call after 4 s", err, time.Since(began))
		}
	})
}

// TestStopEndsCallsAfterTheGrace, but not what they have begun.
func TestStopEndsCallsAfterTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{ShutdownGrace: 3 * second}})
		w.register(t, w.peer, "acme")
		w.upstream.Always(brokertest.Step{Delay: 7 * second})
		var began time.Time
		answered := make(chan error, 1)
		go func() {
			_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
			if took := time.Since(began); took != 3*second {
				t.Errorf("the call under way ended after %v, want after the grace of 3 s", took)
			}
			answered <- err
		}()
		time.Sleep(second)
		began = time.Now()
		if err := w.stop(); err != nil || time.Since(began) != 6*second {
			t.Errorf("stopped with %v after %v, want with the answer after 6 s", err, time.Since(began))
		}
		if err := <-answered; problemOf(err).code != codes.Unavailable {
			t.Errorf("the call under way: got %v, want UNAVAILABLE", err)
		}
	})
}

// TestStopTakesCallsForTheDelay: load balancers learn late that a replica goes.
func TestStopTakesCallsForTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{ShutdownDelay: 5 * second}})
		w.register(t, w.peer, "acme")
		synctest.Wait() // the server has read the store
		states, ended := w.watch(t.Context(), pb.TokenService_ServiceDesc.ServiceName)
		<-states
		began, stopped := time.Now(), make(chan error, 1)
		go func() { stopped <- w.stop() }()
		if got := <-states; got != notServing || time.Since(began) != 0 {
			t.Errorf("got %v after %v, want NOT_SERVING at once", got, time.Since(began))
		}
		if w.server.Ready() {
			t.Error("it says that it is ready while it is about to go")
		}
		time.Sleep(4 * second)
		if err := lookup(t, w.peer); err != nil {
			t.Errorf("a call within the delay: %v", err)
		}
		if err := <-stopped; err != nil || time.Since(began) < 5*second || time.Since(began) > 6*second {
			t.Errorf("stopped with %v after %v, want after the delay of 5 s", err, time.Since(began))
		}
		<-ended
	})
}

// TestStopDrains: what nobody waits for any more comes to its end, within what is left of
// the grace.
func TestStopDrains(t *testing.T) {
	for answer, want := range map[time.Duration]time.Duration{3 * second: 2 * second, 7 * second: 6 * second, time.Hour: 7 * second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, setup{limits: server.Limits{ShutdownGrace: 7 * second}})
			w.register(t, w.peer, "acme")
			w.upstream.Script(brokertest.Step{Delay: answer})
			ctx, leave := context.WithCancel(t.Context())
			go func() { _, _ = w.tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/acme"}) }()
			time.Sleep(second)
			leave()
			synctest.Wait()
			began := time.Now()
			if err := w.stop(); err != nil || time.Since(began).Round(second) != want {
				t.Errorf("an answer after %v: stopped with %v after %v, want after %v", answer, err, time.Since(began), want)
			}
		})
	}
}

// TestWatchesDoNotHoldUpAStop: a load balancer watches for as long as it lives.
func TestWatchesDoNotHoldUpAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{ShutdownGrace: time.Minute}})
		for _, service := range []string{"", pb.ClientService_ServiceDesc.ServiceName, "nobody"} {
			_, ended := w.watch(t.Context(), service)
			defer func() { <-ended }()
		}
		time.Sleep(second)
		began := time.Now()
		if err := w.stop(); err != nil || time.Since(began) > second {
			t.Errorf("stopped with %v after %v, want within a second", err, time.Since(began))
		}
		if lines := w.logs.lines(t, "rpc"); len(lines) != 0 {
			t.Errorf("watches were logged: %v", lines)
		}
	})
}

// TestCloseWithoutServe: a server that was only made, as to check a configuration,
// leaves nothing running. TestMain looks.
func TestCloseWithoutServe(t *testing.T) {
	s, err := server.New(server.Config{Broker: newBroker(t), Plaintext: true})
	must(t, err)
	s.Close()
	s.Close()
	w := newWorld(t, setup{})
	must(t, w.stop())
	w.server.Close() // after Serve it does nothing
}

// TestAListenerThatFails ends Serve, and the calls that are under way with it.
func TestAListenerThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		must(t, w.stop())
		s, err := server.New(server.Config{Broker: newBroker(t), Plaintext: true})
		must(t, err)
		w.listener = listen(t, false)
		served := make(chan error, 1)
		go func() { served <- s.Serve(t.Context(), w.listener) }()
		p := w.connect(t, plaintext())
		must(t, healthy(t, p))
		must(t, w.listener.Close())
		if err := <-served; err == nil {
			t.Error("got no error, want that of the listener")
		}
		if err := healthy(t, p); problemOf(err).code != codes.Unavailable {
			t.Errorf("a call on the connection that was there: got %v, want UNAVAILABLE", err)
		}
	})
}
