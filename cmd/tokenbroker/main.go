// Command tokenbroker keeps OAuth client secrets in Vault, indexes them by
// identifier, and hands out upstream access tokens over gRPC.
//
// Exit status: 0 when done, 1 when the work failed, 2 when the command line or the
// configuration is wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/internal/completion"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "devel"

// environmentPrefix begins the names of the variables that flags can be set by.
const environmentPrefix = "TOKENBROKER_"

// testPrefix begins the names of variables that are for the tests and their servers.
const testPrefix = "TOKENBROKER_TEST_"

// commands is the command line. Every flag that has an env tag can be set by that
// variable; the flag wins.
type commands struct {
	Serve       serveCommand       `cmd:"" help:"Serve the API until SIGTERM or SIGINT."`
	Dev         devCommand         `cmd:"" help:"Serve a ready-made setup on this machine: embedded store, authorization server, certificates, a registered client."`
	CheckConfig checkConfigCommand `cmd:"" help:"Say everything that is wrong with a configuration file, by line."`
	Access      accessCommand      `cmd:"" help:"Ask an access table: who may do what, and why."`
	Audit       auditCommand       `cmd:"" help:"Check audit files."`
	Provider    providerCommand    `cmd:"" help:"List, show and check profiles of providers."`
	VaultPolicy vaultPolicyCommand `cmd:"" help:"Print the least Vault policy that the broker needs."`
	Doctor      doctorCommand      `cmd:"" help:"Look at everything that a configuration needs on this machine: files, certificates, store, clock, ports."`
	Health      healthCommand      `cmd:"" help:"Ask a running server whether it is healthy; for container health checks."`
	Completion  completionCommand  `cmd:"" help:"Print the completion script of a shell."`
	Version     versionCommand     `cmd:"" help:"Print the version."`
}

// process is what a command needs of the process it runs in.
type process struct {
	stdout, stderr io.Writer
}

// usageError marks errors that end with status 2.
type usageError struct{ error }

// Unwrap returns the error itself.
func (e usageError) Unwrap() error { return e.error }

func main() {
	// net/http prints through package log, and what it prints may quote an answer,
	// part of a token included. Nothing of ours uses that package.
	log.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { signal.Reset(syscall.SIGINT) }) // a second Ctrl-C ends the process at once
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "tokenbroker: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		os.Exit(2)
	}
	os.Exit(1)
}

// run runs one command line.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	var cli commands
	done := errors.New("done")
	parser, err := kong.New(&cli,
		kong.Name("tokenbroker"),
		kong.Description("Keeps OAuth client secrets in Vault and hands out access tokens: callers ask by name over gRPC and never see the secret.\n\nBegin with `tokenbroker dev --demo`."),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { panic(done) }), // --help: kong has printed it
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(&process{stdout: stdout, stderr: stderr}),
	)
	if err != nil {
		return err
	}
	if len(args) > 0 && args[0] == completion.Word {
		completer(environ).Complete(ctx, parser.Model, args[1:], stdout)
		return nil
	}
	return catch(done, func() error {
		if err := checkEnvironment(parser.Model, environ); err != nil {
			return usageError{err}
		}
		parsed, err := parser.Parse(args)
		if err != nil {
			return usageError{fmt.Errorf("%w; see `tokenbroker --help`", err)}
		}
		return parsed.Run()
	})
}

// catch runs work and swallows a panic with value done, which is how kong says
// that --help was all there was to do.
func catch(done error, work func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil && cause != any(done) {
			panic(cause)
		}
	}()
	return work()
}

// checkEnvironment refuses variables with our prefix that no flag reads: a typing
// error there would else silently mean the default.
func checkEnvironment(model *kong.Application, environ []string) error {
	var known []string
	for _, command := range model.Leaves(false) {
		for _, flag := range command.Flags {
			known = append(known, flag.Envs...)
		}
	}
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, environmentPrefix) && !strings.HasPrefix(name, testPrefix) && !slices.Contains(known, name) {
			slices.Sort(known)
			return fmt.Errorf("environment variable %s is unknown; known are %s", name, strings.Join(slices.Compact(known), ", "))
		}
	}
	return nil
}
