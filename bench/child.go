package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"

	"github.com/tokenbroker/tokenbroker/server"
)

// childArgument makes this program one of the measured servers. A server has a
// process of its own so that its CPU time and allocations are nobody else's.
const childArgument = "child"

// childConfig says which server to be; it is the argument after [childArgument].
type childConfig struct {
	TLS server.TLSFiles
	// Caller is the identity that may call the broker.
	Caller string
	// StoreFile is the broker's embedded store; "" makes the child an echo.
	StoreFile string
	// Without is a feature that this server does not have, one of [features]; "" has all.
	Without string
	// Vault, if it has an address, is the broker's store instead; StoreFile then only
	// names what lies beside it.
	Vault vaultPlace
	// LocalTokens makes the broker get its tokens, which it does not share, within its
	// process: for figures that need more of them than there is time to request.
	LocalTokens bool
	// Alone means that no other replica needs to be told of changes, or is listened to.
	Alone bool
	// Cached is how many clients and tokens the broker keeps in memory; 0 takes its default.
	Cached int
	// EchoBytes is the size of the echo's encoded answer.
	EchoBytes int
	// EchoKeys is how many clients it has an answer of their own for; 0 has one for all.
	EchoKeys int
}

// usage is what a server has used since it started.
type usage struct {
	// CPU is user and system time in nanoseconds.
	CPU int64
	// Mallocs counts heap objects.
	Mallocs uint64
	// Reads and Writes are the broker's calls of its store, without those of the feed.
	Reads, Writes int64
}

// memory is what a server holds. It collects garbage first.
type memory struct {
	// Resident is the process's memory in bytes, Mapped what of it is pages of files,
	// which the kernel takes back when it needs them; both 0 where the kernel does not say.
	Resident, Mapped int64
	// Heap is what is reachable, in bytes.
	Heap       uint64
	Goroutines int
}

// What the parent may write to a server's standard input, a line each; each is
// answered by one line of JSON. The end of the input ends the server, so that none
// outlives its parent.
const (
	commandUsage   = "usage"
	commandMemory  = "memory"
	commandProfile = "profile" // followed by a space and the path to write to
	commandStop    = "stop"    // ends the profile
)

// answer is a line that a server writes: the first has the address, an answer to
// commandUsage the usage, one to commandMemory the memory.
type answer struct {
	Address string `json:",omitempty"`
	Usage   usage
	Memory  memory
	Error   string `json:",omitempty"`
}

func isChild(args []string) bool { return len(args) == 3 && args[1] == childArgument }

// childMain is main of a server; it returns the exit status.
func childMain(encoded string, stdin io.Reader, stdout, stderr io.Writer) int {
	var cfg childConfig
	err := json.Unmarshal([]byte(encoded), &cfg)
	if err == nil {
		err = serveChild(cfg, stdin, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench server: %v\n", err)
		return 1
	}
	return 0
}

func serveChild(cfg childConfig, stdin io.Reader, stdout io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	calls := &storeCalls{}
	serve := func(ctx context.Context) error { return serveBroker(ctx, cfg, listener, calls) }
	if cfg.StoreFile == "" {
		serve = func(ctx context.Context) error { return serveEcho(ctx, cfg, listener) }
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx)
		cancel()
	}()
	controlled := make(chan error, 1)
	go func() { controlled <- control(listener.Addr().String(), calls, stdin, stdout) }()
	// A server that failed does not wait for its input's end: the process ends, and
	// the goroutine that reads with it.
	select {
	case err = <-controlled:
		cancel()
		return errors.Join(err, <-served)
	case err = <-served:
		return err
	}
}

// control answers the parent's commands until they end.
func control(address string, calls *storeCalls, stdin io.Reader, stdout io.Writer) error {
	encoder := json.NewEncoder(stdout)
	if err := encoder.Encode(answer{Address: address}); err != nil {
		return err
	}
	var profile *os.File
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		command, path, _ := strings.Cut(lines.Text(), " ")
		var a answer
		var err error
		switch command {
		case commandUsage:
			a.Usage, err = currentUsage(calls)
		case commandMemory:
			a.Memory, err = currentMemory()
		case commandProfile:
			profile, err = startProfile(path)
		case commandStop:
			err = stopProfile(profile)
		default:
			err = fmt.Errorf("command %q is unknown", command)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := encoder.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

func currentUsage(calls *storeCalls) (usage, error) {
	cpu, err := processCPU()
	if err != nil {
		return usage{}, err
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return usage{CPU: cpu.Nanoseconds(), Mallocs: memory.Mallocs, Reads: calls.reads.Load(), Writes: calls.writes.Load()}, nil
}

// startProfile begins a CPU profile at path; the allocations' goes beside it.
func startProfile(path string) (*os.File, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return f, pprof.StartCPUProfile(f)
}

// stopProfile ends the CPU profile and writes all allocations since the start.
func stopProfile(cpu *os.File) error {
	if cpu == nil {
		return errors.New("no profile was started")
	}
	pprof.StopCPUProfile()
	allocs, err := os.Create(strings.TrimSuffix(cpu.Name(), ".cpu.pprof") + ".allocs.pprof")
	if err != nil {
		return errors.Join(err, cpu.Close())
	}
	return errors.Join(cpu.Close(), pprof.Lookup("allocs").WriteTo(allocs, 0), allocs.Close())
}
