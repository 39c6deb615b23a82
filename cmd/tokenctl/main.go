// Command tokenctl is the operator's tool: it registers clients, stages, verifies, promotes, rolls back
// and retires the secrets of clients at a broker, rotates them, and asks for tokens.
//
// It guards one invariant: a secret never stands on a command line, in an environment
// variable, in what is printed or in an error. Secrets come from a terminal without
// echo, from files or from standard input; an access token is printed only with --show.
// Files that are kept, those of "client apply", say where a secret is and never hold one.
//
// docs/tokenctl.md has the commands, the configuration file and the exit statuses.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/internal/completion"
	"github.com/tokenbroker/tokenbroker/internal/hardening"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "devel"

// Environment variables; none of them may hold a secret.
const (
	environmentPrefix = "TOKENCTL_"
	configVariable    = "TOKENCTL_CONFIG"
	contextVariable   = "TOKENCTL_CONTEXT"
)

// commands is the command line.
type commands struct {
	globals
	Context    contextCommand    `cmd:"" help:"Say which brokers there are and who you are there."`
	Client     clientCommand     `cmd:"" help:"Register clients and keep their settings."`
	Provider   providerCommand   `cmd:"" help:"See which profiles of authorization servers there are."`
	Secret     secretCommand     `cmd:"" help:"Change a client's secret step by step."`
	Rotate     rotateCommand     `cmd:"" help:"Change a client's secret in one go, and watch it."`
	Rotations  rotationsCommand  `cmd:"" help:"See, watch and abort rotations."`
	Token      tokenCommand      `cmd:"" help:"Get access tokens."`
	Check      checkCommand      `cmd:"" help:"Say why a client gets no token, link by link, and what mends it."`
	Sweep      sweepCommand      `cmd:"" help:"Check all clients, and say what keeps how many from their tokens."`
	Explain    explainCommand    `cmd:"" help:"Say what happened to a call that failed, by its request id."`
	Watch      watchCommand      `cmd:"" help:"Follow a client's access tokens; they are hidden without --show-token."`
	Access     accessCommand     `cmd:"" help:"Ask who may have what."`
	Audit      auditCommand      `cmd:"" help:"Check audit files."`
	Doctor     doctorCommand     `cmd:"" help:"Look at the way from here to the broker, at the broker, and at what a restored store may have wrong."`
	Whoami     whoamiCommand     `cmd:"" help:"Ask the broker who you are and what you may do."`
	Completion completionCommand `cmd:"" help:"Print the completion script of a shell."`
	Man        manCommand        `cmd:"" help:"Write the manual page."`
	Version    versionCommand    `cmd:"" help:"Print the version."`
}

// globals are the flags of every command.
type globals struct {
	Config  string        `help:"Configuration file; by default $$XDG_CONFIG_HOME/tokenctl/config.yaml or ~/.config/tokenctl/config.yaml ($$TOKENCTL_CONFIG)." placeholder:"FILE" complete:"file"`
	Context string        `help:"Context of the configuration file; its current one by default ($$TOKENCTL_CONTEXT)." placeholder:"NAME" complete:"context"`
	Output  string        `short:"o" help:"text for people; json or yaml, with times by RFC 3339, for programs." placeholder:"text|json|yaml" enum:"text,json,yaml,markdown" default:"text"`
	Timeout time.Duration `help:"How long to wait at most: by default 1m, 20m to verify, and without end to watch." placeholder:"DURATION"`
}

// process is what commands need of the process they run in.
type process struct {
	stdin          *os.File
	stdout, stderr io.Writer
	getenv         func(string) string
}

// session is one command line: the process and the flags of every command.
type session struct {
	process
	globals
	// scrubber knows the secrets that this command line has read.
	scrubber scrubber
}

