package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// stopping is a server with one call under way, whose answer is held back.
type stopping struct {
	*node
	answered chan error // the call's outcome
	release  func()     // lets the authorization server answer
	ended    chan error // the process's
}

func newStopping(t *testing.T, grace string) *stopping {
	t.Helper()
	needServers(t)
	up := newUpstream(t, firstSecret)
	asked, released := make(chan struct{}, 10), make(chan struct{})
	up.mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-released:
			r.URL.Path = authserver.TokenPath
			up.serveToken(w, r)
		case <-r.Context().Done():
		}
	})
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	s.config["limits"] = map[string]any{"shutdown_grace": grace}
	x := &stopping{node: s.start(t, program(t)), answered: make(chan error, 1), release: func() { close(released) }, ended: make(chan error, 1)}
	if _, err := x.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("slow", up.origin+"/slow"), Secret: secretInput(firstSecret)}); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := x.token(t.Context(), "clients/slow")
		x.answered <- err
	}()
	select {
	case <-asked:
	case <-time.After(startsWithin):
		t.Fatal("the authorization server was not asked")
	}
	return x
}

// TestStopsWhenCallsAreAnswered sends SIGTERM while a call is under way: health says
// so, nobody new gets in, the call is answered, and the process ends in peace.
func TestStopsWhenCallsAreAnswered(t *testing.T) {
	t.Parallel()
	x := newStopping(t, "20s")
	watch, err := x.operator.health.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: pb.TokenService_ServiceDesc.ServiceName})
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := watch.Recv(); err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health before: %v, %v", answer, err)
	}
	go func() { x.ended <- x.end(syscall.SIGTERM, startsWithin) }()
	if answer, err := watch.Recv(); err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health while stopping: %v, %v", answer, err)
	}
	if _, err := watch.Recv(); err == nil {
		t.Error("the watch of health goes on")
	}
	eventually(t, 10*time.Second, "the end of new calls", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := x.operator.clients.GetClient(ctx, &pb.GetClientRequest{Name: "clients/slow"})
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			return orNothing(err)
		}
		return nil
	})
	select {
	case err := <-x.ended:
		t.Fatalf("it ended before the call was answered: %v", err)
	case err := <-x.answered:
		t.Fatalf("the call was cut off: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	x.release()
	if err := <-x.answered; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-x.ended; err != nil {
		t.Error(err)
	}
}

// TestStopsWhenGraceIsOver does not wait for a call that does not end, and for its request
// to the authorization server five seconds more.
func TestStopsWhenGraceIsOver(t *testing.T) {
	t.Parallel()
	x := newStopping(t, "500ms")
	began := time.Now()
	if err := x.end(syscall.SIGINT, startsWithin); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < 400*time.Millisecond || took > 10*time.Second {
		t.Errorf("it ended %v after SIGINT, want half a second and five more at most", took)
	}
	if err := <-x.answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the call under way: %v, want Unavailable", err)
	}
}

// TestServesForTheDelay: a replica that is about to go says so, and serves callers and
// browsers for as long as a load balancer may still send them.
func TestServesForTheDelay(t *testing.T) {
	t.Parallel()
	needServers(t)
	const delay = 10 * time.Second
	up, callback := newUpstream(t, firstSecret), harness.UnusedAddress(t)
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	s.config["limits"] = map[string]any{"shutdown_delay": delay.String()}
	s.config["authorization"] = map[string]any{"callback_url": "https://" + callback + callbackPath, "callback_listen": callback}
	n := s.start(t, program(t))
	browser := &http.Client{Transport: &http.Transport{TLSClientConfig: s.trusting(), DisableKeepAlives: true}}
	admin := n.adminAddress(t)
	get := func(url string) int {
		response, err := browser.Get(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			return 0
		}
		defer response.Body.Close()
		return response.StatusCode
	}
	began, ended := time.Now(), make(chan error, 1)
	go func() { ended <- n.end(syscall.SIGTERM, startsWithin) }()
	eventually(t, delay, "that it is about to go", func() error {
		if got := get("http://" + admin + "/readyz"); got != http.StatusServiceUnavailable {
			return fmt.Errorf("/readyz: status %d", got)
		}
		return nil
	})
	if got := n.healthOf(t, pb.TokenService_ServiceDesc.ServiceName); got != "NOT_SERVING" {
		t.Errorf("health: %s", got)
	}
	another := s.dial(t, n.address, s.certificate(t, operatorIdentity)) // on a connection of its own
	if _, err := another.clients.ListClients(t.Context(), &pb.ListClientsRequest{}); err != nil {
		t.Errorf("a call on a new connection: %v", err)
	}
	if got := get("https://" + callback + callbackPath + "?state=invented&code=c"); got != http.StatusBadRequest {
		t.Errorf("the callback: status %d, want that of an invented answer", got)
	}
	if err := <-ended; err != nil || time.Since(began) < delay {
		t.Errorf("it ended after %v, %v; want after %v", time.Since(began), err, delay)
	}
}

// TestSecondInterruptEndsAtOnce: whoever presses Ctrl-C twice does not want to wait.
func TestSecondInterruptEndsAtOnce(t *testing.T) {
	t.Parallel()
	x := newStopping(t, "1m")
	if err := x.command.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	eventually(t, startsWithin, "the stop", func() error {
		if !strings.Contains(x.log.String(), `"msg":"stopping"`) {
			return errors.New("no log line \"stopping\"")
		}
		return nil
	})
	eventually(t, 10*time.Second, "the end after the second SIGINT", func() error {
		_ = x.command.Process.Signal(syscall.SIGINT) // the log line may come a moment before Ctrl-C has its old meaning
		select {
		case <-x.Done():
			return nil
		default:
			return errors.New("it still runs")
		}
	})
	if err := <-x.answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the call under way: %v, want Unavailable", err)
	}
}
