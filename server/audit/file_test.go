package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

func openFile(t testing.TB, path string, maxSize int64) *audit.File {
	t.Helper()
	file, err := audit.OpenFile(path, maxSize)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func logPath(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "audit.log")
}

// filesOf returns the file at path and what was rotated away from it.
func filesOf(t testing.TB, path string) []string {
	t.Helper()
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func verifyFiles(t testing.TB, cfg audit.VerifyConfig, paths ...string) audit.Report {
	t.Helper()
	report, err := audit.VerifyFiles(cfg, paths...)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func read(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the umask may have taken some off
		t.Fatal(err)
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := logPath(t)
	l := run(t, audit.Config{Key: newKey(t), Sinks: []audit.Sink{openFile(t, path, 0)}})
	appendEntry(t, l, 1)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestOpenFileRefuses(t *testing.T) {
	folder := t.TempDir()
	open := filepath.Join(folder, "open.log")
	write(t, open, "", 0o666)
	used := openFile(t, filepath.Join(folder, "used.log"), 0)
	defer func() { _ = used.Close() }()
	for _, test := range []struct{ name, path, want string }{
		{"a folder", folder, "not a regular file"},
		{"a device", os.DevNull, "not a regular file"},
		{"no folder", filepath.Join(folder, "absent", "audit.log"), "no such file"},
		{"writable by everybody", open, "everybody may write"},
		{"in use", filepath.Join(folder, "used.log"), "in use by another process"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file, err := audit.OpenFile(test.path, 0)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, %v, want %q", file, err, test.want)
			}
		})
	}
	if os.Getuid() != 0 { // whom nothing is forbidden
		closed := filepath.Join(folder, "closed")
		if err := os.Mkdir(closed, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.OpenFile(filepath.Join(closed, "audit.log"), 0); err == nil {
			t.Error("a file in a folder that nobody may write to: got no error")
		}
	}
}

// TestRotation rotates by size and by others moving the file, while many append, and
// wants one chain over all files without a line lost or split.
func TestRotation(t *testing.T) {
	const appenders, each = 16, 100
	key, path := newKey(t), logPath(t)
	file := openFile(t, path, 20_000)
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{file}})
	var wg sync.WaitGroup
	syncing := make(chan struct{})
	wg.Go(func() { // far more often than Run does
		for {
			select {
			case <-syncing:
				return
			default:
			}
			if err := errors.Join(file.Sync(), file.Check()); err != nil {
				t.Errorf("beside writes: %v", err)
			}
		}
	})
	var appending sync.WaitGroup
	for a := range appenders {
		appending.Go(func() {
			for n := range each {
				appendEntry(t, l, a*each+n)
				if n%20 == 0 && a == 0 { // as logrotate does; the file may just have been rotated by size
					_ = os.Rename(path, path+".moved-"+time.Now().Format("150405.000000000"))
					file.Reopen()
				}
			}
		})
	}
	appending.Wait()
	close(syncing)
	wg.Wait()
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	files := filesOf(t, path)
	if len(files) < 10 {
		t.Errorf("got files %v, want more", files)
	}
	whole := ""
	for _, name := range files {
		content := read(t, name)
		whole += content
		if len(content) > 20_000+appenders*1000 || !strings.HasSuffix(content, "\n") || !strings.HasPrefix(content, `{"chain":"`) {
			t.Errorf("%s has %d bytes, begins with %q", name, len(content), content[:min(20, len(content))])
		}
		if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if got := len(requests(t, whole)); got != appenders*each {
		t.Errorf("got %d entries, want %d", got, appenders*each)
	}
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}}
	report := verifyFiles(t, cfg, files...)
	wantSound(t, report)
	if len(report.Chains) != 1 {
		t.Errorf("got %s, want one chain", report)
	}
	wantFinding(t, verifyFiles(t, cfg, append(files[:3:3], files[4:]...)...), "missing")
	cfg = audit.VerifyConfig{PublicKeys: []audit.PublicKey{key.Public()}}
	wantSound(t, verifyFiles(t, cfg, files...))
}

