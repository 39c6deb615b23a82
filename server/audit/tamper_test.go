package audit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// tampered is a log that the tests below change: two runs, the second of which goes
// on, with about 40 entries and three checkpoints or ends before its last one.
type tampered struct {
	text    string
	lines   []string
	last    int // of lines, the last checkpoint
	configs map[string]audit.VerifyConfig
}

func newTampered(t *testing.T) tampered {
	t.Helper()
	key := newKey(t)
	first := &memory{}
	journal(t, key, 14, false, nil, first)
	lines := strings.SplitAfter(first.text(), "\n")
	second := &memory{last: lines[len(lines)-2]}
	end := journal(t, key, 27, true, nil, second)
	text := first.text() + second.text()
	lines = strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	last := 0
	for i, line := range lines {
		if strings.Contains(line, `"checkpoint"`) {
			last = i
		}
	}
	if got := len(lines) - last; last < 36 || got < 3 {
		t.Fatalf("got the last checkpoint at line %d of %d", last, len(lines))
	}
	return tampered{text, lines, last, map[string]audit.VerifyConfig{
		"key":        {Keys: []audit.Key{key}, Now: end},
		"public key": {PublicKeys: []audit.PublicKey{key.Public()}, Now: end},
	}}
}

// each runs f with either kind of key.
func (w tampered) each(t *testing.T, f func(t *testing.T, cfg audit.VerifyConfig)) {
	for name, cfg := range w.configs {
		t.Run(name, func(t *testing.T) {
			wantSound(t, verify(t, cfg, w.text))
			f(t, cfg)
		})
	}
}

func TestEveryChangedByteIsFound(t *testing.T) {
	w := newTampered(t)
	w.each(t, func(t *testing.T, cfg audit.VerifyConfig) {
		proven := len(strings.Join(w.lines[:w.last], ""))
		text := []byte(w.text)
		at := 0
		change := func(to byte) {
			was := text[at]
			if text[at] = to; was != to && verify(t, cfg, string(text)).Sound() {
				t.Errorf("byte %d, line %d: %q instead of %q is not found", at, strings.Count(w.text[:at], "\n")+1, to, was)
			}
			text[at] = was
		}
		stride := 1
		if testing.Short() || raceEnabled && cfg.Keys == nil {
			stride = 8
		}
		for at = range proven {
			if at%stride != 0 || cfg.Keys == nil && w.unsigned(at) {
				continue
			}
			change(text[at] ^ 1)
			if stride == 1 && !raceEnabled {
				change(text[at] ^ 0x20) // another case
				change('\n')
				change(0)
			}
		}
		if cfg.Keys != nil { // also behind the last checkpoint
			for at = proven; at < len(text)-1; at += stride {
				change(text[at] ^ 1)
			}
		}
	})
}

// unsigned reports whether a byte is of the mac of a chain's last line, which nothing
// signs, since the line has a signature of its own.
func (w tampered) unsigned(at int) bool {
	for _, line := range w.lines {
		if at < len(line) {
			return strings.Contains(line, `"type":"end"`) && at >= strings.Index(line, `,"mac":"`)
		}
		at -= len(line)
	}
	return false
}

// far is how far lines are moved.
func (w tampered) far() int {
	if testing.Short() {
		return 2
	}
	return len(w.lines)
}

func TestEveryRemovedLineIsFound(t *testing.T) {
	w := newTampered(t)
	w.each(t, func(t *testing.T, cfg audit.VerifyConfig) {
		for from := range w.last {
			for to := from + 1; to <= w.last && to <= from+w.far(); to++ {
				if text := strings.Join(slices.Concat(w.lines[:from], w.lines[to:]), ""); verify(t, cfg, text).Sound() {
					t.Errorf("removing lines %d to %d is not found", from+1, to)
				}
			}
		}
	})
}

