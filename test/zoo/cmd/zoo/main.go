// Command zoo plays authorization servers that depart from the standards, to try provider profiles against them.
//
// Exit status: 0 when done, 1 when the work failed, 2 when the command line is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tokenbroker/tokenbroker/test/zoo"
)

const usage = `The provider zoo plays authorization servers that depart from the standards.

  zoo --listen 127.0.0.1:8443 --ca-file zoo-ca.pem    serve all quirks until SIGINT
  zoo --list                                          list them, with the profile snippets that handle them
  zoo --profile expires-on                            print a whole profile for one of them

Try a profile against a quirk: serve the zoo, give its CA to the broker (upstream.ca_file) and allow it loopback
(upstream.allowed_addresses: [127.0.0.0/8]), register a client whose token endpoint is https://127.0.0.1:8443/zoo/QUIRK/token
with client_id "zoo" and secret "zoo-secret", and call GetToken.

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	var wrong usageError
	switch {
	case err == nil:
	case errors.As(err, &wrong):
		fmt.Fprintf(os.Stderr, "zoo: %v; see zoo --help\n", err)
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "zoo: %v\n", err)
		os.Exit(1)
	}
}

// usageError marks errors that end with status 2.
type usageError struct{ error }

// run runs one command line.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("zoo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	listen := flags.String("listen", "", "serve on this address of loopback, such as 127.0.0.1:0")
	plain := flags.Bool("insecure-plaintext", false, "serve without TLS")
	caFile := flags.String("ca-file", "", "write the authority of the server's certificate here, PEM")
	list := flags.Bool("list", false, "list the quirks")
	name := flags.String("profile", "", "print a whole profile for this quirk")
	origin := flags.String("origin", "https://127.0.0.1:8443", "where the zoo of --profile is served")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return nil
	case err != nil:
		return usageError{err}
	case flags.NArg() > 0:
		return usageError{fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	}
	switch {
	case *list:
		fmt.Fprint(stdout, zoo.Guide(*origin))
		return nil
	case *name != "":
		quirk, ok := zoo.Find(*name)
		if !ok {
			return usageError{fmt.Errorf("there is no quirk %q; --list names them", *name)}
		}
		fmt.Fprint(stdout, quirk.Definition(*origin))
		return nil
	case *listen == "":
		return usageError{errors.New("nothing to do: --listen, --list or --profile is missing")}
	}
	return serve(ctx, *listen, *plain, *caFile, stdout)
}

func serve(ctx context.Context, address string, plain bool, caFile string, stdout io.Writer) error {
	server, err := zoo.Serve(address, plain, zoo.New())
	if err != nil {
		return err
	}
	if caFile != "" && !plain {
		if err := os.WriteFile(caFile, server.CA, 0o600); err != nil {
			return errors.Join(err, server.Close())
		}
	}
	fmt.Fprintf(stdout, "zoo: serving %s/ (client %q, secret %q)\n", server.Origin, zoo.ClientID, zoo.ClientSecret)
	<-ctx.Done()
	return server.Close()
}
