package main

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/vault"
)

// storeCalls counts the calls of a store. It is safe for concurrent use.
type storeCalls struct{ reads, writes atomic.Int64 }

// counted is a store whose calls are counted, except those of the feed: replicas read
// it once a second whether or not anybody wants a token.
type counted struct {
	broker.Store
	calls *storeCalls
}

// Read implements [broker.Store].
func (c counted) Read(ctx context.Context, key string) (broker.Record, error) {
	if key != "feed" {
		c.calls.reads.Add(1)
	}
	return c.Store.Read(ctx, key)
}

// Write implements [broker.Store].
func (c counted) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	if key != "feed" {
		c.calls.writes.Add(1)
	}
	return c.Store.Write(ctx, key, data, version)
}

// vaultPlace is where the broker's records are in a Vault.
type vaultPlace struct{ Address, Mount, TokenFile string }

// vaultPrefix is put before the broker's keys in the mount, so that the bare calls
// have a place of their own there.
const vaultPrefix = "broker"

// openStore opens the broker's store and returns what closes it.
func (cfg childConfig) openStore() (broker.Store, func() error, error) {
	if cfg.Vault.Address != "" {
		return cfg.Vault.open()
	}
	store, err := embedded.Open(embedded.Config{File: cfg.StoreFile})
	if err != nil {
		return nil, nil, err
	}
	return store, store.Close, nil
}

func (p vaultPlace) open() (broker.Store, func() error, error) {
	store, err := vault.New(vault.Config{Address: p.Address, Mount: p.Mount, Prefix: vaultPrefix, TokenFile: p.TokenFile})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	return store, func() error {
		cancel()
		return errors.Join(<-ended, store.Close())
	}, nil
}

// localToken is a [broker.RequestToken] that asks nobody. Its tokens are as long as
// those of the authorization server.
func localToken(_ context.Context, request broker.TokenRequest) (broker.TokenResponse, error) {
	lifetime := 24 * time.Hour
	return broker.TokenResponse{
		AccessToken: secret.NewString(rand.Text() + strings.Repeat("0123456789abcdef", 62)), TokenType: "Bearer",
		ExpiresIn: &lifetime, Scopes: request.Scopes, SentTime: time.Now(),
	}, nil
}
