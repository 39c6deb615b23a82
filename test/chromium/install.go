// Package chromium runs Debian's Chromium, headless, for tests that look at pages as a
// user sees them. Nothing of it is installed into the system.
package chromium

import (
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
var ErrNoApt = errors.New("no chromium: it is taken from Debian's packages, and there is no apt-get")

// errMissing says that Install has not run.
var errMissing = errors.New("no chromium in the cache")

// layout is part of the folder's name: raise it when Install makes something else of the same packages.
const layout = "chromium-1"

// program is where Debian's package has it.
const program = "usr/lib/chromium/chromium"

// Install unpacks chromium, a font, and those of its libraries that the machine has not
// into the cache, unless they are there, and returns the folder. No package's script is
// run. ErrNoApt where there are no Debian packages.
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
	folder := filepath.Join(cache, layout)
	if _, err := os.Stat(filepath.Join(folder, program)); err == nil {
		fmt.Fprintln(progress, "chromium: is there:", folder)
		return folder, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", ErrNoApt
	}
	partial := folder + ".partial" // whatever has this name was left by a run that died: the lock is ours
	for _, old := range []string{partial, folder} {
		if err := os.RemoveAll(old); err != nil {
			return "", fmt.Errorf("installing chromium: %w", err)
		}
	}
	if err := unpack(ctx, partial, progress); err != nil {
		return "", fmt.Errorf("installing chromium: %w", err)
	}
	if err := os.Rename(partial, folder); err != nil {
		return "", fmt.Errorf("installing chromium: %w", err)
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
	simulate := []string{"install", "--simulate", "--no-install-recommends", "chromium", "fonts-dejavu-core", "fontconfig-config"}
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
		if words := strings.Fields(line); len(words) > 1 && words[0] == "Inst" && needed(words[1]) {
			packages = append(packages, words[1])
		}
	}
	for _, name := range []string{"chromium", "chromium-common", "fonts-dejavu-core", "fontconfig-config"} {
		if !strings.Contains(" "+strings.Join(packages, " ")+" ", " "+name+" ") {
			packages = append(packages, name) // the system has it, the cache does not
		}
	}
	fmt.Fprintln(progress, "chromium: downloading", len(packages), "packages")
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

// needed leaves out what serves a desktop only.
func needed(name string) bool {
	return strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "chromium") || strings.HasPrefix(name, "font")
}

// environment is that in which the unpacked programs find their libraries and fonts.
func environment(folder string) ([]string, error) {
	var folders []string
	for _, pattern := range []string{"usr/lib/*-linux-*", "lib/*-linux-*", "usr/lib/*-linux-*/pulseaudio"} {
		found, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			return nil, err
		}
		folders = append(folders, found...)
	}
	fonts := filepath.Join(folder, "fonts.conf")
	text := `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig><dir>` + folder + `/usr/share/fonts</dir><dir>/usr/share/fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>`
	if err := os.WriteFile(fonts, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(folders, ":"), "FONTCONFIG_FILE="+fonts), nil
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
