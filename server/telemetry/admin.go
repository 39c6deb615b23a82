package telemetry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

var infinity = math.Inf(1)

// Admin serves metrics, health and profiles over plain HTTP, and gRPC's channelz
// over HTTP/2 without TLS on the same port. It has no access control, so it belongs on loopback or a network that only operators reach; no
// page holds a secret, but profiles and metrics tell much about the process.
type Admin struct {
	// Metrics is what /metrics shows. Required.
	Metrics *Metrics
	// Ready says whether /readyz answers 200. Required.
	Ready func() bool
}

// Handler returns the pages: /metrics, /livez, /readyz and /debug/pprof/.
func (a *Admin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.Metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "live") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !a.Ready() {
			http.Error(w, "the store was not read yet, or not for longer than tokens.max_blind, or the server is about to stop", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	// Not pprof.Cmdline: an argument vector is nobody's business.
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Serve serves on listener, which it closes, until ctx ends.
func (a *Admin) Serve(ctx context.Context, listener net.Listener) error {
	operators := newOperatorServer()
	defer operators.Stop()
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: orGRPC(operators, a.Handler()), Protocols: protocols,
		ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}
