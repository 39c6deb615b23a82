package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// comparison is how a figure relates to its bound.
type comparison string

const (
	atMost   comparison = "≤"
	atLeast  comparison = "≥"
	exactly  comparison = "="
	informal comparison = "–" // printed, not judged
)

// figure is what is known of one before it is measured.
type figure struct {
	name    string
	want    comparison
	bound   float64
	meaning string
}

// table is every figure, in the order of printing. docs/performance.md has the
// same, which a test compares. A ratio is taken in each round, whose two halves run
// right after each other; the figure is the median of the rounds.
var table = []figure{
	{"warm_server_cpu_vs_echo", atMost, 0.8, "CPU time of the server process for one GetToken of a warm token, against the echo's."},
	{"warm_throughput_vs_echo", atLeast, 1.2, "GetToken calls a second of 64 callers on 4 connections, against the echo's."},
	{"warm_p99_vs_echo", informal, 0, "99th percentile of latency when calls arrive at half of the echo's throughput, against the echo's."},
	{"warm_allocs_per_call", atMost, 64, "Heap objects that the server process allocates for one GetToken, gRPC's and TLS's included."},
	{"single_caller_p50_vs_echo", atMost, 1.15, "Median latency of a caller that is alone, against the echo's."},
	{"cost_audit_cpu_vs_echo", informal, 0, "What the audit log in a file adds to the CPU time of a warm GetToken, in units of the echo."},
	{"cost_access_cpu_vs_echo", informal, 0, "What a table of 502 callers and rows with limits adds, compared with one role for one caller."},
	{"cost_metrics_cpu_vs_echo", informal, 0, "What counting and timing calls adds."},
	{"noisy_caller_p50_vs_alone", atMost, 2, "Median latency of a caller within its limits while another asks for fifty times its own, against the same without the other."},
	{"noisy_caller_p99_vs_alone", informal, 0, "The same for the 99th percentile."},
	{"cold_overhead_ms_p50", atMost, 3, "Milliseconds that GetToken of a cold token takes beyond the authorization server's own time."},
	{"herd_upstream_requests", exactly, 1, "Requests to the authorization server when 1,000 callers want one cold token at once."},
	{"sdk_token_ns", informal, 0, "Nanoseconds of Token() of the Go client's source while it has a token."},
	{"sdk_token_vs_oauth2", atMost, 0.5, "The same against x/oauth2's ReuseTokenSource."},
	{"sdk_token_allocs", exactly, 0, "Heap objects of such a call."},
	{"cold_store_reads", exactly, 3, "Reads of the store for GetToken of a cold token: the client, its secret, the token that another replica may have."},
	{"cold_store_writes", exactly, 2, "Writes of the store for the same: the right to ask, and the token."},
	{"cold_vault_vs_bare_calls", atMost, 1.3, "GetToken of a cold token on a real Vault, less the authorization server's own time, against the same calls of Vault made bare."},
	{"herd_3_replicas_upstream_requests", exactly, 1, "Requests to the authorization server when 1,000 callers on each of three replicas with one Vault want one cold token at once."},
	{"keys_1k_vs_1", informal, 0, "GetToken calls a second with 1,000 warm tokens of as many clients, against the same callers with one of them."},
	{"keys_1k_cpu_vs_1", informal, 0, "CPU time of the server process for one of these calls, against the same."},
	{"keys_100k_vs_1", informal, 0, "GetToken calls a second with 100,000 warm tokens of as many clients, against the same callers with one of them."},
	{"keys_100k_cpu_vs_1", atMost, 1.3, "CPU time of the server process for one of these calls, against the same."},
	{"keys_100k_echo_vs_1", informal, 0, "The same for an echo with 100,000 answers in a map, against it with one of them: what no server can do without."},
	{"keys_100k_echo_cpu_vs_1", informal, 0, "CPU time of the echo's process for one of these calls, against the same."},
	{"refresh_storm_failed_calls", exactly, 0, "GetToken calls that fail while the tokens of 2,000 clients in use, 30 s long, all end within seconds."},
	{"refresh_storm_requests_per_token", atMost, 1.01, "Requests to the authorization server for each token that was served until then."},
	{"refresh_storm_p99_vs_calm", informal, 0, "99th percentile of latency of these calls, against the same before any token has to be replaced."},
	{"million_start_s", atMost, 2, "Seconds from the start of a server with 1,000,000 clients in its embedded store until its first call is answered."},
	{"million_rss_mib", atMost, 1024, "Its memory (RSS) in MiB once 100,000 of the clients have a warm token, without pages of the store's file."},
	{"million_file_pages_mib", informal, 0, "The pages of the store's file that the kernel counts as its memory besides, in MiB."},
	{"million_warm_cpu_vs_one", informal, 0, "CPU time of a GetToken of one of the warm tokens, against one and the same."},
	{"million_page_ms", informal, 0, "Milliseconds for one page of 1,000 of the clients; median."},
	{"watch_10k_rss_mib", atMost, 200, "Memory (RSS) in MiB of a server with 10,000 streams of WatchToken on 100 connections."},
	{"mixed_failed_calls", exactly, 0, "Calls that fail in minutes of a mixed load: warm, cold and renewed tokens, lists, watches that come and go."},
	{"mixed_heap_end_vs_begin", atMost, 1.25, "Reachable memory in the last quarter of that load, against the second quarter."},
	{"mixed_goroutines_end_vs_begin", atMost, 1.25, "The same for goroutines."},
	{"vault_100k_start_s", atMost, 2, "Seconds from the start of a server with 100,000 clients in a real Vault with Raft until its first call is answered."},
	{"vault_100k_rss_mib", atMost, 1024, "Its memory (RSS) in MiB once all of the clients have a warm token."},
	{"vault_100k_warm_cpu_vs_one", informal, 0, "CPU time of a GetToken of one of the warm tokens, against one and the same."},
	{"vault_100k_page_ms", informal, 0, "Milliseconds for one page of 1,000 of the clients; median."},
	{"check_token_ms_beyond_round_trips", atMost, 50, "Milliseconds that a check of a lookup down to the token takes beyond the sum of its own round trips; median."},
	{"sweep_10k_s", atMost, 3, "Seconds of a sweep over 10,000 clients of an embedded store, down to the secret, by a server that has read none of them."},
	{"sweep_10k_vault_s", atMost, 30, "The same on a real Vault."},
}

