package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// maxFindings and maxChains bound memory where a file is not what it should be.
	maxFindings = 1000
	maxChains   = 1 << 14
	// stillRunning is how old the newest line of a running process may be: it writes
	// one every [checkpointEvery].
	stillRunning = 3 * checkpointEvery
)

// VerifyConfig is what [Verify] needs to know besides the files.
type VerifyConfig struct {
	// Keys and PublicKeys are those that the files were written with. With a key each
	// line is checked; with a public key all lines up to the last checkpoint.
	Keys       []Key
	PublicKeys []PublicKey
	// OlderRemoved says that older files are not kept, so that chains may begin in the
	// middle or follow chains that are not there.
	OlderRemoved bool
	// Killed are chains of processes that are known to have been killed, as the
	// chain/number of the last line that each is known to have had.
	Killed []string
	// Running is how many processes are known to be running now. Fewer in the files
	// mean that some do not write, or that what they wrote was removed as a whole.
	Running int
	// Now says which chains may be still running; zero means now.
	Now time.Time
}

// Source is one audit file, or what a syslog daemon or container runtime made of one.
type Source struct {
	Name   string
	Reader io.Reader
}

// VerifyFiles opens the files at paths, also those compressed by gzip, and verifies
// them.
func VerifyFiles(cfg VerifyConfig, paths ...string) (Report, error) {
	sources := make([]Source, 0, len(paths))
	for _, path := range paths {
		file, _, err := openRegular(path, os.O_RDONLY)
		if err != nil {
			return Report{}, fmt.Errorf("audit verify: %w", err)
		}
		defer func() { _ = file.Close() }()
		reader := bufio.NewReaderSize(file, lineBuffer)
		source := Source{path, reader}
		if magic, _ := reader.Peek(2); string(magic) == "\x1f\x8b" {
			if source.Reader, err = gzip.NewReader(reader); err != nil {
				return Report{}, fmt.Errorf("audit verify: %s: %w", path, err)
			}
		}
		sources = append(sources, source)
	}
	return Verify(cfg, sources...)
}

// Verify checks audit files of any number of processes, replicas and sinks together,
// in any order. Its errors are those of reading and of cfg; what is wrong with the
// content is in the report.
//
// It reads all sources side by side, each once, and holds one line of each: where
// several have the same line, they meet there. So its memory depends on the number of
// files and chains, not on their size.
func Verify(cfg VerifyConfig, sources ...Source) (Report, error) {
	v, err := newVerifier(cfg, len(sources))
	if err != nil {
		return Report{}, fmt.Errorf("audit verify: %w", err)
	}
	for _, s := range sources {
		v.put(&source{name: s.Name, reader: newLineReader(s.Reader), cursors: map[*readChain]*cursor{}, over: map[string]string{}})
	}
	for v.err == nil && v.step() {
	}
	if v.err != nil {
		return Report{}, fmt.Errorf("audit verify: %w", v.err)
	}
	return v.finish(), nil
}

// verifier reads sources side by side.
type verifier struct {
	cfg      VerifyConfig
	killed   map[string]uint64 // :: chain → number of a line that it had
	keys     []*verifyKey
	check    lineChecker
	several  bool                  // sources
	chains   map[string]*readChain // by id
	active   []*readChain          // those that sources wait for
	current  *readChain            // the one that pick would find again, up to the time until
	until    stamp
	taken    []*source // scratch
	findings []Finding
	notes    []Finding
	more     int
	err      error // of reading
}

func newVerifier(cfg VerifyConfig, sources int) (*verifier, error) {
	v := &verifier{cfg: cfg, killed: map[string]uint64{}, chains: map[string]*readChain{}, several: sources > 1, check: newLineChecker()}
	if v.cfg.Now.IsZero() {
		v.cfg.Now = time.Now()
	}
	for _, key := range cfg.Keys {
		v.keys = append(v.keys, newVerifyKey(key))
	}
	for _, key := range cfg.PublicKeys {
		if v.key(key.id) == nil {
			v.keys = append(v.keys, &verifyKey{id: key.id, public: key.key})
		}
	}
	if len(v.keys) == 0 || slices.ContainsFunc(v.keys, func(k *verifyKey) bool { return len(k.public) == 0 }) {
		return nil, errors.New("a key is required")
	}
	for _, killed := range cfg.Killed {
		p, ok := parsePosition(killed)
		if !ok {
			return nil, fmt.Errorf("killed: %q is not chain/number", killed)
		}
		v.killed[p.chain] = max(p.seq, v.killed[p.chain])
	}
	return v, nil
}

// key returns the key of that id, or nil.
func (v *verifier) key(id string) *verifyKey {
	if i := slices.IndexFunc(v.keys, func(k *verifyKey) bool { return k.id == id }); i >= 0 {
		return v.keys[i]
	}
	return nil
}

func (v *verifier) find(where place, format string, args ...any) {
	if len(v.findings) == maxFindings {
		v.more++
		return
	}
	v.findings = append(v.findings, Finding{where.String(), fmt.Sprintf(format, args...)})
}

func (v *verifier) note(where place, problem string) {
	if len(v.notes) < maxFindings {
		v.notes = append(v.notes, Finding{where.String(), problem})
	}
}

// chain returns the chain of that id; nil if there are too many.
func (v *verifier) chain(id []byte) *readChain {
	c := v.chains[string(id)]
	if c == nil && len(v.chains) < maxChains {
		c = newReadChain(string(id), v.several)
		v.chains[c.id] = c
	}
	return c
}

