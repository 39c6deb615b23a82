// Command bench measures what a request costs, beside a bare gRPC echo of equal
// bytes in the same run, and fails when a figure misses its bound.
//
//	go run ./bench                     all of it, about four minutes
//	go run ./bench -only warm          one scenario: cold, cost, herd, noisy, sdk or warm
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
	measure func(context.Context, *world, plan, figures) error
}{
	{"cold", measureCold},
	{"herd", measureHerd},
	{"warm", measureWarm},
	{"cost", measureCost},
	{"noisy", measureNoisy},
	{"sdk", measureSDK},
}

// run measures and reports.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := fullPlan()
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("only", "", "run this `scenario` alone: cold, cost, herd, noisy, sdk or warm")
	flags.StringVar(&p.profiles, "profile", "", "write profiles of both servers into `DIR`")
	flags.IntVar(&p.rounds, "rounds", p.rounds, "rounds of each comparison; the figure is their median")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return usageError{err}
	}
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	if flags.NArg() > 0 || p.rounds < 1 || *only != "" && !slices.Contains(names, *only) {
		flags.Usage()
		return usageError{fmt.Errorf("want no arguments, and -only one of %s", strings.Join(names, ", "))}
	}
	if *only != "" {
		names = []string{*only}
	}
	p.progress = stderr
	measured, err := measure(ctx, p, names)
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