func TestEveryMovedLineIsFound(t *testing.T) {
	w := newTampered(t)
	w.each(t, func(t *testing.T, cfg audit.VerifyConfig) {
		for from := range w.last {
			for to := max(from-w.far(), 0); to < w.last && to <= from+w.far(); to++ {
				moved := slices.Insert(slices.Delete(slices.Clone(w.lines), from, from+1), to, w.lines[from])
				if from != to && verify(t, cfg, strings.Join(moved, "")).Sound() {
					t.Errorf("moving line %d to %d is not found", from+1, to+1)
				}
			}
		}
	})
}

func TestEveryRepeatedLineIsFound(t *testing.T) {
	w := newTampered(t)
	w.each(t, func(t *testing.T, cfg audit.VerifyConfig) {
		for line := range w.lines {
			for at := line + 1; at <= len(w.lines) && at <= line+w.far(); at++ {
				if text := strings.Join(slices.Insert(slices.Clone(w.lines), at, w.lines[line]), ""); verify(t, cfg, text).Sound() {
					t.Errorf("repeating line %d at %d is not found", line+1, at+1)
				}
			}
		}
	})
}

// TestEveryTruncationIsFound cuts the file anywhere before the last checkpoint. By the
// next look at it a process that still ran would have written more; where a whole run
// is cut off, only who knows that a process is running can tell.
func TestEveryTruncationIsFound(t *testing.T) {
	w := newTampered(t)
	w.each(t, func(t *testing.T, cfg audit.VerifyConfig) {
		proven := len(strings.Join(w.lines[:w.last+1], "")) - 1
		cfg.Now = cfg.Now.Add(30 * time.Second)
		cfg.Running = 1
		stride := 1
		if testing.Short() || raceEnabled {
			stride = 7
		}
		for size := 0; size < proven; size += stride {
			if report := verify(t, cfg, w.text[:size]); report.Sound() {
				t.Errorf("cutting off all behind byte %d is not found:\n%s", size, report)
			}
		}
	})
}

// TestTruncationOfAClosedLog: once a log is closed, nothing of its tail can go.
func TestTruncationOfAClosedLog(t *testing.T) {
	key := newKey(t)
	sink := &memory{}
	end := journal(t, key, 12, false, nil, sink)
	text := sink.text()
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}, Now: end.Add(time.Minute)}
	wantSound(t, verify(t, cfg, text))
	for size := 1; size < len(text)-1; size++ { // without its last newline nothing is missing
		if verify(t, cfg, text[:size]).Sound() {
			t.Errorf("cutting off all behind byte %d is not found", size)
		}
	}
}

// TestForgery has lines of somebody who knows all but the key.
func TestForgery(t *testing.T) {
	w := newTampered(t)
	other := newKey(t)
	forged := &memory{}
	journal(t, other, 12, false, nil, forged)
	lines := strings.SplitAfter(strings.TrimSuffix(forged.text(), "\n"), "\n")
	genuine := w.lines[len(w.lines)-1]
	// As the next line of the genuine chain, with a mac of another key.
	next := fmt.Sprintf(`%s%s","seq":%d,"time":"2001-01-01T00:00:00.000000Z","outcome":"allowed","mac":"%032x"}`+"\n",
		`{"chain":"`, chainOf(genuine), seqOf(t, genuine)+1, 7)
	cfg := w.configs["key"]
	t.Run("next line", func(t *testing.T) { wantFinding(t, verify(t, cfg, w.text+next), "somebody without the key") })
	t.Run("behind the end", func(t *testing.T) { // which a public key alone does not prove
		end := w.lines[slices.IndexFunc(w.lines, func(line string) bool { return strings.Contains(line, `"end"`) })]
		text := strings.Replace(next, chainOf(genuine), chainOf(end), 1)
		text = strings.Replace(text, fmt.Sprint(seqOf(t, genuine)+1), fmt.Sprint(seqOf(t, end)+1), 1)
		wantFinding(t, verify(t, w.configs["public key"], w.text, text), "follows the end of chain")
	})
	t.Run("a chain of another key", func(t *testing.T) {
		wantFinding(t, verify(t, cfg, w.text, forged.text()), `which was not given`, other.ID())
	})
	t.Run("a chain of another key without its start", func(t *testing.T) {
		cfg := cfg
		cfg.OlderRemoved = true
		wantFinding(t, verify(t, cfg, w.text, strings.Join(lines[3:], "")), "without the key")
	})
	t.Run("a chain of another key that claims ours", func(t *testing.T) {
		text := strings.Replace(forged.text(), other.ID(), cfg.Keys[0].ID(), 1)
		wantFinding(t, verify(t, cfg, w.text, text), "without the key")
		wantFinding(t, verify(t, w.configs["public key"], w.text, text), "does not sign")
	})
	t.Run("rubbish", func(t *testing.T) {
		wantFinding(t, verify(t, cfg, w.text+"entry: allowed\n"), "is not an audit line")
		wantFinding(t, verify(t, cfg, w.text+strings.Repeat("x", 1<<18)+"\n"), "longer than any")
	})
	t.Run("a line of another chain", func(t *testing.T) {
		text := strings.Join(slices.Insert(slices.Clone(w.lines), 5, w.lines[len(w.lines)-3]), "")
		wantFinding(t, verify(t, cfg, text), "moved")
	})
	t.Run("both keys", func(t *testing.T) {
		cfg := cfg
		cfg.Keys = append(slices.Clone(cfg.Keys), other)
		wantSound(t, verify(t, cfg, w.text, forged.text()))
	})
}

