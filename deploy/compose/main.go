// Command compose prepares what docker-compose.yml shows: certificates and
// configuration, a Vault that is initialised, unsealed and has the broker's
// policy, and a small authorization server.
//
// It is for demonstration: keys, the unseal key and the root token lie in one
// folder, readable to everybody on the machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

type commands struct {
	Files               filesCommand               `cmd:"" help:"Write certificates and configuration into a folder."`
	Vault               vaultCommand               `cmd:"" help:"Initialise and unseal Vault, mount KV version 2, write policy and AppRole, put the broker's credentials into the folder."`
	AuthorizationServer authorizationServerCommand `cmd:"" help:"Serve an authorization server that knows one client."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var cli commands
	parsed := kong.Parse(&cli, kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(slog.New(slog.NewTextHandler(os.Stderr, nil))))
	if err := parsed.Run(); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "compose: %v\n", err)
		os.Exit(1)
	}
}
