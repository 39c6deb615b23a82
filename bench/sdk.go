package main

import (
	"context"
	"runtime"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbroker/tokenbroker/client"
)

// measureSDK times Token() of the Go client's source while it has a token, beside
// x/oauth2's own cache of the same token.
func measureSDK(ctx context.Context, w *world, p plan, measured figures) error {
	source := client.NewFromConn(w.conns[0]).Source(client.Request{Client: "clients/" + warmClient})
	defer source.Close()
	if _, err := source.Get(ctx); err != nil {
		return err
	}
	token, err := source.Token()
	if err != nil {
		return err
	}
	reuse := oauth2.ReuseTokenSource(token, oauth2.StaticTokenSource(token))
	var ns, ratios, allocs []float64
	for round := range p.costRounds {
		own, objects, err := timeTokens(source, p.sdkCalls)
		if err != nil {
			return err
		}
		other, _, err := timeTokens(reuse, p.sdkCalls)
		if err != nil {
			return err
		}
		p.printf("sdk round %d: %.1f ns a call, x/oauth2 %.1f ns", round+1, own, other)
		ns, ratios, allocs = append(ns, own), append(ratios, own/other), append(allocs, objects)
	}
	measured["sdk_token_ns"], measured["sdk_token_vs_oauth2"], measured["sdk_token_allocs"] = median(ns), median(ratios), median(allocs)
	return nil
}

// timeTokens returns nanoseconds and heap objects for a call of source.Token.
func timeTokens(source oauth2.TokenSource, calls int) (ns, objects float64, err error) {
	objects = testing.AllocsPerRun(100, func() { _, err = source.Token() })
	if err != nil {
		return 0, 0, err
	}
	runtime.GC() // not in the middle of what is timed
	began := time.Now()
	for range calls {
		if _, err = source.Token(); err != nil {
			return 0, 0, err
		}
	}
	return float64(time.Since(began)) / float64(calls), objects, nil
}