// TestReopenInPlace: nobody has moved the file, so it goes on.
func TestReopenInPlace(t *testing.T) {
	key, path := newKey(t), logPath(t)
	file := openFile(t, path, 0)
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{file}})
	appendEntry(t, l, 1)
	file.Reopen()
	appendEntry(t, l, 2)
	_ = l.stop()
	if files := filesOf(t, path); len(files) != 1 {
		t.Errorf("got files %v", files)
	}
	wantSound(t, verifyFiles(t, audit.VerifyConfig{Keys: []audit.Key{key}}, path))
}

// TestMovedUnnoticed: without a signal the file's absence is seen within a second.
func TestMovedUnnoticed(t *testing.T) {
	path := logPath(t)
	file := openFile(t, path, 0)
	defer func() { _ = file.Close() }()
	steps := []struct {
		name    string
		change  func() error
		trouble string
	}{
		{"moved", func() error { return os.Rename(path, path+".1") }, ""},
		{"removed", func() error { return os.Remove(path) }, "removed"},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			if err := file.Write([]byte("before\n")); err != nil {
				t.Fatal(err)
			}
			if err := step.change(); err != nil {
				t.Fatal(err)
			}
			err := file.Check()
			if (step.trouble == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), step.trouble) {
				t.Errorf("got %v, want %q", err, step.trouble)
			}
			if err := file.Write([]byte("after\n")); err != nil {
				t.Fatal(err)
			}
			if got := read(t, path); got != "after\n" {
				t.Errorf("got %q in the new file", got)
			}
			if err := file.Sync(); err != nil {
				t.Errorf("sync: %v", err)
			}
			if err := file.Check(); err != nil {
				t.Errorf("check: %v", err)
			}
		})
	}
}

// TestRotationImpossible: the old file goes on, and Check says so, until a new one can
// be made.
func TestRotationImpossible(t *testing.T) {
	path := logPath(t)
	file := openFile(t, path, 100)
	defer func() { _ = file.Close() }()
	line := strings.Repeat("x", 60) + "\n"
	for range 2 { // the second rotates
		if err := file.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil { // nobody, not even root, opens that as a file
		t.Fatal(err)
	}
	file.Reopen()
	for range 3 {
		if err := file.Write([]byte(line)); err != nil {
			t.Errorf("got %v, want the old file to go on", err)
		}
	}
	if err := file.Check(); err == nil || !strings.Contains(err.Error(), "goes on") {
		t.Errorf("got %v, want that the old file goes on", err)
	}
	if got := len(read(t, path+".1")); got != 4*len(line) {
		t.Errorf("got %d bytes in the old file, want %d", got, 4*len(line))
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	file.Reopen()
	if err := file.Write([]byte(line)); err != nil || read(t, path) != line {
		t.Errorf("got %v and %q in the new file", err, read(t, path))
	}
	if err := file.Check(); err != nil {
		t.Errorf("check: %v", err)
	}
}

// TestEmptied: logrotate's copytruncate takes lines away under us; they are in the copy.
func TestEmptied(t *testing.T) {
	key, path := newKey(t), logPath(t)
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{openFile(t, path, 2000)}})
	appendEntry(t, l, 1)
	write(t, path+".1", read(t, path), 0o600)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		appendEntry(t, l, n)
	}
	_ = l.stop()
	wantSound(t, verifyFiles(t, audit.VerifyConfig{Keys: []audit.Key{key}}, filesOf(t, path)...))
}