// TestFindingsAreFew: one changed line does not make all those after it wrong.
func TestFindingsAreFew(t *testing.T) {
	w := newTampered(t)
	for _, test := range []struct {
		name, old, changed string
		want               map[string]int // of findings, by kind of key
	}{
		{"a field", `"crm"`, `"hrm"`, map[string]int{"key": 1, "public key": 1}},
		{"its mac", `"mac":"`, `"mac":"0`, map[string]int{"key": 2, "public key": 1}},
	} {
		w.each(t, func(t *testing.T, cfg audit.VerifyConfig) {
			lines := slices.Clone(w.lines)
			lines[4] = strings.Replace(lines[4], test.old, test.changed, 1)
			if len(lines[4]) > len(w.lines[4]) { // a digit too many
				lines[4] = lines[4][:len(lines[4])-4] + "\"}\n"
			}
			report := verify(t, cfg, strings.Join(lines, ""))
			kind := "public key"
			if cfg.Keys != nil {
				kind = "key"
			}
			if len(report.Findings) != test.want[kind] {
				t.Errorf("%s: got %s, want %d findings", test.name, report, test.want[kind])
			}
		})
	}
}

// TestManyFindings: a file of rubbish does not fill the memory.
func TestManyFindings(t *testing.T) {
	cfg := audit.VerifyConfig{Keys: []audit.Key{newKey(t)}}
	report := verify(t, cfg, strings.Repeat("rubbish\n", 5000))
	if len(report.Findings) != 1000 || report.More != 4001 /* and that there is no line */ {
		t.Errorf("got %d findings and %d more, want 1000 and 4001", len(report.Findings), report.More)
	}
	var chains strings.Builder
	for n := range 20_000 {
		id := fmt.Sprintf("%026d", n)
		id = strings.Map(func(r rune) rune { return r - '0' + 'a' }, id)
		fmt.Fprintf(&chains, `{"chain":"%s","seq":0,"time":"2001-01-01T00:00:00.000000Z","mac":"%032x"}`+"\n", id, n+1)
	}
	report = verify(t, cfg, chains.String())
	if len(report.Chains) != 1<<14 || report.Sound() {
		t.Errorf("got %d chains", len(report.Chains))
	}
}

func chainOf(line string) string { return line[len(`{"chain":"`):][:26] }

func seqOf(t *testing.T, line string) (seq int) {
	t.Helper()
	if _, err := fmt.Sscanf(line[len(`{"chain":"`)+26:], `","seq":%d`, &seq); err != nil {
		t.Fatal(err)
	}
	return seq
}
