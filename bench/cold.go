package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// measureCold asks for tokens of clients that the broker has not read yet, each
// beside a bare request to the authorization server, and takes the difference.
func measureCold(ctx context.Context, w *world, p plan, measured figures) error {
	tokens := pb.NewTokenServiceClient(w.conns[0])
	bare := &http.Client{Transport: &http.Transport{}}
	defer bare.CloseIdleConnections()
	// The first of each opens connections, which later ones find open.
	if err := w.requestBare(ctx, bare); err != nil {
		return err
	}
	if _, err := tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + warmClient}); err != nil {
		return err
	}
	var direct, brokered []time.Duration
	used, err := w.broker.during(func() (err error) {
		direct, brokered, err = w.coldBesideBare(ctx, tokens, bare, p.coldTokens)
		return err
	})
	if err != nil {
		return err
	}
	own, all := percentile(direct, 0.5), percentile(brokered, 0.5)
	p.printf("cold: p50 of %d tokens %v, of bare requests %v; %d reads and %d writes", p.coldTokens, all, own, used.Reads, used.Writes)
	measured["cold_overhead_ms_p50"] = float64(all-own) / float64(time.Millisecond)
	measured["cold_store_reads"] = float64(used.Reads) / float64(p.coldTokens)
	measured["cold_store_writes"] = float64(used.Writes) / float64(p.coldTokens)
	return nil
}

// coldBesideBare returns how long bare requests took, and how long GetToken of the
// cold tokens, in turn.
func (w *world) coldBesideBare(ctx context.Context, tokens pb.TokenServiceClient, bare *http.Client, n int) (direct, brokered []time.Duration, err error) {
	for i := range n {
		began := time.Now()
		if err := w.requestBare(ctx, bare); err != nil {
			return nil, nil, err
		}
		between := time.Now()
		if _, err := tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + coldClient(i)}); err != nil {
			return nil, nil, err
		}
		direct, brokered = append(direct, between.Sub(began)), append(brokered, time.Since(between))
	}
	return direct, brokered, nil
}

// requestBare requests a token as the broker does, without the broker.
func (w *world) requestBare(ctx context.Context, client *http.Client) error {
	body := strings.NewReader(url.Values{"grant_type": {"client_credentials"}}.Encode())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.upstream.TokenEndpoint(), body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(url.QueryEscape(upstreamClientID), url.QueryEscape(w.secret.RevealString()))
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the authorization server answered %s", response.Status)
	}
	return errors.Join(err, response.Body.Close())
}

// measureHerd has many callers ask for one cold token at once, and counts what the
// authorization server sees of them.
func measureHerd(ctx context.Context, w *world, p plan, measured figures) error {
	requests, err := w.herd(ctx, w.conns, p.herd, herdClient)
	measured["herd_upstream_requests"] = float64(requests)
	p.printf("herd: %d callers, %d upstream requests", p.herd, requests)
	return err
}

// herd has callers, spread over the connections, ask for one token at once, demands
// that all get the same one, and returns how many requests that took.
func (w *world) herd(ctx context.Context, conns []*grpc.ClientConn, callers int, client string) (int64, error) {
	w.pause.Store(int64(w.p.herdPause))
	defer w.pause.Store(0)
	before := w.upstream.Requests()
	got, errs := make([]string, callers), make([]error, callers)
	var running sync.WaitGroup
	for i := range callers {
		running.Go(func() {
			token, err := pb.NewTokenServiceClient(conns[i%len(conns)]).GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + client})
			got[i], errs[i] = token.GetAccessToken(), err
		})
	}
	running.Wait()
	if err := first(errs); err != nil {
		return 0, err
	}
	for _, token := range got {
		if token != got[0] {
			return 0, fmt.Errorf("callers of %s got different tokens", client)
		}
	}
	return int64(w.upstream.Requests() - before), nil
}
