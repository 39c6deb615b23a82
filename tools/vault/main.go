// Command vault-for-tests serves HashiCorp Vault 1.21.0, the real one, with the few engines that this project's tests call.
//
// It is Vault's core and HTTP handler on a socket: uninitialised at first, initialised and unsealed over its API like any other
// server. Left out is what costs build time: the CLI, the UI, telemetry, every cloud's plugins and storage backends.
//
// Vault is under the Business Source License: this module is for tests and development only and is never linked into the product,
// which is why it has a go.mod of its own.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/vault"
	"github.com/hashicorp/vault/version"
)

// options are the command line.
type options struct {
	storage  string
	dir      string
	listen   string
	tlsCert  string
	tlsKey   string
	logLevel string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "vault-for-tests:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. The first line on stdout is a JSON object with the address; logs go to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts, err := parse(args, stderr)
	if err != nil {
		return err
	}
	logger := hclog.New(&hclog.LoggerOptions{Name: "vault", Level: hclog.LevelFromString(opts.logLevel), Output: stderr})

	// The socket comes first: with port 0 the core must be told which address it advertises.
	listener, scheme, err := listen(opts)
	if err != nil {
		return err
	}
	defer listener.Close()
	address := scheme + "://" + listener.Addr().String()

	core, err := newCore(opts, address, logger)
	if err != nil {
		return err
	}
	handler := func(config *configutil.Listener) http.Handler {
		return vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: config})
	}
	core.SetClusterListenerAddrs([]*net.TCPAddr{{IP: net.IPv4(127, 0, 0, 1)}})
	core.SetClusterHandler(handler(&configutil.Listener{}))

	server := &http.Server{
		Handler:           handler(listenerLimits(listener.Addr().String())),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       5 * time.Minute,
		ErrorLog:          logger.StandardLogger(nil),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	if err := json.NewEncoder(stdout).Encode(map[string]any{
		"address": address, "version": version.GetVersion().Version, "storage": opts.storage, "pid": os.Getpid(),
	}); err != nil {
		return fmt.Errorf("printing the address: %w", err)
	}
	select {
	case err := <-served:
		return fmt.Errorf("serving %s: %w", address, err)
	case <-ctx.Done():
	}
	server.Close()
	return core.Shutdown()
}

// parse reads the command line and reports what is wrong with it, with the flag's name.
func parse(args []string, stderr io.Writer) (options, error) {
	var opts options
	flags := flag.NewFlagSet("vault-for-tests", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&opts.storage, "storage", "inmem", "where data is kept: raft (in -dir) or inmem")
	flags.StringVar(&opts.dir, "dir", "", "folder of the Raft data; made if missing")
	flags.StringVar(&opts.listen, "listen", "127.0.0.1:0", "address of the API; loopback only")
	flags.StringVar(&opts.tlsCert, "tls-cert", "", "PEM certificate; without one the API is plain HTTP")
	flags.StringVar(&opts.tlsKey, "tls-key", "", "PEM private key of -tls-cert")
	flags.StringVar(&opts.logLevel, "log-level", "warn", "trace, debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	switch {
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q: every setting is a flag", flags.Arg(0))
	case opts.storage != "raft" && opts.storage != "inmem":
		return opts, fmt.Errorf("-storage is %q: use raft or inmem", opts.storage)
	case opts.storage == "raft" && opts.dir == "":
		return opts, errors.New("-storage=raft needs -dir, the folder of its data")
	case (opts.tlsCert == "") != (opts.tlsKey == ""):
		return opts, errors.New("-tls-cert and -tls-key go together: give both or neither")
	case hclog.LevelFromString(opts.logLevel) == hclog.NoLevel:
		return opts, fmt.Errorf("-log-level is %q: use trace, debug, info, warn or error", opts.logLevel)
	}
	if opts.dir != "" {
		dir, err := filepath.Abs(opts.dir)
		if err != nil {
			return opts, fmt.Errorf("-dir: %w", err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return opts, fmt.Errorf("-dir: %w", err)
		}
		opts.dir = dir
	}
	return opts, nil
}

// listen opens the API's socket, with TLS if a certificate was given. It refuses an address that others could reach.
func listen(opts options) (net.Listener, string, error) {
	address, err := net.ResolveTCPAddr("tcp", opts.listen)
	if err != nil {
		return nil, "", fmt.Errorf("-listen: %w", err)
	}
	if !address.IP.IsLoopback() {
		return nil, "", fmt.Errorf("-listen is %s: a Vault for tests listens on loopback only, e.g. 127.0.0.1:0", opts.listen)
	}
	// The certificate is read before the port is taken, so that a mistake there leaves nothing behind.
	var config *tls.Config
	if opts.tlsCert != "" {
		pair, err := tls.LoadX509KeyPair(opts.tlsCert, opts.tlsKey)
		if err != nil {
			return nil, "", fmt.Errorf("-tls-cert, -tls-key: %w", err)
		}
		config = &tls.Config{
			Certificates: []tls.Certificate{pair},
			MinVersion:   tls.VersionTLS12,
			NextProtos:   []string{"h2", "http/1.1"},
			// As Vault's own listener: ask, so that cert auth can work, but demand nothing.
			ClientAuth: tls.RequestClientCert,
		}
	}
	listener, err := net.ListenTCP("tcp", address)
	if err != nil {
		return nil, "", fmt.Errorf("-listen: %w", err)
	}
	if config == nil {
		return listener, "http", nil
	}
	return tls.NewListener(listener, config), "https", nil
}
