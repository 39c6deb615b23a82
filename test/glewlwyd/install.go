package glewlwyd

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// template is the database as it is before a server's first start.
const template = "template.db"

// debian is where the program comes from.
func debian() harness.DebianServer {
	return harness.DebianServer{Layout: "glewlwyd-1", Packages: []string{"glewlwyd", "glewlwyd-common"}, Tools: []string{"sqlite3"}, Needed: needed, Finish: makeTemplate}
}

// Install puts glewlwyd into the cache, unless it is there, and returns its folder. harness.ErrNoApt where there are no Debian packages.
func Install(ctx context.Context, progress io.Writer) (string, error) {
	return debian().Install(ctx, progress)
}

// needed leaves out what serves the package's installation and its pages only.
func needed(name string) bool {
	switch {
	case strings.HasPrefix(name, "libjs-"), strings.HasSuffix(name, "-perl"):
		return false
	}
	return strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "glewlwyd")
}

// makeTemplate makes the database that each server starts with a copy of.
func makeTemplate(ctx context.Context, folder string) error {
	packed, err := os.Open(filepath.Join(folder, "usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz"))
	if err != nil {
		return err
	}
	defer packed.Close()
	sql, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}
	program := filepath.Join(folder, "usr/bin/sqlite3")
	if _, err := os.Stat(program); err != nil {
		program = "sqlite3" // the system's
	}
	command := exec.CommandContext(ctx, program, "-bail", filepath.Join(folder, template))
	command.Env = append(os.Environ(), harness.LibraryPath(folder))
	command.Stdin = sql
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("making its database: %s: %w: %s", program, err, output)
	}
	return nil
}
