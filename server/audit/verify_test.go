package audit_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// split cuts text between lines into n parts, as rotation does.
func split(text string, n int) (parts []string) {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	for i := range n {
		parts = append(parts, strings.Join(lines[i*len(lines)/n:(i+1)*len(lines)/n], ""))
	}
	return parts
}

// merged interleaves the lines of texts at random, as a central syslog daemon does, and
// puts what it adds before each.
func merged(random *rand.Rand, texts ...string) string {
	var lines [][]string
	for _, text := range texts {
		lines = append(lines, strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n"))
	}
	var out strings.Builder
	for len(lines) > 0 {
		i := random.IntN(len(lines))
		fmt.Fprintf(&out, "Jan  2 03:04:05 host%d tokenbroker[%d]: %s\n", i, 100+i, strings.TrimSuffix(lines[i][0], "\n"))
		if lines[i] = lines[i][1:]; len(lines[i]) == 0 {
			lines = slices.Delete(lines, i, i+1)
		}
	}
	return out.String()
}

// TestReplicasAndSinks gives all files of three replicas with two sinks each, and a
// central log of all of them, in any order.
func TestReplicasAndSinks(t *testing.T) {
	key := newKey(t)
	random := rand.New(rand.NewPCG(1, 2))
	var parts, whole []string
	for replica := range 3 {
		disk, central := &memory{name: "disk"}, &memory{name: "central"}
		journal(t, key, 30+replica, false, func(n int) {
			disk.set(func(m *memory) { m.fail = map[bool]error{true: errFull}[n >= 10 && n < 14] })
			central.set(func(m *memory) { m.fail = map[bool]error{true: errFull}[n >= 20 && n < 25] })
		}, disk, central)
		parts = append(parts, split(disk.text(), 4)...)
		parts = append(parts, split(central.text(), 3)...)
		whole = append(whole, central.text())
	}
	mixed := merged(random, whole...)
	for name, cfg := range map[string]audit.VerifyConfig{"key": {Keys: []audit.Key{key}}, "public key": {PublicKeys: []audit.PublicKey{key.Public()}}} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
				report := verify(t, cfg, parts...)
				wantSound(t, report)
				if report.Entries() != 30+31+32 || len(report.Chains) != 3 {
					t.Fatalf("got %s, want 93 entries in 3 chains", report)
				}
			}
			wantSound(t, verify(t, cfg, append(slices.Clone(parts), mixed)...))
			wantSound(t, verify(t, cfg, append([]string{mixed}, parts...)...))
			wantFinding(t, verify(t, cfg, mixed), "missing before it")
			for i := range parts[:7] {
				lines := strings.SplitAfter(parts[i], "\n")
				n := random.IntN(len(lines) - 1)
				lines[n] = strings.Replace(lines[n], `"time":"20`, `"time":"21`, 1)
				changed := append(slices.Clone(parts), mixed)
				changed[i] = strings.Join(lines, "")
				if verify(t, cfg, changed...).Sound() {
					t.Errorf("line %s is not found", lines[n])
				}
			}
		})
	}
}

// TestInterleaved has replicas that write at the same time, whose central log is in
// another order than their clocks say.
func TestInterleaved(t *testing.T) {
	const replicas, each = 4, 300
	key := newKey(t)
	var texts []string
	for range replicas {
		sink := &memory{}
		l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
		for n := range each {
			appendEntry(t, l, n)
		}
		must(l.stop())
		texts = append(texts, sink.text())
	}
	for seed := range uint64(10) {
		random := rand.New(rand.NewPCG(seed, seed))
		central := merged(random, texts...)
		for name, cfg := range map[string]audit.VerifyConfig{"key": {Keys: []audit.Key{key}}, "public key": {PublicKeys: []audit.PublicKey{key.Public()}}} {
			t.Run(name, func(t *testing.T) {
				wantSound(t, verify(t, cfg, central))
				report := verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, append([]string{central}, texts...)...)
				wantSound(t, report)
				if report.Entries() != replicas*each {
					t.Errorf("got %s", report)
				}
				lines := strings.SplitAfter(central, "\n")
				n := 1 + random.IntN(len(lines)-3)
				lines[n] = strings.Replace(lines[n], `"time":"20`, `"time":"21`, 1)
				changed := strings.Join(lines, "")
				if verify(t, cfg, append([]string{changed}, texts...)...).Sound() {
					t.Errorf("line %s is not found", lines[n])
				}
			})
		}
	}
}

