package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoApt says that this machine has no packages of Debian.
var ErrNoApt = errors.New("it is taken from Debian's packages, and there is no apt-get")

// errNotInstalled says that InstallDebian has not run.
var errNotInstalled = errors.New("it is not in the cache; run `make test-servers`")

// DebianServer is a server program that is taken from Debian's packages. Nothing is installed into the system, and no package's
// script is run: its packages are unpacked into the cache.
type DebianServer struct {
	// Layout names its folder in the cache: change it when Finish makes something else of the same packages.
	Layout string
	// Packages are to be had in any case, also where the system has them.
	Packages []string
	// Tools are wanted only where the system does not have them.
	Tools []string
	// Needed says which of the packages that Packages depend on, and that the system has not, are unpacked too.
	Needed func(name string) bool
	// Finish, if not nil, adds to the folder what else is needed.
	Finish func(ctx context.Context, folder string) error
}

// Folder returns where Install has put the server, or why it is not there.
func (d DebianServer) Folder() (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, d.Layout)
	if _, err := os.Stat(folder); err != nil { // it has its name only once it is whole
		if _, err := exec.LookPath("apt-get"); err != nil {
			return "", fmt.Errorf("no %s: %w", d.Packages[0], ErrNoApt)
		}
		return "", fmt.Errorf("no %s: %w", d.Packages[0], errNotInstalled)
	}
	return folder, nil
}

// Install unpacks the server and those of its libraries that the machine has not into the cache, unless they are there, and returns
// the folder. ErrNoApt where there are no Debian packages.
func (d DebianServer) Install(ctx context.Context, progress io.Writer) (string, error) {
	name := d.Packages[0]
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	unlock, err := Lock(filepath.Join(cache, d.Layout+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	folder, err := d.Folder()
	switch {
	case err == nil:
		fmt.Fprintf(progress, "%s: is there: %s\n", name, folder)
		return folder, nil
	case errors.Is(err, ErrNoApt):
		return "", err
	}
	folder = filepath.Join(cache, d.Layout)
	partial := folder + ".partial" // whatever has this name was left by a run that died: the lock is ours
	if err := os.RemoveAll(partial); err != nil {
		return "", fmt.Errorf("installing %s: %w", name, err)
	}
	if err := d.unpack(ctx, partial, progress); err != nil {
		return "", fmt.Errorf("installing %s: %w", name, err)
	}
	if d.Finish != nil {
		if err := d.Finish(ctx, partial); err != nil {
			return "", fmt.Errorf("installing %s: %w", name, err)
		}
	}
	if err := os.Rename(partial, folder); err != nil {
		return "", fmt.Errorf("installing %s: %w", name, err)
	}
	return folder, nil
}

// unpack downloads the packages and unpacks them into the folder.
func (d DebianServer) unpack(ctx context.Context, folder string, progress io.Writer) error {
	debs := filepath.Join(folder, "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	// What would be installed is what the machine has not.
	simulate := slices.Concat([]string{"install", "--simulate", "--no-install-recommends"}, d.Packages, d.Tools)
	plan, err := runProgram(ctx, "", "apt-get", simulate...)
	if err != nil && os.Geteuid() == 0 { // a fresh image has no package lists
		if _, err := runProgram(ctx, "", "apt-get", "update"); err != nil {
			return err
		}
		plan, err = runProgram(ctx, "", "apt-get", simulate...)
	}
	if err != nil {
		return fmt.Errorf("%w; run `apt-get update` as root", err)
	}
	packages := slices.Clone(d.Packages)
	for line := range strings.Lines(plan) {
		words := strings.Fields(line)
		if len(words) > 1 && words[0] == "Inst" && (d.Needed(words[1]) || slices.Contains(d.Tools, words[1])) {
			packages = append(packages, words[1])
		}
	}
	slices.Sort(packages)
	packages = slices.Compact(packages)
	fmt.Fprintf(progress, "%s: downloading %s\n", d.Packages[0], strings.Join(packages, " "))
	if _, err := runProgram(ctx, debs, "apt-get", append([]string{"download"}, packages...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, err := runProgram(ctx, "", "dpkg-deb", "--extract", file, folder); err != nil {
			return err
		}
	}
	return os.RemoveAll(debs)
}

// LibraryPath is the environment in which programs that were unpacked into folder find their libraries.
func LibraryPath(folder string) string {
	folders, err := filepath.Glob(filepath.Join(folder, "usr/lib/*-linux-*"))
	if err != nil {
		folders = nil
	}
	return "LD_LIBRARY_PATH=" + strings.Join(folders, ":")
}

// runProgram runs a program and returns its output.
func runProgram(ctx context.Context, dir, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Dir = dir
	command.Env = append(os.Environ(), "LC_ALL=C")
	output, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(string(output)))
	}
	return string(output), nil
}
