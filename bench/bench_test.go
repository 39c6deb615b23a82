package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
	"github.com/tokenbroker/tokenbroker/test/realvault"
)

// quickPlan measures nothing that is worth reading, and runs everything.
func quickPlan(t *testing.T) plan {
	return plan{
		rounds: 1, costRounds: 1, sdkCalls: 1000, warmup: 20 * time.Millisecond, closed: 50 * time.Millisecond, open: 50 * time.Millisecond, single: 20 * time.Millisecond,
		callers: 8, connections: 2, coldTokens: 3, herd: 50, herdPause: 200 * time.Millisecond,
		vaultTokens: 3, vault: []realvault.Option{realvault.InMemory()}, keys: 300, stormClients: 20, stormRate: 100, stormLifetime: 6 * time.Second,
		swept: 50, sweeps: 1,
		long:     longPlan{clients: 300, vaultClients: 200, warm: 100, watches: 20, watchConnections: 2, mixed: 800 * time.Millisecond, sample: 50 * time.Millisecond},
		profiles: t.TempDir(), progress: t.Output(),
	}
}

func TestEveryFigureIsMeasured(t *testing.T) {
	p := quickPlan(t)
	measured, err := measure(t.Context(), p, names(ordinary, long, lookups))
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	_ = measured.report(&printed) // whether bounds hold in so short a time says nothing
	for _, f := range table {
		if slices.Contains(vaultFigures, f.name) {
			continue
		}
		match := regexp.MustCompile(`(?m)^figure ` + f.name + ` (\S+)$`).FindStringSubmatch(printed.String())
		if match == nil {
			t.Errorf("%s was not printed", f.name)
			continue
		}
		if value, err := strconv.ParseFloat(match[1], 64); err != nil || math.IsNaN(value) || math.IsInf(value, 0) {
			t.Errorf("%s is %q", f.name, match[1])
		}
	}
	for name, want := range map[string]float64{
		"herd_upstream_requests": 1, "cold_store_reads": 3, "cold_store_writes": 2, "refresh_storm_failed_calls": 0, "mixed_failed_calls": 0,
	} {
		if got := measured[name]; got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"broker.cpu.pprof", "broker.allocs.pprof", "echo.cpu.pprof", "echo.allocs.pprof"} {
		if info, err := os.Stat(filepath.Join(p.profiles, name)); err != nil || info.Size() == 0 {
			t.Errorf("profile %s: %v", name, err)
		}
	}
}

// vaultFigures are measured on a real Vault.
var vaultFigures = []string{
	"cold_vault_vs_bare_calls", "herd_3_replicas_upstream_requests", "sweep_10k_vault_s",
	"vault_100k_start_s", "vault_100k_rss_mib", "vault_100k_warm_cpu_vs_one", "vault_100k_page_ms",
}

