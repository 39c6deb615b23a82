package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
	"github.com/tokenbroker/tokenbroker/test/harness"
	"github.com/tokenbroker/tokenbroker/test/realvault"
)

const replicas = 3

func vaultClient(i int) string { return fmt.Sprintf("bench-vault-%04d", i) }

// measureVault measures what needs a real Vault: replicas that share a store, and what
// a cold token costs there.
func measureVault(ctx context.Context, w *world, p plan, measured figures) (err error) {
	server, place, err := w.startVault(p)
	if err != nil {
		return err
	}
	defer server.Close()
	bare := &bareVault{place: place, token: server.RootToken(), client: &http.Client{Transport: &http.Transport{}}}
	defer bare.client.CloseIdleConnections()
	if err := w.registerInVault(ctx, bare); err != nil {
		return fmt.Errorf("register clients: %w", err)
	}
	conns := make([][]*grpc.ClientConn, replicas)
	var interleaved []*grpc.ClientConn
	for i := range replicas {
		name := fmt.Sprintf("replica %d", i+1)
		cfg := childConfig{TLS: w.files.tlsFiles(), Caller: callerIdentity, StoreFile: w.files.path(fmt.Sprintf("replica-%d", i)), Vault: place}
		process, err := startProcess(ctx, name, cfg, p.progress)
		if err != nil {
			return err
		}
		defer func() { err = joinClose(err, process.stop) }()
		conns[i], err = w.connect(process.address)
		defer func() { err = joinClose(err, (&target{conns: conns[i]}).close) }()
		if err != nil {
			return err
		}
		interleaved = append(interleaved, conns[i]...)
	}
	if err := w.coldInVault(ctx, bare, pb.NewTokenServiceClient(conns[0][0]), measured); err != nil {
		return err
	}
	requests, err := w.herd(ctx, interleaved, replicas*p.herd, herdClient)
	measured["herd_3_replicas_upstream_requests"] = float64(requests)
	p.printf("herd: %d callers on each of %d replicas, %d upstream requests", p.herd, replicas, requests)
	return err
}

// startVault starts a real Vault, which is the caller's to close.
func (w *world) startVault(p plan) (*realvault.Server, vaultPlace, error) {
	server, err := realvault.Open(p.vault...)
	if errors.Is(err, realvault.ErrMissing) {
		return nil, vaultPlace{}, fmt.Errorf("%w; run `%s`, or leave these figures out with %s=none", err, harness.Remedy, harness.ServersVariable)
	}
	if err != nil {
		return nil, vaultPlace{}, err
	}
	place := vaultPlace{Address: server.Addr(), Mount: server.KV(), TokenFile: w.files.path("vault-token")}
	if err := os.WriteFile(place.TokenFile, []byte(server.RootToken()), 0o600); err != nil {
		server.Close()
		return nil, vaultPlace{}, err
	}
	return server, place, nil
}

// openVault starts a real Vault and opens a store there; closing ends both.
func (w *world) openVault(p plan) (_ broker.Store, _ vaultPlace, closing func() error, err error) {
	server, place, err := w.startVault(p)
	if err != nil {
		return nil, vaultPlace{}, nil, err
	}
	store, closeStore, err := place.open()
	if err != nil {
		server.Close()
		return nil, vaultPlace{}, nil, err
	}
	return store, place, func() error {
		defer server.Close()
		return closeStore()
	}, nil
}

// registerInVault registers clients for the broker, and as many beside them whose
// records the bare calls read.
func (w *world) registerInVault(ctx context.Context, bare *bareVault) (err error) {
	store, closeStore, err := bare.place.open()
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, closeStore) }()
	noting := &noting{Store: store}
	upstream, b, err := newBroker(noting, telemetry.New("bench"), childConfig{})
	if err != nil {
		return err
	}
	defer upstream.Close()
	defer b.Close()
	if err := b.Ready(ctx); err != nil {
		return err
	}
	if err := w.create(ctx, b, append(each(w.p.vaultTokens, vaultClient), warmClient, herdClient)); err != nil {
		return err
	}
	for i := range w.p.vaultTokens { // one after the other, so that the keys can be told apart
		noting.keys = nil
		if _, err := b.CreateClient(ctx, w.newClient("bare-"+vaultClient(i))); err != nil {
			return err
		}
		bare.records = append(bare.records, noting.keys)
	}
	_, _, err = b.GetToken(ctx, broker.TokenQuery{ClientID: warmClient})
	bare.tokenRecord = noting.last
	return err
}