// put reads the next line of s and lets s wait where its chain comes to it.
func (v *verifier) put(s *source) {
	if v.err = s.next(v); v.err != nil || s.chain == nil {
		return
	}
	c := s.chain
	if c != v.current {
		v.current = nil // c may be the one to go on with now
	}
	if len(c.waiting) == 0 {
		v.active = append(v.active, c)
	}
	at, _ := slices.BinarySearchFunc(c.waiting, s.line.seq, func(other *source, seq uint64) int { return cmp.Compare(other.line.seq, seq) })
	c.waiting = slices.Insert(c.waiting, at, s)
}

// step takes the next line of one chain from all sources that have it. It reports
// whether there was one.
func (v *verifier) step() bool {
	if len(v.active) == 0 {
		return false
	}
	c := v.pick()
	first := c.waiting[0]
	if first.line.seq > c.next {
		v.skip(c, first)
	}
	same := 1
	for same < len(c.waiting) && c.waiting[same].line.seq == first.line.seq {
		same++
	}
	v.taken = append(v.taken[:0], c.waiting[:same]...)
	c.waiting = slices.Delete(c.waiting, 0, same)
	if len(c.waiting) == 0 {
		v.active = slices.DeleteFunc(v.active, func(other *readChain) bool { return other == c })
	}
	if first.line.seq < c.next {
		for _, s := range v.taken {
			v.late(c, s)
		}
	} else {
		v.take(c, v.taken)
	}
	for _, s := range v.taken {
		if v.put(s); v.err != nil {
			return false
		}
	}
	return true
}

// pick returns the chain to go on with: of those whose next line is there the one
// with the oldest, so that sources which hold several chains are read evenly. Where
// all wait, lines are missing.
func (v *verifier) pick() *readChain {
	if c := v.current; c != nil && len(c.waiting) > 0 && c.ready() && !c.waiting[0].line.time.after(v.until) {
		return c
	}
	v.until = stamp{'~'} // after all times
	var best *readChain
	for _, c := range v.active {
		switch {
		case best == nil || c.before(best):
			if best != nil && best.ready() {
				v.until = best.waiting[0].line.time
			}
			best = c
		case c.ready() && v.until.after(c.waiting[0].line.time):
			v.until = c.waiting[0].line.time
		}
	}
	v.current = best
	return best
}

// skip notes that lines are missing before the one that s has.
func (v *verifier) skip(c *readChain, s *source) {
	what := fmt.Sprintf("lines %d to %d of chain %s are missing before it", c.next, s.line.seq-1, c.id)
	if c.next == s.line.seq-1 {
		what = fmt.Sprintf("line %d of chain %s is missing before it", c.next, c.id)
	}
	switch {
	case c.next > 0:
		v.find(s.where(), "%s", what)
	case !v.cfg.OlderRemoved:
		v.find(s.where(), "%s: older files were not given, or its beginning was cut off", what)
	default:
		v.note(s.where(), fmt.Sprintf("chain %s begins here in the middle: what was before, and this line, cannot be checked", c.id))
	}
	c.interrupt(s.line.seq)
}

// finish looks at how chains begin, end and follow each other.
func (v *verifier) finish() Report {
	order := make([]*readChain, 0, len(v.chains))
	for _, c := range v.chains {
		order = append(order, c)
	}
	slices.SortFunc(order, func(a, b *readChain) int {
		return cmp.Or(bytes.Compare(a.begin[:], b.begin[:]), strings.Compare(a.id, b.id))
	})
	for _, c := range order {
		v.link(c)
	}
	report := Report{}
	if len(order) == 0 {
		v.find(place{}, "no file has an audit line")
	}
	running := 0
	for _, c := range order {
		v.ending(c)
		if c.report.Ending == Running {
			running++
		}
		c.report.Begin, c.report.End, c.report.Checkpoint = c.begin.String(), c.end.String(), c.checked.String()
		c.report.Unproven += c.tail
		report.Chains = append(report.Chains, c.report)
	}
	if running < v.cfg.Running {
		v.find(place{}, "of %d running processes only %d have written within %v", v.cfg.Running, running, stillRunning)
	}
	report.Findings, report.More, report.Notes = v.findings, v.more, v.notes
	return report
}

// link holds the lines that a chain says it follows against those that are there.
func (v *verifier) link(c *readChain) {
	for _, p := range c.after {
		c.report.After = append(c.report.After, p.String())
		before := v.chains[p.chain]
		switch {
		case before == nil && !v.cfg.OlderRemoved:
			v.find(c.began, "follows line %d of chain %s, of which nothing is there: older files were not given, or it was removed", p.seq, p.chain)
		case before == nil:
			v.note(c.began, fmt.Sprintf("follows chain %s, of which nothing is there", p.chain))
		case before.next <= p.seq:
			v.find(c.began, "follows line %d of chain %s, which now ends with line %d: its tail was cut off", p.seq, p.chain, before.next-1)
		default:
			before.followed = true
			before.failed = before.failed || c.cause == causeSinksFailed
		}
	}
}

// ending says how a chain ends.
func (v *verifier) ending(c *readChain) {
	newest, err := time.Parse(time.RFC3339Nano, c.newest.String())
	known, isKilled := v.killed[c.id]
	switch {
	case c.closed:
		c.report.Ending = Closed
	case c.failed:
		c.report.Ending = SinksFailed
	case !c.followed && err == nil && v.cfg.Now.Sub(newest) < stillRunning:
		c.report.Ending = Running
	case isKilled && known < c.next:
		c.report.Ending = Broken
	default:
		c.report.Ending = Broken
		by := ""
		if c.followed {
			by = "; the next process found it so"
		}
		v.find(c.ended, "is the last line of chain %s, though not its end: the process was killed, or the tail was cut off%s (once it is known to have been killed: --killed %s)",
			c.id, by, position{c.id, c.next - 1})
	}
}
