package main

import (
	"context"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// fillChunk is how many clients are gathered before they are written: their records
// need some memory here.
const fillChunk = 50_000

// fill makes an embedded store with n clients. The broker makes the records; they are
// written many at a time and in the order of their keys, which is what the file is
// written to in the fewest places.
func (w *world) fill(ctx context.Context, file string, n int, name func(int) string) (err error) {
	store, err := embedded.Open(embedded.Config{File: file, Create: true})
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, store.Close) }()
	return w.fillStore(ctx, store, n, name)
}

// fillStore is fill for a store that is open.
func (w *world) fillStore(ctx context.Context, store broker.Store, n int, name func(int) string) error {
	gathered := &gathering{Store: store, written: map[string]secret.Value{}}
	upstream, b, err := newBroker(gathered, telemetry.New("bench"), childConfig{Alone: true, Cached: 1000})
	if err != nil {
		return err
	}
	defer upstream.Close()
	defer b.Close()
	if err := b.Ready(ctx); err != nil {
		return err
	}
	for from := 0; from < n; from += fillChunk {
		chunk := each(min(fillChunk, n-from), func(i int) string { return name(from + i) })
		if err := w.create(ctx, b, chunk); err != nil {
			return err
		}
		if err := gathered.flush(ctx); err != nil {
			return err
		}
		w.p.printf("filled a store with %d of %d clients", from+len(chunk), n)
	}
	return nil
}

// gathering is a store that keeps what is new in memory until flush. What was written
// before that, it passes on. It is safe for concurrent use, but for flush.
type gathering struct {
	broker.Store
	mu      sync.Mutex
	written map[string]secret.Value // guarded by mu
}

// Read implements [broker.Store].
func (g *gathering) Read(ctx context.Context, key string) (broker.Record, error) {
	g.mu.Lock()
	data, ok := g.written[key]
	g.mu.Unlock()
	if ok {
		return broker.Record{Data: data, Version: 1}, nil
	}
	return g.Store.Read(ctx, key)
}

// Write implements [broker.Store].
func (g *gathering) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	if version > 0 {
		return g.Store.Write(ctx, key, data, version)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.written[key]; ok {
		return 0, &broker.Error{Reason: broker.ReasonStoreConflict, Op: "write record", Detail: key}
	}
	g.written[key] = secret.New(data.Reveal()) // a copy
	return 1, nil
}

// flush writes what was gathered.
func (g *gathering) flush(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(512) // the store commits 128 at a time
	for _, key := range slices.Sorted(maps.Keys(g.written)) {
		group.Go(func() error {
			_, err := g.Store.Write(ctx, key, g.written[key], 0)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	clear(g.written)
	return nil
}
