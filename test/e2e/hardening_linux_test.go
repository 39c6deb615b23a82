package e2e_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"
)

// nobody is a user without any privilege.
const nobody = 65534

// proc returns the first submatch of pattern in a file of /proc/PID.
func proc(t *testing.T, pid int, file, pattern string) string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)` + pattern).FindSubmatch(content)
	if match == nil {
		t.Fatalf("/proc/PID/%s has no %s:\n%s", file, pattern, content)
	}
	return string(match[1])
}

// lockedMemory returns what of a process is locked, in KiB.
func lockedMemory(t *testing.T, pid int) int {
	t.Helper()
	size, err := strconv.Atoi(proc(t, pid, "status", `^VmLck:\s*(\d+) kB$`))
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// mayLock reports whether this process, and so its children, may lock memory: bit
// 14 is CAP_IPC_LOCK.
func mayLock(t *testing.T) bool {
	t.Helper()
	capabilities, err := strconv.ParseUint(proc(t, os.Getpid(), "status", `^CapEff:\s*([0-9a-f]+)$`), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return capabilities&(1<<14) != 0 || proc(t, os.Getpid(), "limits", `^Max locked memory\s+(\S+)`) == "unlimited"
}

// wantUndumpable checks that neither the kernel nor another process of the same user
// gets at the memory: a process that cannot be dumped has files of root's.
func wantUndumpable(t *testing.T, pid int) {
	t.Helper()
	if got := proc(t, pid, "limits", `^Max core file size\s+(\S+\s+\S+)`); strings.Join(strings.Fields(got), " ") != "0 0" {
		t.Errorf("core files may have %s bytes, want 0 0", got)
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
		t.Errorf("the memory belongs to user %d, want root", owner)
	}
}

// TestMemoryIsGuarded starts the server with each setting.
func TestMemoryIsGuarded(t *testing.T) {
	needServers(t)
	allowed := mayLock(t)
	tests := []struct {
		setting string
		locked  bool
	}{
		{"", allowed}, {"auto", allowed}, {"off", false}, {"required", true},
	}
	for _, test := range tests {
		t.Run("lock_memory "+test.setting, func(t *testing.T) {
			if test.setting == "required" && !allowed {
				t.Skip("this process may not lock memory")
			}
			up := newUpstream(t, firstSecret)
			s := newSite(t, embeddedStore(t.TempDir()), up.ca)
			if test.setting != "" {
				s.config["process"] = map[string]any{"lock_memory": test.setting}
			}
			n := s.start(t, program(t))
			wantUndumpable(t, n.pid())
			if got := lockedMemory(t, n.pid()) > 0; got != test.locked {
				t.Errorf("memory is locked: %t, want %t", got, test.locked)
			}
			if _, err := n.operator.clients.ListClients(t.Context(), nil); err != nil {
				t.Errorf("ListClients: %v", err)
			}
			n.stop(t)
		})
	}
}

// asNobody returns a program that runs the server without privileges and with so
// much memory that it may lock, in KiB, from a folder that nobody may use.
func asNobody(t *testing.T, kib int) (path string, args []string) {
	t.Helper()
	setpriv, err := exec.LookPath("setpriv")
	if err != nil || os.Getuid() != 0 {
		t.Skip("needs root and setpriv to give privileges up")
	}
	binary, err := os.ReadFile(program(t))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "tokenbroker")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	giveAway(t, filepath.Dir(path))
	return "/bin/sh", []string{
		"-c", fmt.Sprintf(`ulimit -l %d && exec "$@"`, kib), "sh",
		setpriv, fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--", path,
	}
}

// giveAway gives a folder of a test, with all that is in it, to nobody, and opens
// the test's own folder, which it is in.
func giveAway(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMemoryThatMayNotBeLocked runs without privileges, under limits that mlockall
// would fail under at once, and that Go would fail under later.
func TestMemoryThatMayNotBeLocked(t *testing.T) {
	needServers(t)
	for _, kib := range []int{0, 64, 8192} {
		for _, setting := range []string{"auto", "required"} {
			t.Run(fmt.Sprintf("%s under %d KiB", setting, kib), func(t *testing.T) {
				path, args := asNobody(t, kib)
				s := newSite(t, nil)
				s.config["store"] = embeddedStore(s.dir)
				s.config["process"] = map[string]any{"lock_memory": setting}
				encoded, err := yaml.Marshal(s.config)
				if err != nil {
					t.Fatal(err)
				}
				args = append(args, "serve", "--config", s.write(t, "config.yaml", encoded))
				giveAway(t, s.dir)
				p := start(t, path, s.dir, nil, args...)
				if setting == "required" {
					<-p.Done()
					if status := p.command.ProcessState.ExitCode(); status != 1 || !strings.Contains(p.log.String(), "process.lock_memory is required: RLIMIT_MEMLOCK") {
						t.Errorf("exit status %d, output %s", status, p.log)
					}
					return
				}
				if _, err := p.serving(); err != nil {
					t.Fatal(err)
				}
				if got := lockedMemory(t, p.pid()); got != 0 {
					t.Errorf("%d KiB are locked", got)
				}
				wantUndumpable(t, p.pid())
				if !strings.Contains(p.log.String(), `"msg":"memory is not locked and may be swapped out"`) {
					t.Error("the log does not say that memory is not locked")
				}
				// The process still reads its own files, which belong to root now.
				for _, metric := range []string{"\nprocess_open_fds ", "\nprocess_resident_memory_bytes ", "\nprocess_max_fds "} {
					if !strings.Contains(string(p.page(t, "/metrics")), metric) {
						t.Errorf("/metrics has no %s", strings.TrimSpace(metric))
					}
				}
				p.stop(t)
			})
		}
	}
}
