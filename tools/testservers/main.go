// Command testservers puts the servers that the tests run against into the cache: the real Vault, which it builds, and glewlwyd and
// django-oauth-toolkit, which come from Debian's packages and are left out where there are none. Progress is on stderr; it prints where they are. Run by `make test-servers`; running it again costs nothing.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tokenbroker/tokenbroker/test/chromium"
	"github.com/tokenbroker/tokenbroker/test/djangotoolkit"
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
	// Their tests skip without them, or fail in CI; the others need not wait for that.
	for _, install := range []func(context.Context, io.Writer) (string, error){glewlwyd.Install, djangotoolkit.Install, chromium.Install} {
		if folder, err := install(ctx, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "testservers:", err)
		} else {
			fmt.Println(folder)
		}
	}
}
