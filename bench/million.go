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
	// clients are in the store, or vaultClients if they are fewer, and warm of them have a token.
	clients, vaultClients, warm int
	// watches are open at once, spread over watchConnections.
	watches, watchConnections int
	// mixed is how long the mixed load lasts; what the server holds is looked at every
	// sample.
	mixed, sample time.Duration
}

// measureMillion measures a server with many clients in its embedded store.
func measureMillion(ctx context.Context, w *world, p plan, measured figures) error {
	file := w.files.path("million.db")
	if err := w.fill(ctx, file, p.long.clients, keyClient); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	return w.measureMany(ctx, "million", p.long.clients, childConfig{StoreFile: file}, measured)
}

// measureManyInVault measures one with fewer, which still are many, on a real Vault.
func measureManyInVault(ctx context.Context, w *world, p plan, measured figures) (err error) {
	store, place, closeVault, err := w.openVault(p)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, closeVault) }()
	clients := min(p.long.clients, p.long.vaultClients)
	if err := w.fillStore(ctx, store, clients, keyClient); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	return w.measureMany(ctx, "vault_100k", clients, childConfig{StoreFile: w.files.path("many-in-vault"), Vault: place}, measured)
}

// measureMany measures a server that is configured so, whose store has so many clients.
func (w *world) measureMany(ctx context.Context, scenario string, clients int, cfg childConfig, measured figures) (err error) {
	p := w.p
	requests, err := keyRequests(clients)
	if err != nil {
		return err
	}
	cfg.TLS, cfg.Caller, cfg.LocalTokens = w.files.tlsFiles(), callerIdentity, true
	began := time.Now()
	process, err := startProcess(ctx, "broker with many clients", cfg, p.progress)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, process.stop) }()
	all, err := w.keyTarget(ctx, process, getToken, requests)
	defer func() { err = joinClose(err, all.close) }()
	if err != nil {
		return err
	}
	measured[scenario+"_start_s"] = time.Since(began).Seconds()
	p.printf("%s: the first of %d clients answered after %v", scenario, clients, time.Since(began).Round(time.Millisecond))
	warm := min(p.long.warm, clients)
	if err := eachOnce(warm, p.callers, func(n int) error { return all.call(ctx, n) }); err != nil {
		return fmt.Errorf("warm: %w", err)
	}
	held, err := process.memory()
	if err != nil {
		return err
	}
	p.printf("%s: %d warm after %v: memory %.0f MiB, of which pages of files %.0f; heap %.0f MiB", scenario, warm, time.Since(began).Round(time.Millisecond),
		mebibytes(held.Resident), mebibytes(held.Mapped), mebibytes(int64(held.Heap)))
	measured[scenario+"_rss_mib"] = mebibytes(held.Resident - held.Mapped)
	if cfg.Vault.Address == "" {
		measured[scenario+"_file_pages_mib"] = mebibytes(held.Mapped)
	}
	if measured[scenario+"_page_ms"], err = pageOfMany(ctx, all.conns[0], p); err != nil {
		return err
	}
	measured[scenario+"_warm_cpu_vs_one"], err = manyAgainstOne(ctx, all, p)
	return err
}

// manyAgainstOne compares calls for tokens that are warm, by and large: as many as the
// server keeps are not kept without loss.
func manyAgainstOne(ctx context.Context, all *target, p plan) (float64, error) {
	requests := all.requests
	var ratios []float64
	for range p.costRounds {
		all.requests = requests[:1]
		one, err := all.cpuPerCall(ctx, p)
		if err != nil {
			return 0, err
		}
		all.requests = requests[:min(p.long.warm, len(requests))]
		many, err := all.cpuPerCall(ctx, p)
		if err != nil {
			return 0, err
		}
		ratios = append(ratios, many/one)
	}
	return median(ratios), nil
}

// pageOfMany returns how many milliseconds a page of the list of clients takes, the
// median of a few.
func pageOfMany(ctx context.Context, conn *grpc.ClientConn, p plan) (float64, error) {
	const pages = 9
	var took []time.Duration
	request := &pb.ListClientsRequest{PageSize: 1000}
	clients, bytes := 0, 0
	for range pages {
		began := time.Now()
		page, err := pb.NewClientServiceClient(conn).ListClients(ctx, request)
		if err != nil {
			return 0, fmt.Errorf("list clients: %w", err)
		}
		took = append(took, time.Since(began))
		clients, bytes = clients+len(page.GetClients()), bytes+proto.Size(page)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	middle := percentile(took, 0.5)
	p.printf("many: %d pages with %d clients (%d bytes), p50 %v", len(took), clients, bytes, middle)
	return float64(middle) / float64(time.Millisecond), nil
}
