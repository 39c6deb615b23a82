// Command testservers builds the real Vault that the tests run against into the cache, with its progress on stderr, and prints where
// it is. Run by `make test-servers`; running it again costs nothing.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tokenbroker/tokenbroker/test/realvault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	program, err := realvault.Build(ctx, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testservers:", err)
		os.Exit(1)
	}
	fmt.Println(program)
}
