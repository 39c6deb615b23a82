package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/vault"
)

// doctorNobody is a client that is not registered: a check of it sees the store alone.
const doctorNobody = "tokenbroker-doctor-asks-for-nobody"

// storeWithin bounds the looks at a store.
const storeWithin = 30 * time.Second

// store logs in and reads, as the server would, and writes nothing.
func (d *doctor) store(ctx context.Context, cfg *config) {
	ctx, cancel := context.WithTimeout(ctx, storeWithin)
	defer cancel()
	if cfg.Store.Embedded != nil {
		d.embedded(ctx, cfg.Store.Embedded)
		return
	}
	settings := *cfg.Store.Vault
	settings.Logger = slog.New(slog.DiscardHandler)
	store, err := vault.New(settings)
	if err != nil {
		d.Bad("store.vault", "correct the configuration", err.Error())
		return
	}
	defer func() { _ = store.Close() }()
	running, stop := context.WithCancel(ctx)
	var owned sync.WaitGroup
	owned.Go(func() { _ = store.Run(running) }) // ends with running, in no other way
	defer owned.Wait()
	defer stop()
	d.Good("address", settings.Address+", mount "+cmp.Or(settings.Mount, vault.DefaultMount))
	if !d.stages(ctx, store) {
		return
	}
	lacks, err := store.Lacks(ctx)
	switch {
	case err != nil:
		d.Bad("policy", broker.ReasonOf(err).Info().Remedy, err.Error())
	case len(lacks) > 0:
		d.Bad("policy", "write the policy that `tokenbroker vault-policy` prints, with the mount and the prefix of the configuration", lacks...)
	default:
		d.Good("policy", "grants all that the broker needs")
	}
}

// embedded opens the file, which a running server has open.
func (d *doctor) embedded(ctx context.Context, cfg *embeddedConfig) {
	const name = "store.embedded"
	if _, err := os.Stat(cfg.File); errors.Is(err, fs.ErrNotExist) {
		d.Doubtful(name, "nothing, if the server was never started; else put the store and its key back", cfg.File+" is not there: the server makes it when it starts")
		return
	}
	d.PrivateFile("store.embedded.key_file", cfg.KeyFile, false)
	store, err := embedded.Open(embedded.Config{File: cfg.File, KeyFile: cfg.KeyFile})
	switch {
	case broker.ReasonOf(err) == broker.ReasonStoreLocked:
		d.Good(name, cfg.File+" is in use, as by a running server: `tokenctl doctor` asks that")
	case err != nil:
		d.Bad(name, broker.ReasonOf(err).Info().Remedy, err.Error())
	default:
		d.stages(ctx, store)
		if err := store.Close(); err != nil {
			d.Bad(name, "look at the disk", err.Error())
		}
	}
}

// stages walks what every lookup takes of the store, and reports whether it can be read.
func (d *doctor) stages(ctx context.Context, store broker.Store) bool {
	watched := &readOnly{Store: store}
	settings := broker.Config{
		Store: watched, CheckSecret: oauth.CheckSecret, Logger: slog.New(slog.DiscardHandler),
		RequestToken: func(context.Context, broker.TokenRequest) (broker.TokenResponse, error) {
			return broker.TokenResponse{}, errors.New("the doctor asks for no tokens")
		},
	}
	b, err := broker.New(settings)
	if err != nil {
		d.Bad("store", "report this", err.Error())
		return false
	}
	defer b.Close()
	report, err := b.CheckLookup(ctx, broker.LookupCheck{ClientID: doctorNobody, Depth: broker.DepthIndex, Permitted: broker.DepthIndex})
	if err != nil {
		d.Bad("store", broker.ReasonOf(err).Info().Remedy, err.Error())
		return false
	}
	if watched.asked.Load() {
		d.Good("store", "it can be read, and is empty: the server founds it when it starts")
		return true
	}
	for _, s := range report.Stages {
		if !strings.HasPrefix(s.Name, "STORE_") {
			continue
		}
		seen := append([]string{s.Title}, s.Evidence...)
		switch s.Outcome {
		case broker.OutcomePassed:
			d.Good("store", s.Title)
		case broker.OutcomeWarned:
			d.Doubtful("store", s.Remedy, append(seen, string(s.Reason))...)
		case broker.OutcomeFailed:
			d.Bad("store", s.Remedy, append(seen, string(s.Reason))...)
			return false
		default:
			d.Skipped("store", s.Title)
		}
	}
	return true
}

// readOnly is a store that takes no writes. The first that a broker tries is that of the
// record which founds a store that is empty and fit.
type readOnly struct {
	broker.Store
	asked atomic.Bool
}

var errReadOnly = &broker.Error{Reason: broker.ReasonStoreFailed, Detail: "the doctor writes nothing"}

// Write implements broker.Store.
func (r *readOnly) Write(context.Context, string, secret.Value, uint64) (uint64, error) {
	r.asked.Store(true)
	return 0, fmt.Errorf("write: %w", errReadOnly)
}

// Destroy implements broker.Store.
func (r *readOnly) Destroy(context.Context, string) error {
	return fmt.Errorf("destroy: %w", errReadOnly)
}