// String returns the bound as the document writes it.
func (f figure) String() string {
	if f.want == informal {
		return string(informal)
	}
	return fmt.Sprintf("%s %v", f.want, f.bound)
}

// holds reports whether value satisfies the bound.
func (f figure) holds(value float64) bool {
	switch f.want {
	case atMost:
		return value <= f.bound
	case atLeast:
		return value >= f.bound
	case exactly:
		return value == f.bound
	default:
		return true
	}
}

// figures is name → measured value.
type figures map[string]float64

// report prints the figures and returns what is wrong with them.
func (measured figures) report(w io.Writer) error {
	var errs []error
	for _, f := range table {
		value, ok := measured[f.name]
		if !ok {
			continue
		}
		if _, err := fmt.Fprintf(w, "figure %s %.3f\n", f.name, value); err != nil {
			return err
		}
		if math.IsNaN(value) || math.IsInf(value, 0) {
			errs = append(errs, fmt.Errorf("%s was not measured", f.name))
		} else if !f.holds(value) {
			errs = append(errs, fmt.Errorf("%s is %.3f; it must be %s", f.name, value, f))
		}
	}
	return errors.Join(errs...)
}

// median returns the middle of values, which it sorts, and NaN if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	half := len(values) / 2
	if len(values)%2 == 1 {
		return values[half]
	}
	return (values[half-1] + values[half]) / 2
}

// percentile returns the value below which share of the durations lie, which it
// sorts.
func percentile(durations []time.Duration, share float64) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	slices.Sort(durations)
	return durations[min(int(share*float64(len(durations))), len(durations)-1)]
}
