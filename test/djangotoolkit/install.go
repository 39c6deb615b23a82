package djangotoolkit

import (
	"context"
	"io"
	"strings"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// debian is where the library comes from. The interpreter is the system's, which its compiled modules were made for.
func debian() harness.DebianServer {
	return harness.DebianServer{Layout: "djangotoolkit-1", Packages: []string{"python3-django-oauth-toolkit"}, Needed: func(name string) bool {
		return strings.HasPrefix(name, "python3-") || strings.HasPrefix(name, "lib") && !strings.HasPrefix(name, "libjs-")
	}}
}

// Install puts django-oauth-toolkit into the cache, unless it is there, and returns its folder. harness.ErrNoApt where there are no
// Debian packages.
func Install(ctx context.Context, progress io.Writer) (string, error) {
	return debian().Install(ctx, progress)
}
