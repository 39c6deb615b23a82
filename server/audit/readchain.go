package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"strconv"
)

// verifyKey checks lines, or, if it is only a public key, checkpoints.
type verifyKey struct {
	id     string
	keyed  hash.Hash // nil for a public key
	public ed25519.PublicKey
}

func newVerifyKey(key Key) *verifyKey {
	k := &verifyKey{id: key.id, public: key.public.key}
	if key.sign != nil {
		k.keyed = hmac.New(sha256.New, key.chain.Reveal())
	}
	return k
}

// lineChecker computes what chain computes.
type lineChecker struct {
	line hash.Hash
	sum  [sha256.Size]byte // scratch
}

func newLineChecker() lineChecker { return lineChecker{line: sha256.New()} }

func (l *lineChecker) hash(before mac, body []byte) lineHash {
	l.line.Reset()
	l.line.Write(before[:])
	l.line.Write(body)
	return lineHash(l.line.Sum(l.sum[:0]))
}

// fits reports whether k made m from h.
func (l *lineChecker) fits(k *verifyKey, h lineHash, m mac) bool {
	k.keyed.Reset()
	k.keyed.Write(h[:])
	return hmac.Equal(k.keyed.Sum(l.sum[:0])[:macSize], m[:])
}

// recentLines is how many lines of a chain are remembered, for sources that come to
// the same line later because other chains stand before it there.
const recentLines = 128

// recent is a line that was taken.
type recent struct {
	seq  uint64
	hash lineHash
	mac  mac
}

// place is where a line is.
type place struct {
	source string
	number int
}

// String returns file:line.
func (p place) String() string {
	if p == (place{}) {
		return "all files"
	}
	return p.source + ":" + strconv.Itoa(p.number)
}

// stamp is a time as a line has it, or zeros.
type stamp [timeSize]byte

func (t stamp) String() string {
	if t == (stamp{}) {
		return ""
	}
	return string(t[:])
}

// after reports whether t is later than u.
func (t stamp) after(u stamp) bool { return bytes.Compare(t[:], u[:]) > 0 }

// readChain is a chain as far as it was read.
type readChain struct {
	id      string
	waiting []*source // those that stand at a line of it, by number
	next    uint64    // number of the line to come
	last    mac
	linked  bool        // last is that of line next-1
	key     *verifyKey  // nil: not known yet, or not given
	foreign bool        // its key was not given
	signed  hash.Hash   // of the hashes of lines since the last checkpoint
	whole   bool        // no line is missing or wrong since then
	since   place       // where that checkpoint is
	tail    uint64      // lines since then
	ring    []recent    // by number modulo its length; empty if there is only one source
	newest  stamp       // the newest time of a line
	after   []position  // lines that it follows
	cause   string      // why
	began   place       // where its first line is
	ended   place       // where its last line is
	begin   stamp       // the first line's time
	end     stamp       // the last line's time
	checked stamp       // the last good checkpoint's time
	closed  bool        // by an end
	extra   bool        // a line came after the end
	report  ChainReport // filled in as lines come

	// What other chains say of it.
	followed, failed bool
}

func newReadChain(id string, several bool) *readChain {
	c := &readChain{id: id, linked: true, whole: true, signed: sha256.New(), report: ChainReport{ID: id}}
	if several {
		c.ring = make([]recent, recentLines)
	}
	return c
}

// ready reports whether no line is missing before the first that a source stands at.
func (c *readChain) ready() bool { return c.waiting[0].line.seq <= c.next }

// before reports whether c is to be read on before d.
func (c *readChain) before(d *readChain) bool {
	if c.ready() != d.ready() {
		return c.ready()
	}
	return d.waiting[0].line.time.after(c.waiting[0].line.time)
}

// interrupt goes on at number next without what is before it.
func (c *readChain) interrupt(next uint64) { c.next, c.linked, c.whole = next, false, false }

// recall returns a line if it is remembered.
func (c *readChain) recall(seq uint64) (recent, bool) {
	if len(c.ring) == 0 || seq >= c.next {
		return recent{}, false
	}
	r := c.ring[seq%recentLines]
	return r, r.seq == seq && r.mac != mac{}
}
