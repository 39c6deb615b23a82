package main

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// measureWatches measures what a server holds that has many streams open.
func measureWatches(ctx context.Context, w *world, p plan, measured figures) (err error) {
	file := w.files.path("watches.db")
	if err := w.fill(ctx, file, 1, keyClient); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	cfg := childConfig{TLS: w.files.tlsFiles(), Caller: callerIdentity, StoreFile: file, LocalTokens: true}
	process, err := startProcess(ctx, "broker with many watches", cfg, p.progress)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, process.stop) }()
	conns, err := w.connectAs("caller", process.address, p.long.watchConnections)
	// Closed before the server is told to stop, which would wait for the streams.
	defer func() { err = joinClose(err, (&target{conns: conns}).close) }()
	if err != nil {
		return err
	}
	empty, err := process.memory()
	if err != nil {
		return err
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	err = eachOnce(p.long.watches, p.callers, func(n int) error {
		_, err := watch(watching, conns[n%len(conns)], keyClient(0))
		return err
	})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	held, err := process.memory()
	if err != nil {
		return err
	}
	p.printf("watches: %d on %d connections: memory %.0f MiB, before them %.0f; heap %.0f MiB, %d goroutines", p.long.watches, len(conns),
		mebibytes(held.Resident), mebibytes(empty.Resident), mebibytes(int64(held.Heap)), held.Goroutines)
	measured["watch_10k_rss_mib"] = mebibytes(held.Resident)
	return nil
}

// watch opens a stream and waits for the token that comes first. The stream lasts as
// long as ctx.
func watch(ctx context.Context, conn *grpc.ClientConn, client string) (grpc.ServerStreamingClient[pb.WatchTokenResponse], error) {
	stream, err := pb.NewTokenServiceClient(conn).WatchToken(ctx, &pb.WatchTokenRequest{Client: "clients/" + client})
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err == nil && first.GetToken().GetAccessToken() == "" {
		err = errors.New("the first message has no token")
	}
	return stream, err
}
