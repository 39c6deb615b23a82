// Command testservers puts the servers that the tests run against into the cache: the real Vault, which it builds, and glewlwyd, which
// comes from Debian's packages and is left out where there are none. Progress is on stderr; it prints where they are. Run by `make test-servers`; running it again costs nothing.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tokenbroker/tokenbroker/test/chromium"
	"github.com/tokenbroker/tokenbroker/test/glewlwyd"
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
	// Its tests skip without it, or fail in CI; the others need not wait for that.
	if folder, err := glewlwyd.Install(ctx, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "testservers:", err)
	} else {
		fmt.Println(folder)
	}
	if folder, err := chromium.Install(ctx, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "testservers:", err)
	} else {
		fmt.Println(folder)
	}
}
