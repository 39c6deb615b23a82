package main

import (
	"context"
	"io"
	"os"
)

// measureCost measures what each feature costs: the CPU time of a server with all of
// them less that of a server without this one, in units of the echo. All servers take
// their turns in each round.
func measureCost(ctx context.Context, w *world, p plan, measured figures) (err error) {
	full, echo, err := w.targets(ctx)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, echo.close, echo.process.stop) }()
	all := []*target{full, echo}
	for _, feature := range features {
		t, err := w.without(ctx, feature, full)
		if err != nil {
			return err
		}
		defer func() { err = joinClose(err, t.close, t.process.stop) }()
		all = append(all, t)
	}
	for _, t := range all {
		if _, _, err := t.closedLoop(ctx, p.callers, p.warmup); err != nil {
			return err
		}
	}
	ratios := make(map[string][]float64)
	for round := range p.costRounds {
		cpu := make([]float64, len(all))
		for i := range all {
			i = (i + round) % len(all) // whoever comes first is not always the same
			if cpu[i], err = all[i].cpuPerCall(ctx, p); err != nil {
				return err
			}
		}
		for i, feature := range features {
			ratios[feature] = append(ratios[feature], (cpu[0]-cpu[2+i])/cpu[1])
		}
		p.printf("cost round %d: CPU %.1f µs a call, echo %.1f, without %v %.1f", round+1, cpu[0]/1e3, cpu[1]/1e3, features, scaled(cpu[2:], 1e-3))
	}
	for _, feature := range features {
		measured["cost_"+feature+"_cpu_vs_echo"] = median(ratios[feature])
	}
	return nil
}

func scaled(values []float64, by float64) []float64 {
	for i := range values {
		values[i] *= by
	}
	return values
}

// cpuPerCall returns the server's CPU time for a call, in nanoseconds.
func (t *target) cpuPerCall(ctx context.Context, p plan) (float64, error) {
	calls := 0
	used, err := t.process.during(func() (err error) {
		calls, _, err = t.closedLoop(ctx, p.callers, p.closed)
		return err
	})
	return float64(used.CPU) / float64(calls), err
}

// without starts a server that lacks one feature, on a copy of the store, which one
// process at a time may have open.
func (w *world) without(ctx context.Context, feature string, full *target) (_ *target, err error) {
	copied := w.files.path("without-" + feature + ".db")
	for _, suffix := range []string{"", ".key"} {
		if err := copyFile(w.files.store()+suffix, copied+suffix); err != nil {
			return nil, err
		}
	}
	cfg := childConfig{TLS: w.files.tlsFiles(), Caller: callerIdentity, StoreFile: copied, Without: feature}
	process, err := startProcess(ctx, "broker without "+feature, cfg, w.p.progress)
	if err != nil {
		return nil, err
	}
	t := &target{process: process, method: full.method, request: full.request, answerBytes: full.answerBytes, slack: answerSlack, tls: w.tls}
	if t.conns, err = w.connect(process.address); err != nil {
		return nil, joinClose(err, t.close, process.stop)
	}
	// The first call requests the token.
	if t.answerBytes, err = t.answerSize(ctx); err != nil {
		return nil, joinClose(err, t.close, process.stop)
	}
	return t, nil
}

func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, target.Close) }()
	_, err = io.Copy(target, source)
	return err
}
