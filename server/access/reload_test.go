package access_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// numbered is a table of which every part says the same number: which identity is whose
// and the default scopes of two clients.
func numbered(n int) string {
	return fmt.Sprintf(`callers:
  - {name: caller-%[1]d, identities: ["dns:a"]}
  - {name: other-%[1]d, identities: ["dns:b"]}
rules:
  - {callers: [caller-%[1]d], permissions: [token.get], clients: ["prefix:first-"], scopes: {default: [s%[1]d]}}
  - {callers: [caller-%[1]d], permissions: [token.get], clients: ["label:n=%[1]d"], scopes: {default: [s%[1]d]}, except: {clients: ["prefix:first-"]}}
...
`, n)
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts content in the place of a file in one step.
func replace(t testing.TB, path, content string) {
	t.Helper()
	write(t, path+".new", content)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// journal records what a Reloader reports.
type journal struct {
	mu      sync.Mutex // guards entries
	entries []string
}

func (j *journal) report(table *access.Table, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.entries = append(j.entries, "problem: "+err.Error())
		return
	}
	j.entries = append(j.entries, fmt.Sprintf("generation %d", table.Generation()))
}

// take returns what was reported since the last time.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer func() { j.entries = nil }()
	return strings.Join(j.entries, "\n")
}

// TestReloader runs the loop on virtual time, writes the file in each way and looks at
// what is served and reported.
func TestReloader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "access.yaml")
		write(t, path, numbered(1))
		j := new(journal)
		r, err := access.NewReloader(path, j.report)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		settle := func() { // until nothing is new any more, and the file is old
			time.Sleep(10 * time.Second)
			synctest.Wait()
		}
		steps := []struct {
			name       string
			do         func()
			number     int
			generation uint64
			reported   string // how it begins
		}{
			{"nothing", func() {}, 1, 1, ""},
			{"replaced", func() { replace(t, path, numbered(2)) }, 2, 2, "generation 2"},
			{"overwritten", func() { write(t, path, numbered(3)) }, 3, 3, "generation 3"},
			{"touched", func() { write(t, path, numbered(3)) }, 3, 3, ""},
			{"half of it", func() { write(t, path, numbered(4)[:200]) }, 3, 3, "problem: " + path + ":"},
			{"mended", func() { write(t, path, numbered(4)) }, 4, 4, "generation 4"},
			{"broken", func() { replace(t, path, strings.Replace(numbered(5), "token.get", "token.gt", 1)) }, 4, 4, "problem: " + path + ":5: rules[0].permissions[0]: \"token.gt\""},
			{"broken otherwise", func() { replace(t, path, "") }, 4, 4, "problem: " + path + ":1: "},
			{"as it was", func() { replace(t, path, numbered(4)) }, 4, 4, "generation 4"},
			{"removed", func() { _ = os.Remove(path) }, 4, 4, "problem: access table: stat "},
			{"a folder", func() { _ = os.Mkdir(path, 0o700) }, 4, 4, "problem: access table: " + path + " is not a regular file"},
			{"there again", func() { _ = os.Remove(path); write(t, path, numbered(6)) }, 6, 5, "generation 5"},
		}
		for _, step := range steps {
			step.do()
			settle()
			table := r.Table()
			caller, ok := table.Caller("dns:a")
			if want := fmt.Sprintf("caller-%d", step.number); !ok || caller.Name() != want || table.Generation() != step.generation {
				t.Errorf("%s: %q in generation %d, want %q in %d", step.name, caller.Name(), table.Generation(), want, step.generation)
			}
			if got := j.take(); !strings.HasPrefix(got, step.reported) || (got == "") != (step.reported == "") || strings.Count(got, "problem:")+strings.Count(got, "generation") > 1 {
				t.Errorf("%s: reported %q, want one beginning with %q", step.name, got, step.reported)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

// TestAChangeWithinOneTick: a file that was read just after it was written may change
// once more without a trace in its size and time.
func TestAChangeWithinOneTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "access.yaml")
		tick := time.Now()
		within := func(content string) {
			write(t, path, content)
			if err := os.Chtimes(path, time.Time{}, tick); err != nil {
				t.Fatal(err)
			}
		}
		within(numbered(1))
		r, err := access.NewReloader(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = r.Run(ctx) }()
		time.Sleep(1500 * time.Millisecond) // one look
		synctest.Wait()
		within(numbered(2))
		time.Sleep(time.Second)
		synctest.Wait()
		if caller, _ := r.Table().Caller("dns:a"); caller.Name() != "caller-2" {
			t.Errorf("the table is still that of %s", caller.Name())
		}
		cancel()
	})
}