func main() {
	// A dump of this process's memory would hold what is typed into it. Where that
	// cannot be turned off the tool is still better than what would be used instead.
	_ = hardening.NoCoreDumps()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run runs one command line and returns its exit status.
func run(ctx context.Context, args, environ []string, stdin *os.File, stdout, stderr io.Writer) int {
	s := &session{process: process{stdin: stdin, stdout: stdout, stderr: stderr, getenv: lookup(environ)}}
	if len(args) > 0 && args[0] == completion.Word {
		return s.complete(ctx, args[1:])
	}
	err := s.run(ctx, args, environ)
	if err == nil {
		return exitDone
	}
	p := problemOf(ctx, err)
	s.report(p)
	return p.Status
}

func (s *session) run(ctx context.Context, args, environ []string) error {
	done := errors.New("done")
	var cli commands
	parser, err := newParser(&cli, s.stdout, s.stderr, func(int) { panic(done) }) // --help: kong has printed it
	if err != nil {
		return err
	}
	return catch(done, func() error {
		if err := checkEnvironment(environ); err != nil {
			return err
		}
		parsed, err := parser.Parse(args)
		if err != nil {
			return parseProblem(err)
		}
		s.globals = cli.globals
		s.Config, s.Context = orElse(s.Config, s.getenv(configVariable)), orElse(s.Context, s.getenv(contextVariable))
		if s.Timeout < 0 {
			return usage("--timeout must be above 0")
		}
		if _, writes := parsed.Selected().Target.Addr().Interface().(interface{ markdown() }); s.Output == outputMarkdown && !writes {
			s.Output = outputText
			return usage("--output markdown is for `tokenctl check`; here it is text, json or yaml")
		}
		parsed.BindTo(ctx, (*context.Context)(nil))
		return parsed.Run(s)
	})
}

func newParser(cli *commands, stdout, stderr io.Writer, exit func(int)) (*kong.Kong, error) {
	return kong.New(cli,
		kong.Name("tokenctl"), kong.Description(appHelp),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 80}),
		kong.Writers(stdout, stderr), kong.Exit(exit),
	)
}

const appHelp = `The operator's tool of tokenbroker: changes the secrets of clients without a gap, and gets tokens.

Begin with "tokenctl context set", then "tokenctl whoami". A secret is never an argument or an environment variable: you are asked for it, or it comes from a file or standard input.

Exit statuses say the cause: 0 done, 2 usage, 3 not allowed, 4 not found, 5 precondition, 6 unavailable, 7 aborted, 8 deadline, 10 needs an operator, 13 a check found a fault; docs/tokenctl.md has all.`

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

// parseProblem says what is wrong with a command line. What follows a whole command, and
// the values of flags, are not repeated: somebody may have typed a secret there.
func parseProblem(err error) error {
	var parse *kong.ParseError
	if errors.As(err, &parse) && strings.HasPrefix(err.Error(), "unexpected argument") {
		if selected := parse.Context.Selected(); selected != nil && selected.Leaf() {
			return usage("%s takes no further argument; a secret is never one: it comes from a prompt, a file or standard input; see `%[1]s --help`", selected.FullPath())
		}
	}
	return usage("%s; see `tokenctl --help`", quotedValue.ReplaceAllString(err.Error(), ""))
}

// quotedValue is how a wrong value of a flag is repeated.
var quotedValue = regexp.MustCompile(`(?s) but got ".*"`)

// checkEnvironment refuses variables with our prefix that nothing reads. Their values,
// of which one may be meant as a secret, are not repeated.
func checkEnvironment(environ []string) error {
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, environmentPrefix) && !slices.Contains([]string{configVariable, contextVariable}, name) {
			return usage("environment variable %s is unknown; known are %s and %s", name, configVariable, contextVariable)
		}
	}
	return nil
}

// lookup returns os.Getenv of an environment.
func lookup(environ []string) func(string) string {
	return func(name string) string {
		for _, entry := range slices.Backward(environ) {
			if key, value, _ := strings.Cut(entry, "="); key == name {
				return value
			}
		}
		return ""
	}
}

func orElse(value, otherwise string) string {
	if value != "" {
		return value
	}
	return otherwise
}

// versionCommand prints the version.
type versionCommand struct{}

// Run implements the command.
func (c *versionCommand) Run(s *session) error {
	_, err := fmt.Fprintln(s.stdout, "tokenctl "+version)
	return err
}
