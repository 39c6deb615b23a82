package realvault

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// builtProgram returns where the Vault built from tools/vault is or would be: a folder of the cache named after Vault's version and
// a hash of the sources, so that checkouts share it and none uses a stale one.
func builtProgram() (program, sources string, err error) {
	root, err := harness.Root()
	if err != nil {
		return "", "", err
	}
	cache, err := harness.CacheDir()
	if err != nil {
		return "", "", err
	}
	sources = filepath.Join(root, "tools", "vault")
	version, sum, err := identify(sources)
	if err != nil {
		return "", "", err
	}
	return filepath.Join(cache, "vault-"+version+"-"+sum, "vault"), sources, nil
}

var vaultRequirement = regexp.MustCompile(`(?m)^\s*github\.com/hashicorp/vault v(\S+)`)

// identify returns Vault's version and a hash over everything in the folder that decides what is built.
func identify(sources string) (version, sum string, err error) {
	entries, err := os.ReadDir(sources) // sorted by name
	if err != nil {
		return "", "", fmt.Errorf("reading Vault's build instructions: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.GOOS, runtime.GOARCH, buildFlags)
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || (!strings.HasSuffix(name, ".go") && name != "go.mod" && name != "go.sum") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(sources, name))
		if err != nil {
			return "", "", fmt.Errorf("reading Vault's build instructions: %w", err)
		}
		fmt.Fprintf(hash, "%s %d\n", name, len(content))
		hash.Write(content)
		if found := vaultRequirement.FindSubmatch(content); name == "go.mod" && found != nil {
			version = string(found[1])
		}
	}
	if version == "" {
		return "", "", fmt.Errorf("%s requires no github.com/hashicorp/vault", filepath.Join(sources, "go.mod"))
	}
	return version, fmt.Sprintf("%x", hash.Sum(nil)[:6]), nil
}

// buildFlags make the program the same on every machine; without symbol tables and debugging data it is built sooner and half as big.
var buildFlags = []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-gcflags=all=-dwarf=false"}

// Build builds the Vault of tools/vault into the cache, unless it is there, and returns its path. From nothing that is five minutes of
// CPU, so it tells progress every few seconds. Concurrent callers wait for one build; the program appears whole or not at all.
func Build(ctx context.Context, progress io.Writer) (string, error) {
	program, sources, err := builtProgram()
	if err != nil {
		return "", err
	}
	unlock, err := harness.Lock(filepath.Dir(program) + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(program); err == nil {
		fmt.Fprintln(progress, "vault: is built:", program)
		return program, nil
	}
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return "", fmt.Errorf("building Vault: %w", err)
	}
	// Whatever has this name was left by a build that died: the lock is ours.
	partial := program + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", fmt.Errorf("building Vault: %w", err)
	}
	if err := compile(ctx, sources, partial, progress); err != nil {
		return "", err
	}
	if err := os.Rename(partial, program); err != nil {
		return "", fmt.Errorf("building Vault: %w", err)
	}
	return program, nil
}

// compile downloads, counts and compiles. `go build -v` prints a line for each package that it compiles, which is the progress.
func compile(ctx context.Context, sources, output string, progress io.Writer) error {
	start := time.Now()
	var downloads, total, compiled atomic.Int64
	report := func() {
		took := time.Since(start).Round(time.Second)
		if total.Load() == 0 {
			fmt.Fprintf(progress, "vault: downloading modules: %d (%s)\n", downloads.Load(), took)
			return
		}
		fmt.Fprintf(progress, "vault: compiling packages: %d of at most %d (%s)\n", compiled.Load(), total.Load(), took)
	}
	ctx, cancel := context.WithCancel(ctx)
	reported := make(chan struct{})
	defer func() { cancel(); <-reported }()
	go func() {
		defer close(reported)
		ticker := time.NewTicker(10 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				report()
			}
		}
	}()

	fmt.Fprintln(progress, "vault: building the real Vault from", sources, "(about 5 minutes of CPU, once)")
	var packages int64
	err := goCommand(ctx, sources, []string{"list", "-deps", "."}, func(line string) {
		if strings.HasPrefix(line, "go: downloading") {
			downloads.Add(1)
		} else {
			packages++
		}
	})
	if err != nil {
		return err
	}
	total.Store(packages)
	args := append([]string{"build", "-v", "-o", output}, append(buildFlags, ".")...)
	if err := goCommand(ctx, sources, args, func(string) { compiled.Add(1) }); err != nil {
		return err
	}
	report()
	return nil
}

// goCommand runs the go command in a folder and calls each for every line that it prints. Its error has the last lines.
func goCommand(ctx context.Context, dir string, args []string, each func(line string)) error {
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = dir
	// Without cgo the program needs neither a C compiler nor this machine's libraries. A workspace of the developer's stays out.
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	read, write := io.Pipe()
	command.Stdout, command.Stderr = write, write

	var last []string
	scanned := make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(read)
		for lines.Scan() {
			each(lines.Text())
			if last = append(last, lines.Text()); len(last) > 20 {
				last = last[1:]
			}
		}
		scanned <- lines.Err()
		_, _ = io.Copy(io.Discard, read) // a line too long for the scanner must not block the command
	}()
	err := command.Run()
	write.Close()
	scanErr := <-scanned
	if err != nil {
		return fmt.Errorf("building Vault: go %s: %w:\n%s", args[0], err, strings.Join(last, "\n"))
	}
	if scanErr != nil && !errors.Is(scanErr, bufio.ErrTooLong) {
		return fmt.Errorf("building Vault: go %s: %w", args[0], scanErr)
	}
	return nil
}