// TestReload: at once, and says what is wrong.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.yaml")
	write(t, path, numbered(1))
	r, err := access.NewReloader(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, numbered(2))
	if err := r.Reload(); err != nil || r.Table().Generation() != 2 || r.Table().File() != path {
		t.Errorf("got generation %d of %s and %v", r.Table().Generation(), r.Table().File(), err)
	}
	write(t, path, "x")
	if err := r.Reload(); err == nil || r.Table().Generation() != 2 {
		t.Errorf("got generation %d and %v, want the old one and an error", r.Table().Generation(), err)
	}
}

func TestNewReloaderOfNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.yaml")
	if _, err := access.NewReloader(path, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for no file", err)
	}
	write(t, path, "callers: []")
	if _, err := access.NewReloader(path, nil); err == nil {
		t.Error("a broken file was taken")
	}
}

// TestReloadUnderLoad reloads a thousand times, broken files among them, while readers
// decide: each sees one generation at a time, never an older one again, and nothing
// that was never whole in the file.
func TestReloadUnderLoad(t *testing.T) {
	reloads := 1000
	if testing.Short() {
		reloads = 200
	}
	path := filepath.Join(t.TempDir(), "access.yaml")
	write(t, path, numbered(1))
	r, err := access.NewReloader(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	peers := []*access.Peer{access.NewPeer("dns:a"), access.NewPeer("dns:a", "dns:unlisted")}
	decided := make([]int, 8)
	for i := range decided {
		group.Go(func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				table := r.Table()
				if err := consistent(table, peers[i%2]); err != nil || table.Generation() < last {
					t.Errorf("generation %d after %d: %v", table.Generation(), last, err)
					return
				}
				last = table.Generation()
				decided[i]++
				runtime.Gosched() // or the readers keep the writer from its core
			}
		})
	}
	for n := 2; n <= reloads+1; n++ {
		broken := n%5 == 0
		switch {
		case broken:
			write(t, path, numbered(n)[:len(numbered(n))-2-n%100])
		case n%2 == 0:
			write(t, path, numbered(n))
		default:
			replace(t, path, numbered(n))
		}
		if err := r.Reload(); (err != nil) != broken {
			t.Fatalf("reload %d: %v", n, err)
		}
	}
	close(stop)
	group.Wait()
	if got, want := r.Table().Generation(), uint64(1+reloads-(reloads+1)/5); got != want {
		t.Errorf("generation %d, want %d", got, want)
	}
	t.Logf("decisions of the readers: %v", decided)
}

// consistent asks a numbered table several things and compares the numbers.
func consistent(table *access.Table, peer *access.Peer) error {
	caller, ok := peer.Caller(table)
	if !ok {
		return errors.New("nobody is known")
	}
	n := strings.TrimPrefix(caller.Name(), "caller-")
	for _, client := range []string{"first-1", "second-1"} {
		d := table.Decide(access.Request{Caller: caller, Permission: access.TokenGet, Client: client, Labels: has(map[string]string{"n": n})})
		q, err := d.Query(broker.TokenQuery{ClientID: client})
		if err != nil || len(q.Scopes) != 1 || q.Scopes[0] != "s"+n {
			return fmt.Errorf("%s gets %v for %s: %w", caller.Name(), q.Scopes, client, err)
		}
	}
	return nil
}
