package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// longPlan says how much the long scenarios do.
type longPlan struct {
	// clients are in the store, of which warm have a token.
	clients, warm int
	// watches are open at once, spread over watchConnections.
	watches, watchConnections int
	// mixed is how long the mixed load lasts; what the server holds is looked at every
	// sample.
	mixed, sample time.Duration
}

// measureMillion measures a server with many clients in its embedded store.
func measureMillion(ctx context.Context, w *world, p plan, measured figures) (err error) {
	file := w.files.path("million.db")
	if err := w.fill(ctx, file, p.long.clients, keyClient); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	requests, err := keyRequests(p.long.clients)
	if err != nil {
		return err
	}
	began := time.Now()
	cfg := childConfig{TLS: w.files.tlsFiles(), Caller: callerIdentity, StoreFile: file, LocalTokens: true}
	process, err := startProcess(ctx, "broker with many clients", cfg, p.progress)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, process.stop) }()
	all, err := w.keyTarget(ctx, process, requests)
	defer func() { err = joinClose(err, all.close) }()
	if err != nil {
		return err
	}
	measured["million_start_s"] = time.Since(began).Seconds()
	p.printf("million: the first of %d clients answered after %v", p.long.clients, time.Since(began).Round(time.Millisecond))
	if err := eachOnce(min(p.long.warm, p.long.clients), p.callers, func(n int) error { return all.call(ctx, n) }); err != nil {
		return fmt.Errorf("warm: %w", err)
	}
	held, err := process.memory()
	if err != nil {
		return err
	}
	p.printf("million: %d warm: memory %.0f MiB, of which pages of files %.0f; heap %.0f MiB", p.long.warm,
		mebibytes(held.Resident), mebibytes(held.Mapped), mebibytes(int64(held.Heap)))
	measured["million_rss_mib"], measured["million_file_pages_mib"] = mebibytes(held.Resident-held.Mapped), mebibytes(held.Mapped)
	if err := pageOfMany(ctx, all.conns[0], p, measured); err != nil {
		return err
	}
	return manyAgainstOne(ctx, all, p, measured)
}

// manyAgainstOne compares calls for tokens that are warm, by and large: as many as the
// server keeps are not kept without loss.
func manyAgainstOne(ctx context.Context, all *target, p plan, measured figures) error {
	requests := all.requests
	var ratios []float64
	for range p.costRounds {
		all.requests = requests[:1]
		one, err := all.cpuPerCall(ctx, p)
		if err != nil {
			return err
		}
		all.requests = requests[:min(p.long.warm, len(requests))]
		many, err := all.cpuPerCall(ctx, p)
		if err != nil {
			return err
		}
		ratios = append(ratios, many/one)
	}
	measured["million_warm_cpu_vs_one"] = median(ratios)
	return nil
}

// pageOfMany measures a few pages of the list of clients.
func pageOfMany(ctx context.Context, conn *grpc.ClientConn, p plan, measured figures) error {
	const pages = 9
	var took []time.Duration
	request := &pb.ListClientsRequest{PageSize: 1000}
	clients, bytes := 0, 0
	for range pages {
		began := time.Now()
		page, err := pb.NewClientServiceClient(conn).ListClients(ctx, request)
		if err != nil {
			return fmt.Errorf("list clients: %w", err)
		}
		took = append(took, time.Since(began))
		clients, bytes = clients+len(page.GetClients()), bytes+proto.Size(page)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	middle := percentile(took, 0.5)
	p.printf("million: %d pages with %d clients (%d bytes), p50 %v", len(took), clients, bytes, middle)
	measured["million_page_ms"] = float64(middle) / float64(time.Millisecond)
	return nil
}
