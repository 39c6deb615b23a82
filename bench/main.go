// Command bench measures what a request costs, beside a bare gRPC echo of equal
// bytes in the same run, and fails when a figure misses its bound.
//
//	go run ./bench                     all of it but what takes long, about six minutes
//	go run ./bench -long               what takes long: million, watches, mixed and vaultmany
//	go run ./bench -lookups            what checks of lookups take
//	go run ./bench -only warm          one scenario
//	go run ./bench -profile DIR        also CPU and allocation profiles of both servers
//
// Progress goes to standard error; standard output has a line "figure NAME VALUE"
// for each figure. Exit status: 0 when all bounds hold, 1 when one does not or the
// measurement failed, 2 when the command line is wrong. docs/performance.md says
// what the figures mean.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

func main() {
	if isChild(os.Args) {
		os.Exit(childMain(os.Args[2], os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	var usage usageError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.As(err, &usage):
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// usageError marks errors that end with status 2; the flag package has told them.
type usageError struct{ error }

// scenarios are the parts of the benchmark, in the order that they run in.
var scenarios = []struct {
	name    string
	kind    kind
	measure func(context.Context, *world, plan, figures) error
}{
	{"vault", withVault, measureVault}, // first: if there is none, that is told at once
	{"cold", ordinary, measureCold},
	{"herd", ordinary, measureHerd},
	{"warm", ordinary, measureWarm},
	{"cost", ordinary, measureCost},
	{"noisy", ordinary, measureNoisy},
	{"sdk", ordinary, measureSDK},
	{"keys", ordinary, measureKeys},
	{"storm", ordinary, measureStorm},
	{"million", long, measureMillion},
	{"watches", long, measureWatches},
	{"mixed", long, measureMixed},
	{"vaultmany", longInVault, measureManyInVault},
	{"check", lookups, measureCheck},
	{"sweep", lookups, measureSweep},
	{"vaultsweep", lookupsInVault, measureSweepInVault},
}

// kind says when a scenario is run.
type kind int

const (
	ordinary       kind = iota
	withVault           // unless real servers are turned off
	long                // on demand
	longInVault         // the same, unless real servers are turned off
	lookups             // of checks of lookups, on demand
	lookupsInVault      // the same, unless real servers are turned off
)

// names returns the scenarios of those kinds.
func names(kinds ...kind) (list []string) {
	for _, s := range scenarios {
		if slices.Contains(kinds, s.kind) {
			list = append(list, s.name)
		}
	}
	return list
}

// run measures and reports.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := fullPlan()
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	all := names(ordinary, withVault, long, longInVault, lookups, lookupsInVault)
	only := flags.String("only", "", "run this `scenario` alone: "+strings.Join(all, ", "))
	checks := flags.Bool("lookups", false, "run the scenarios about checks of lookups")
	longOnes := flags.Bool("long", false, "run the scenarios that take long")
	flags.IntVar(&p.long.clients, "clients", p.long.clients, "clients of the scenario million; vaultmany has no more either")
	flags.IntVar(&p.long.watches, "watches", p.long.watches, "streams of the scenario watches")
	minutes := flags.Float64("minutes", p.long.mixed.Minutes(), "how long the scenario mixed lasts")
	flags.StringVar(&p.profiles, "profile", "", "write profiles of both servers into `DIR`")
	flags.IntVar(&p.rounds, "rounds", p.rounds, "rounds of each comparison; the figure is their median")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return usageError{err}
	}
	p.long.mixed = time.Duration(*minutes * float64(time.Minute))
	if flags.NArg() > 0 || p.rounds < 1 || p.long.clients < 1 || p.long.watches < 1 || p.long.mixed < 1 || *only != "" && !slices.Contains(all, *only) {
		flags.Usage()
		return usageError{fmt.Errorf("want no arguments, positive numbers, and -only one of %s", strings.Join(all, ", "))}
	}
	p.progress = stderr
	kinds := []kind{ordinary, withVault}
	switch {
	case *checks:
		kinds = []kind{lookups, lookupsInVault}
	case *longOnes:
		kinds = []kind{long, longInVault}
	}
	if *only == "" && harness.Off() {
		kinds = kinds[:1]
		p.printf("%s=none: without the figures that need a Vault", harness.ServersVariable)
	}
	chosen := names(kinds...)
	if *only != "" {
		chosen = []string{*only}
	}
	measured, err := measure(ctx, p, chosen)
	if err != nil {
		return err
	}
	return measured.report(stdout)
}

// measure runs the named scenarios in a world of their own.
func measure(ctx context.Context, p plan, names []string) (_ figures, err error) {
	w, err := newWorld(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	defer func() { err = errors.Join(err, w.close()) }()
	measured := make(figures)
	for _, s := range scenarios {
		if !slices.Contains(names, s.name) {
			continue
		}
		if err := s.measure(ctx, w, p, measured); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return measured, nil
}