// coldInVault compares GetToken of cold tokens, less the authorization server's own
// time, with the same calls of Vault made bare.
func (w *world) coldInVault(ctx context.Context, bare *bareVault, tokens pb.TokenServiceClient, measured figures) error {
	upstream := &http.Client{Transport: &http.Transport{}}
	defer upstream.CloseIdleConnections()
	if _, err := tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + warmClient}); err != nil {
		return err
	}
	names := [...]string{"authorization server", "broker", "bare calls"}
	var took [len(names)][]time.Duration
	for i := range w.p.vaultTokens {
		steps := [len(names)]func() error{
			func() error { return w.requestBare(ctx, upstream) },
			func() error {
				_, err := tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + vaultClient(i)})
				return err
			},
			func() error { return bare.likeColdToken(ctx, i) },
		}
		for s := range steps {
			s = (s + i) % len(steps) // whoever comes first is not always the same
			began := time.Now()
			if err := steps[s](); err != nil {
				return fmt.Errorf("%s: %w", names[s], err)
			}
			took[s] = append(took[s], time.Since(began))
		}
	}
	var ratios []float64
	for i := range w.p.vaultTokens { // before the times are sorted
		ratios = append(ratios, float64(took[1][i]-took[0][i])/float64(took[2][i]))
	}
	own, brokered, calls := percentile(took[0], 0.5), percentile(took[1], 0.5), percentile(took[2], 0.5)
	w.p.printf("cold token on Vault: p50 %v, of which the authorization server %v; bare calls %v; ratio of these %.3f", brokered, own, calls, float64(brokered-own)/float64(calls))
	measured["cold_vault_vs_bare_calls"] = median(ratios)
	return nil
}

// noting is a store that notes what is written.
type noting struct {
	broker.Store
	mu   sync.Mutex      // guards the rest
	keys []string        // in the order of writing
	last json.RawMessage // what was written last
}

// Write implements [broker.Store].
func (n *noting) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	if key != "feed" {
		n.mu.Lock()
		n.keys, n.last = append(n.keys, key), bytes.Clone(data.Reveal())
		n.mu.Unlock()
	}
	return n.Store.Write(ctx, key, data, version)
}

// bareVault calls Vault with net/http alone, on connections that are kept.
type bareVault struct {
	place  vaultPlace
	token  string
	client *http.Client
	// records are the keys of each client's records, tokenRecord what a token's record
	// holds.
	records     [][]string
	tokenRecord json.RawMessage
}

// likeColdToken makes the calls that a cold token of the ith client takes: it reads the
// client's record and its secret, finds that there is no token, and writes a lease and
// then the token.
func (v *bareVault) likeColdToken(ctx context.Context, i int) error {
	for _, key := range v.records[i] {
		if err := v.call(ctx, http.MethodGet, vaultPrefix+"/"+key, nil, http.StatusOK); err != nil {
			return err
		}
	}
	path := fmt.Sprintf("bare/tokens/%04d", i)
	if err := v.call(ctx, http.MethodGet, path, nil, http.StatusNotFound); err != nil {
		return err
	}
	lease := json.RawMessage(`{"schema":1,"uid":"abcdefghijklmnopqrstuvwxyz","write_id":"abcdefghijklmnopqrstuvwxyz","lease":{"holder":"abcdefghijklmnopqrstuvwxyz","id":"abcdefghijklmnopqrstuvwxyz","duration":25000000000},"fence":1}`)
	for version, record := range []json.RawMessage{lease, v.tokenRecord} {
		body, err := json.Marshal(map[string]any{"options": map[string]int{"cas": version}, "data": record})
		if err != nil {
			return err
		}
		if err := v.call(ctx, http.MethodPost, path, body, http.StatusOK); err != nil {
			return err
		}
	}
	return nil
}

// call makes one call and reads its answer.
func (v *bareVault) call(ctx context.Context, method, path string, body []byte, want int) error {
	request, err := http.NewRequestWithContext(ctx, method, v.place.Address+"/v1/"+v.place.Mount+"/data/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Token", v.token)
	response, err := v.client.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != want {
		err = fmt.Errorf("%s %s: Vault answered %s", method, path, response.Status)
	}
	return errors.Join(err, response.Body.Close())
}