func TestOlderRemoved(t *testing.T) {
	key, sink := newKey(t), &memory{}
	end := journal(t, key, 45, true, nil, sink)
	parts := split(sink.text(), 4)
	lines := strings.SplitAfter(strings.TrimSuffix(sink.text(), "\n"), "\n")
	for name, cfg := range map[string]audit.VerifyConfig{
		"key":        {Keys: []audit.Key{key}, Now: end},
		"keys":       {Keys: []audit.Key{newKey(t), key}, Now: end},
		"public key": {PublicKeys: []audit.PublicKey{newKey(t).Public(), key.Public()}, Now: end},
	} {
		t.Run(name, func(t *testing.T) {
			wantFinding(t, verify(t, cfg, parts[1:]...), "older files were not given")
			cfg.OlderRemoved = true
			report := verify(t, cfg, parts[1:]...)
			wantSound(t, report)
			if c := report.Chains[0]; c.First == 0 || c.Checkpoint == "" || c.Unproven == 0 || len(report.Notes) != 1 {
				t.Errorf("got %s, want that the beginning is missing", report)
			}
			wantFinding(t, verify(t, cfg, parts[1], parts[3]), "missing before it")
			// The first checkpoint cannot be checked with a public key; it must not be
			// taken for an end.
			at := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, `"checkpoint"`) })
			cut := cfg
			cut.Now = end.Add(time.Minute)
			wantFinding(t, verify(t, cut, strings.Join(lines[5:at], "")+strings.Replace(lines[at], "checkpoint", "end", 1)), "though not its end")
			for first := range lines[:len(lines)-1] { // also a checkpoint
				wantSound(t, verify(t, cfg, strings.Join(lines[first:], "")))
			}
			lines := strings.SplitAfter(parts[2], "\n")
			lines[3] = strings.Replace(lines[3], `"crm"`, `"hrm"`, 1)
			parts := slices.Clone(parts)
			parts[2] = strings.Join(lines, "")
			wantFinding(t, verify(t, cfg, parts[1:]...))
		})
	}
}

func TestEndings(t *testing.T) {
	key := newKey(t)
	closed, open := &memory{}, &memory{}
	journal(t, key, 3, false, nil, closed)
	end := journal(t, key, 15, true, nil, open)
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}, Now: end}
	ending := func(report audit.Report) audit.Ending { return report.Chains[len(report.Chains)-1].Ending }
	report := verify(t, cfg, closed.text(), open.text())
	wantSound(t, report)
	if got := ending(report); got != audit.Running {
		t.Errorf("got %q, want that it runs", got)
	}
	if c := report.Chains[1]; c.Checkpoint == "" || c.Unproven == 0 || c.Entries != 15 {
		t.Errorf("got %s", report)
	}
	cfg.Running = 2
	wantFinding(t, verify(t, cfg, closed.text(), open.text()), "of 2 running processes only 1")
	cfg.Running = 1
	wantSound(t, verify(t, cfg, closed.text(), open.text()))
	cfg.Running, cfg.Now = 0, end.Add(time.Minute)
	report = verify(t, cfg, closed.text(), open.text())
	wantFinding(t, report, "killed, or the tail was cut off")
	if got := ending(report); got != audit.Broken {
		t.Errorf("got %q", got)
	}
	// The finding says how to confirm it.
	_, confirm, _ := strings.Cut(report.Findings[0].Problem, "killed: --killed ")
	cfg.Killed = []string{strings.TrimSuffix(confirm, ")")}
	wantSound(t, verify(t, cfg, closed.text(), open.text()))
	lines := strings.SplitAfter(open.text(), "\n")
	wantFinding(t, verify(t, cfg, closed.text(), strings.Join(lines[:len(lines)-2], "")), "cut off")
}

