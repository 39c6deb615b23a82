// Package harness holds what the tests with real servers share: where their programs are kept, what happens when one is missing,
// how its process is owned, and a certificate authority of their own.
//
// It is imported by tests, by the packages of test/ that start such servers, by tools/testservers and bench, and by nothing that ships.
package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// ServersVariable is the environment variable that turns real servers off: with the value "none", tests that need one skip, in CI
// too. `make test-fast` sets it.
const ServersVariable = "TOKENBROKER_TEST_SERVERS"

// Remedy is what to run when a server is missing.
const Remedy = "make test-servers"

// SkipIfOff skips the test if real servers are turned off.
func SkipIfOff(t testing.TB) {
	t.Helper()
	if Off() {
		t.Skip(ServersVariable + "=none: tests without real servers")
	}
}

// Off reports whether real servers are turned off.
func Off() bool { return os.Getenv(ServersVariable) == "none" }

// Missing ends a test whose server is not there: a skip on a developer's machine, a failure in CI, where a skip would hide that
// nothing was tested.
func Missing(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%v; run `%s`", err, Remedy)
	}
	t.Skipf("%v; run `%s`", err, Remedy)
}

// Root returns the checkout's folder, found upwards from the working directory, which for a test is its package's folder.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the checkout: %w", err)
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module github.com/tokenbroker/tokenbroker\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding the checkout: no go.mod of tokenbroker in this folder or above; run inside the checkout")
		}
		dir = parent
	}
}

// CacheDir returns the folder where built servers are kept across checkouts: $TOKENBROKER_TEST_CACHE, or ~/.cache/tokenbroker.
func CacheDir() (string, error) {
	if dir := os.Getenv("TOKENBROKER_TEST_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w; set TOKENBROKER_TEST_CACHE", err)
	}
	return filepath.Join(home, ".cache", "tokenbroker"), nil
}
