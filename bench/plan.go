package main

import (
	"fmt"
	"io"
	"time"

	"github.com/tokenbroker/tokenbroker/test/realvault"
)

// plan says how long and how much is measured.
type plan struct {
	// rounds of each comparison; an odd number has a true middle.
	rounds int
	// costRounds are those of the comparison with servers that lack a feature.
	costRounds int
	// sdkCalls is how many calls of the Go client are timed in a round.
	sdkCalls int
	// warmup, closed, open and single are how long each half of a round lasts: before
	// anything counts, with callers that wait for their answers, at a fixed rate, and
	// with one caller.
	warmup, closed, open, single time.Duration
	// callers call at once, spread over connections.
	callers, connections int
	// coldTokens are asked for one after the other; herd callers ask for one at once,
	// and get their answer after herdPause: long enough for all of them to arrive.
	coldTokens, herd int
	herdPause        time.Duration
	// vaultTokens are asked for of a broker on a real Vault, which is started with the
	// options of vault.
	vaultTokens int
	vault       []realvault.Option
	// keys are as many warm tokens, of a client each, as are asked for in turn.
	keys int
	// stormClients have tokens that live for stormLifetime and are called stormRate
	// times a second in all.
	stormClients  int
	stormRate     float64
	stormLifetime time.Duration
	// swept clients are swept by that many sweeps.
	swept, sweeps int
	// long is how much the long scenarios do.
	long longPlan
	// profiles is the folder for profiles; "" writes none.
	profiles string
	// progress gets a line for each thing done.
	progress io.Writer
}

// fullPlan has many short rounds rather than few long ones: what else the machine
// does then disturbs some rounds and not the median.
func fullPlan() plan {
	return plan{
		rounds: 31, costRounds: 15, sdkCalls: 2_000_000, warmup: 2 * time.Second, closed: 600 * time.Millisecond, open: 600 * time.Millisecond, single: 200 * time.Millisecond,
		callers: 64, connections: 4, coldTokens: 400, herd: 1000, herdPause: time.Second,
		vaultTokens: 400, keys: 100_000, stormClients: 2000, stormRate: 1500, stormLifetime: 30 * time.Second,
		swept: 10_000, sweeps: 3,
		long: longPlan{clients: 1_000_000, vaultClients: 100_000, warm: 100_000, watches: 10_000, watchConnections: 100, mixed: 10 * time.Minute, sample: 5 * time.Second},
	}
}

func (p plan) printf(format string, values ...any) {
	_, _ = fmt.Fprintf(p.progress, format+"\n", values...) // progress is not the result
}