func TestNothingToVerify(t *testing.T) {
	cfg := audit.VerifyConfig{Keys: []audit.Key{newKey(t)}}
	wantFinding(t, verify(t, cfg), "no file has an audit line")
	wantFinding(t, verify(t, cfg, "", "\n\n"), "no file has an audit line")
	if _, err := audit.VerifyFiles(cfg, filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("no error for a file that is not there")
	}
	if _, err := audit.VerifyFiles(cfg, t.TempDir()); err == nil {
		t.Error("no error for a folder")
	}
	if _, err := audit.Verify(cfg, audit.Source{Name: "x", Reader: io.MultiReader(strings.NewReader("\n"), failingReader{})}); err == nil {
		t.Error("no error for a file that cannot be read")
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errFull }

func TestCompressed(t *testing.T) {
	key, sink := newKey(t), &memory{}
	journal(t, key, 30, false, nil, sink)
	parts := split(sink.text(), 2)
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	_, err := io.WriteString(w, parts[0])
	must(err)
	must(w.Close())
	path := logPath(t)
	write(t, path+".1.gz", compressed.String(), 0o600)
	write(t, path, parts[1], 0o600)
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}}
	wantSound(t, verifyFiles(t, cfg, path, path+".1.gz"))
	write(t, path+".1.gz", compressed.String()[:100], 0o600)
	if _, err := audit.VerifyFiles(cfg, path, path+".1.gz"); err == nil {
		t.Error("no error for a compressed file that was cut off")
	}
}

func TestReport(t *testing.T) {
	key, sink := newKey(t), &memory{}
	end := journal(t, key, 12, true, nil, sink)
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}, Now: end}
	report := verify(t, cfg, sink.text())
	c := report.Chains[0]
	want := fmt.Sprintf("chain %s: lines 0 to 13, %s to %s, still running; not covered by a checkpoint: 2 lines\nSOUND: 12 entries in 1 chain, 0 things wrong\n", c.ID, c.Begin, c.End)
	if got := report.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	var text bytes.Buffer
	if err := report.Write(&text); err != nil || text.String() != want {
		t.Errorf("got %v, %s", err, text.String())
	}
	report = verify(t, cfg, sink.text()+"x\n")
	if got := report.String(); !strings.HasSuffix(got, "WRONG: 0:15: is not an audit line\nNOT SOUND: 12 entries in 1 chain, 1 thing wrong\n") {
		t.Errorf("got\n%s", got)
	}
}

// TestLargeFile verifies more than would fit if lines were held.
func TestLargeFile(t *testing.T) {
	lines := 200_000
	if testing.Short() {
		lines = 40_000
	}
	key := newKey(t)
	reader, writer := io.Pipe()
	defer func() { _ = reader.Close() }()
	go func() {
		l, err := audit.New(audit.Config{Key: key, Sinks: []audit.Sink{pipeSink{&memory{}, writer}}})
		for n := 0; n < lines && err == nil; n++ {
			err = l.Append(entry(n))
		}
		_ = writer.CloseWithError(err)
	}()
	memory := &memoryMeter{reader: reader, every: 4 << 20}
	report, err := audit.Verify(audit.VerifyConfig{Keys: []audit.Key{key}}, audit.Source{Name: "large", Reader: memory})
	must(err)
	wantSound(t, report)
	if got := report.Entries(); got != uint64(lines) {
		t.Errorf("got %d entries, want %d", got, lines)
	}
	if memory.most > memory.least+4<<20 {
		t.Errorf("memory grew from %d to %d bytes while %d were read", memory.least, memory.most, memory.read)
	}
}

// pipeSink writes to a pipe.
type pipeSink struct {
	*memory
	w io.Writer
}

func (s pipeSink) Write(lines []byte) error {
	_, err := s.w.Write(lines)
	return err
}

// memoryMeter looks at the memory in use now and then while it is read.
type memoryMeter struct {
	reader      io.Reader
	every, read int
	least, most uint64
}

func (m *memoryMeter) Read(p []byte) (int, error) {
	n, err := m.reader.Read(p)
	if m.read/m.every != (m.read+n)/m.every {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		if m.least == 0 || stats.HeapAlloc < m.least {
			m.least = stats.HeapAlloc
		}
		m.most = max(m.most, stats.HeapAlloc)
	}
	m.read += n
	return n, err
}
