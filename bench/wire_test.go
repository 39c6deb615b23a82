package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// wireServer answers calls with n bytes for a request with the number n, and refuses 0.
// It returns its address and counts the calls of each number.
func wireServer(t *testing.T, f files) (address string, counts func() map[int64]int) {
	t.Helper()
	var mu sync.Mutex
	seen := make(map[int64]int)
	handle := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		request := new(wrapperspb.Int64Value)
		if err := decode(request); err != nil {
			return nil, err
		}
		mu.Lock()
		seen[request.Value]++
		mu.Unlock()
		if request.Value == 0 {
			return nil, status.Error(codes.NotFound, "nothing")
		}
		return &wrapperspb.BytesValue{Value: make([]byte, request.Value)}, nil
	}
	serving, err := echoCredentials(f.tlsFiles())
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(serving))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: echoService, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "EchoBack", Handler: handle}},
	}, struct{}{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String(), func() map[int64]int { mu.Lock(); defer mu.Unlock(); return seen }
}

func dialed(t *testing.T) (w *wire, counts func() map[int64]int) {
	t.Helper()
	f := files{t.TempDir()}
	if err := f.writeCertificates(); err != nil {
		t.Fatal(err)
	}
	address, counts := wireServer(t, f)
	settings, err := f.clientTLS("caller")
	if err != nil {
		t.Fatal(err)
	}
	w, err = dialWire(t.Context(), address, echoMethod, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return w, counts
}

func numbered(t *testing.T, n int64) []byte {
	t.Helper()
	request, err := proto.Marshal(wrapperspb.Int64(n))
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// TestWireMakesEachCall checks that each caller's calls arrive one by one, and that
// answers of more than one frame are counted whole.
func TestWireMakesEachCall(t *testing.T) {
	const callers, each, large = 3, 5, 100_000
	w, counts := dialed(t)
	requests := [][]byte{numbered(t, large), numbered(t, 1), numbered(t, 2)}
	asked := make([]int, callers)
	var sizes []int
	calls, err := w.loop(callers, func() bool { return asked[0]+asked[1]+asked[2] >= callers*each }, func(caller int) []byte {
		asked[caller]++
		return requests[caller]
	}, func(bytes int) error { sizes = append(sizes, bytes); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if calls != asked[0]+asked[1]+asked[2] || calls < callers*each {
		t.Errorf("%d calls were answered of %v", calls, asked)
	}
	got := make(map[int]int)
	for _, size := range sizes {
		got[size]++
	}
	for caller, n := range []int64{large, 1, 2} {
		size := proto.Size(wrapperspb.Bytes(make([]byte, n)))
		if counts()[n] != asked[caller] || got[size] != asked[caller] {
			t.Errorf("caller %d: %d calls arrived and %d answers of %d bytes, want %d", caller, counts()[n], got[size], size, asked[caller])
		}
	}
}

func TestWireTellsOfARefusal(t *testing.T) {
	w, _ := dialed(t)
	never := func() bool { return false }
	if calls, err := w.loop(1, never, func(int) []byte { return numbered(t, 0) }, func(int) error { return nil }); err == nil || calls != 0 {
		t.Errorf("got %d calls and no error", calls)
	}
}

func TestWireEndsWithAnAnswerThatIsWrong(t *testing.T) {
	w, _ := dialed(t)
	wrong := errors.New("too short")
	never := func() bool { return false }
	if _, err := w.loop(2, never, func(int) []byte { return numbered(t, 1) }, func(int) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("got %v", err)
	}
}
