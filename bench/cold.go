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
	for i := range p.coldTokens {
		began := time.Now()
		if err := w.requestBare(ctx, bare); err != nil {
			return err
		}
		between := time.Now()
		if _, err := tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + coldClient(i)}); err != nil {
			return err
		}
		direct, brokered = append(direct, between.Sub(began)), append(brokered, time.Since(between))
	}
	own, all := percentile(direct, 0.5), percentile(brokered, 0.5)
	p.printf("cold: p50 of %d tokens %v, of bare requests %v", p.coldTokens, all, own)
	measured["cold_overhead_ms_p50"] = float64(all-own) / float64(time.Millisecond)
	return nil
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
	w.pause.Store(int64(p.herdPause))
	defer w.pause.Store(0)
	before := w.upstream.Requests()
	ids, errs := make([]string, p.herd), make([]error, p.herd)
	var running sync.WaitGroup
	for i := range p.herd {
		running.Go(func() {
			token, err := pb.NewTokenServiceClient(w.conns[i%len(w.conns)]).GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + herdClient})
			ids[i], errs[i] = token.GetTokenId(), err
		})
	}
	running.Wait()
	if err := first(errs); err != nil {
		return err
	}
	for _, id := range ids {
		if id != ids[0] {
			return fmt.Errorf("callers got different tokens: %s and %s", ids[0], id)
		}
	}
	measured["herd_upstream_requests"] = float64(w.upstream.Requests() - before)
	p.printf("herd: %d callers, %v upstream requests", p.herd, measured["herd_upstream_requests"])
	return nil
}