// TestNextProcess: each process names the last line before it, wherever that is.
func TestNextProcess(t *testing.T) {
	key, path := newKey(t), logPath(t)
	process := func(entries int) {
		t.Helper()
		l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{openFile(t, path, 0)}})
		for n := range entries {
			appendEntry(t, l, n)
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(to string) {
		t.Helper()
		if err := os.Rename(path, to); err != nil {
			t.Fatal(err)
		}
	}
	process(1)
	process(2) // in the same file
	rename(path + "-20260101")
	process(3) // after the file was moved
	rename(path + ".1")
	write(t, path, "", 0o600) // as logrotate's create does
	process(4)
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}}
	report := verifyFiles(t, cfg, path, path+".1", path+"-20260101")
	wantSound(t, report)
	for i, chain := range report.Chains[1:] {
		if want := report.Chains[i].ID + "/" + string('2'+rune(i)); len(chain.After) != 1 || chain.After[0] != want {
			t.Errorf("chain %d is after %v, want %v", i+1, chain.After, want)
		}
	}
	t.Run("middle file removed", func(t *testing.T) {
		wantFinding(t, verifyFiles(t, cfg, path, path+"-20260101"), "of which nothing is there")
	})
	t.Run("oldest file removed", func(t *testing.T) {
		wantFinding(t, verifyFiles(t, cfg, path, path+".1"), "of which nothing is there")
		cfg := cfg
		cfg.OlderRemoved = true
		wantSound(t, verifyFiles(t, cfg, path, path+".1"))
	})
	t.Run("newest file removed", func(t *testing.T) {
		wantSound(t, verifyFiles(t, cfg, path+".1", path+"-20260101")) // nothing points there
		cfg := cfg
		cfg.Running = 1
		wantFinding(t, verifyFiles(t, cfg, path+".1", path+"-20260101"), "running processes")
	})
	t.Run("tail cut off before the next process", func(t *testing.T) {
		lines := strings.SplitAfter(read(t, path+".1"), "\n")
		write(t, path+".1", strings.Join(lines[:3], ""), 0o600)
		wantFinding(t, verifyFiles(t, cfg, path, path+".1", path+"-20260101"), "its tail was cut off")
	})
}

// TestTorn: part of a line, as a crash or a full disk leaves behind, does not spoil the
// line after it.
func TestTorn(t *testing.T) {
	key, path := newKey(t), logPath(t)
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}}
	first := openFile(t, path, 0)
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{first}})
	appendEntry(t, l, 1)
	_ = l.stop()
	whole := read(t, path)
	lines := strings.SplitAfter(whole, "\n")
	for _, part := range []string{`{`, `{"chain":"`, lines[1][:40], strings.TrimSuffix(lines[1], "\n")[:len(lines[1])-2], "\x00\x00\x00\x00"} {
		// The last line is there in part only.
		write(t, path, lines[0]+lines[1]+part, 0o600)
		open := verifyFiles(t, cfg, path)
		wantSound(t, open)
		if len(open.Notes) != 1 {
			t.Errorf("%q: got notes %v, want one", part, open.Notes)
		}
		next := run(t, audit.Config{Key: key, Sinks: []audit.Sink{openFile(t, path, 0)}})
		appendEntry(t, next, 2)
		_ = next.stop()
		report := verifyFiles(t, cfg, path)
		wantFinding(t, report, "killed")
		if len(report.Findings) != 1 || len(report.Notes) != 1 {
			t.Errorf("%q: got %s, want one note and that it was killed", part, report)
		}
		cfg := cfg
		cfg.Killed = []string{report.Chains[0].ID + "/1"}
		wantSound(t, verifyFiles(t, cfg, path))
		cfg.Killed = []string{report.Chains[0].ID + "/2"}
		wantFinding(t, verifyFiles(t, cfg, path), "killed")
	}
	t.Run("within a chain", func(t *testing.T) {
		path := logPath(t)
		file, other := openFile(t, path, 0), &memory{}
		l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{file, other}})
		appendEntry(t, l, 1)
		if err := audit.Tear(file, lines[1][:50]); err != nil {
			t.Fatal(err)
		}
		appendEntry(t, l, 2)
		_ = l.stop()
		report := verify(t, cfg, read(t, path), other.text())
		wantFinding(t, report, "0:3: is part of a line")
		if len(report.Findings) != 1 {
			t.Errorf("got %s, want one finding", report)
		}
	})
}
