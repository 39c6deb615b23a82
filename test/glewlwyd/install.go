package glewlwyd

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// ErrNoApt says that this machine has no packages of Debian.
var ErrNoApt = errors.New("no glewlwyd: it is taken from Debian's packages, and there is no apt-get")

// errMissing says that Install has not run.
var errMissing = errors.New("no glewlwyd in the cache")

// layout is part of the folder's name: raise it when Install makes something else of the same packages.
const layout = "glewlwyd-1"

// template is the database as it is before a server's first start.
const template = "template.db"

// installed returns the folder that Install makes.
func installed() (string, error) {
	cache, err := harness.CacheDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, layout)
	if _, err := os.Stat(filepath.Join(folder, template)); err != nil {
		if _, err := exec.LookPath("apt-get"); err != nil {
			return "", ErrNoApt
		}
		return "", errMissing
	}
	return folder, nil
}

// Install unpacks glewlwyd and those of its libraries that the machine has not into the cache, unless they are there, and returns the
// folder. Nothing is installed into the system, and no package's script is run. ErrNoApt where there are no Debian packages.
func Install(ctx context.Context, progress io.Writer) (string, error) {
	cache, err := harness.CacheDir()
	if err != nil {
		return "", err
	}
	unlock, err := harness.Lock(filepath.Join(cache, layout+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if folder, err := installed(); err == nil {
		fmt.Fprintln(progress, "glewlwyd: is there:", folder)
		return folder, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", ErrNoApt
	}
	folder := filepath.Join(cache, layout)
	partial := folder + ".partial" // whatever has this name was left by a run that died: the lock is ours
	for _, old := range []string{partial, folder} {
		if err := os.RemoveAll(old); err != nil {
			return "", fmt.Errorf("installing glewlwyd: %w", err)
		}
	}
	if err := unpack(ctx, partial, progress); err != nil {
		return "", fmt.Errorf("installing glewlwyd: %w", err)
	}
	if err := makeTemplate(ctx, partial); err != nil {
		return "", fmt.Errorf("making glewlwyd's database: %w", err)
	}
	if err := os.Rename(partial, folder); err != nil {
		return "", fmt.Errorf("installing glewlwyd: %w", err)
	}
	return folder, nil
}

// unpack downloads the packages and unpacks them into the folder.
func unpack(ctx context.Context, folder string, progress io.Writer) error {
	debs := filepath.Join(folder, "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	// What would be installed is what the machine has not.
	simulate := []string{"install", "--simulate", "--no-install-recommends", "glewlwyd", "sqlite3"}
	plan, err := run(ctx, "", "apt-get", simulate...)
	if err != nil && os.Geteuid() == 0 { // a fresh image has no package lists
		if _, err := run(ctx, "", "apt-get", "update"); err != nil {
			return err
		}
		plan, err = run(ctx, "", "apt-get", simulate...)
	}
	if err != nil {
		return fmt.Errorf("%w; run `apt-get update` as root", err)
	}
	packages := []string{}
	for line := range strings.Lines(plan) {
		words := strings.Fields(line)
		if len(words) > 1 && words[0] == "Inst" && needed(words[1]) {
			packages = append(packages, words[1])
		}
	}
	if !strings.Contains(strings.Join(packages, " ")+" ", "glewlwyd ") {
		packages = append(packages, "glewlwyd", "glewlwyd-common") // the system has them, the cache does not
	}
	fmt.Fprintln(progress, "glewlwyd: downloading", strings.Join(packages, " "))
	if _, err := run(ctx, debs, "apt-get", append([]string{"download"}, packages...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, err := run(ctx, "", "dpkg-deb", "--extract", file, folder); err != nil {
			return err
		}
	}
	return os.RemoveAll(debs)
}

// needed leaves out what serves the package's installation and its pages only.
func needed(name string) bool {
	switch {
	case strings.HasPrefix(name, "libjs-"), strings.HasSuffix(name, "-perl"):
		return false
	}
	return strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "glewlwyd") || name == "sqlite3"
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
	command.Env = append(os.Environ(), libraryPath(folder))
	command.Stdin = sql
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, output)
	}
	return nil
}

// libraryPath is the environment in which the unpacked programs find their libraries.
func libraryPath(folder string) string {
	folders, err := filepath.Glob(filepath.Join(folder, "usr/lib/*-linux-*"))
	if err != nil {
		folders = nil
	}
	return "LD_LIBRARY_PATH=" + strings.Join(folders, ":")
}

// run runs a program and returns its output.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Dir = dir
	command.Env = append(os.Environ(), "LC_ALL=C")
	output, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(string(output)))
	}
	return string(output), nil
}