func TestFiguresOfVault(t *testing.T) {
	harness.SkipIfOff(t)
	measured, err := measure(t.Context(), quickPlan(t), names(withVault, longInVault, lookupsInVault))
	if errors.Is(err, realvault.ErrMissing) {
		harness.Missing(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range vaultFigures {
		if got, ok := measured[name]; !ok || math.IsNaN(got) || math.IsInf(got, 0) {
			t.Errorf("%s: got %v, want a number", name, got)
		}
	}
	if got := measured["herd_3_replicas_upstream_requests"]; got != 1 {
		t.Errorf("the herd on replicas made %v upstream requests, want 1", got)
	}
}

func TestReportTellsWhichBoundIsMissed(t *testing.T) {
	good := figures{"warm_server_cpu_vs_echo": 0.8, "warm_throughput_vs_echo": 1.2, "herd_upstream_requests": 1, "warm_p99_vs_echo": 99}
	if err := good.report(io.Discard); err != nil {
		t.Errorf("got %v; want no error", err)
	}
	for _, bad := range []figures{
		{"warm_server_cpu_vs_echo": 0.801},
		{"warm_throughput_vs_echo": 1.1999},
		{"herd_upstream_requests": 2},
		{"herd_upstream_requests": 0},
		{"warm_p99_vs_echo": math.NaN()},
		{"warm_throughput_vs_echo": math.Inf(1)},
	} {
		var printed strings.Builder
		err := bad.report(&printed)
		for name := range bad {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%v: got %v; want an error that names it", bad, err)
			}
			if !strings.Contains(printed.String(), "figure "+name+" ") {
				t.Errorf("%v: printed %q; want it printed all the same", bad, printed.String())
			}
		}
	}
}

// TestDocument compares docs/performance.md with the table.
func TestDocument(t *testing.T) {
	document, err := os.ReadFile("../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([^|]+) \\| ([^|]+) \\|$").FindAllStringSubmatch(string(document), -1)
	if len(rows) != len(table) {
		t.Errorf("the document has %d figures; the table %d", len(rows), len(table))
	}
	for i := range min(len(rows), len(table)) {
		got, want := strings.Join(rows[i][1:], " | "), fmt.Sprintf("%s | %s | %s", table[i].name, table[i], table[i].meaning)
		if got != want {
			t.Errorf("row %d:\ngot  %s\nwant %s", i+1, got, want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"unknown scenario", []string{"-only", "lukewarm"}},
		{"unknown flag", []string{"-fast"}},
		{"argument", []string{"warm"}},
		{"no rounds", []string{"-rounds", "0"}},
		{"no clients", []string{"-long", "-clients", "0"}},
		{"no minutes", []string{"-long", "-minutes", "0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var usage usageError
			if err := run(t.Context(), tt.args, io.Discard, t.Output()); !errors.As(err, &usage) {
				t.Errorf("got %v; want a usage error", err)
			}
		})
	}
	if err := run(t.Context(), []string{"-help"}, io.Discard, t.Output()); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v; want flag.ErrHelp", err)
	}
}

func TestContentOfHasItsSize(t *testing.T) {
	for size := range 3000 {
		content, err := contentOf(size)
		// A tag, a length and nothing are 2 bytes; from 127 to 128 bytes of content the
		// length grows by a byte as well.
		if possible := size >= 2 && size != 130; (err == nil) != possible {
			t.Errorf("size %d: got error %v; want %v", size, err, !possible)
		} else if err == nil && len(content) >= size {
			t.Errorf("size %d: got content of %d bytes", size, len(content))
		}
	}
}

func TestEchoHasHeadersOfEqualSize(t *testing.T) {
	if got, want := len(echoMethod), len(pb.TokenService_GetToken_FullMethodName); got != want {
		t.Errorf("the echo's method has %d bytes; GetToken's %d", got, want)
	}
}

func TestMedianAndPercentile(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{5, 1, 3}, 3}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(tt.values); got != tt.want {
			t.Errorf("median of %v: got %v, want %v", tt.values, got, tt.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing: got %v, want NaN", got)
	}
	var durations []time.Duration
	for i := range 100 {
		durations = append(durations, time.Duration(100-i))
	}
	if got := percentile(durations, 0.99); got != 100 {
		t.Errorf("p99 of 1 to 100: got %d, want 100", got)
	}
	if got := percentile(durations, 0.5); got != 51 {
		t.Errorf("p50 of 1 to 100: got %d, want 51", got)
	}
}

// TestServerThatFailsIsTold checks that a server which cannot start is an error
// here, and not a wait.
func TestServerThatFailsIsTold(t *testing.T) {
	p, err := startProcess(t.Context(), "broken", childConfig{StoreFile: filepath.Join(t.TempDir(), "missing.db")}, t.Output())
	if err != nil {
		return // it failed before it said where it listens
	}
	if err := p.stop(); err == nil {
		t.Error("a server without a store ended well")
	}
}

func TestServerRefusesUnknownCommands(t *testing.T) {
	w := &world{files: files{t.TempDir()}}
	if err := w.files.writeCertificates(); err != nil {
		t.Fatal(err)
	}
	p, err := startProcess(t.Context(), "echo", childConfig{TLS: w.files.tlsFiles(), EchoBytes: 100}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"dance", commandStop} {
		if _, err := p.ask(command); err == nil {
			t.Errorf("%s: got no error", command)
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}
