package audit

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"strconv"
	"strings"
	"time"
)

// The rules of a chain:
//
//   - A line is a JSON object of ASCII: chain, seq (0, 1, 2, …), fields of its own,
//     mac. What stands before `,"mac":"` is its body.
//   - hash(line) = SHA-256(mac of the line before ‖ body); the first has zeros before it.
//   - mac(line) = the first 16 bytes of HMAC-SHA-256(chain key, hash(line)).
//   - A checkpoint signs SHA-256(the hashes of all lines from the checkpoint before,
//     itself included, to here) and the hash of what its own line has so far.
//   - Line 0 is a start; it names the lines that this chain follows. An end is a
//     checkpoint that nothing follows.
//
// The macs bind each line when it is written; they are for whoever has the key. The
// signatures bind the same lines once more for those who may check and not forge.

// macSize is the length of a line's keyed hash in bytes.
const macSize = 16

// How lines are put together, for those who write and those who read.
const (
	lineHead       = `{"chain":"`
	seqField       = `","seq":`
	typeField      = `"type":"`
	timeField      = `"time":`
	signatureField = `,"signature":"`
	macField       = `,"mac":"`
	lineTail       = `"}`
)

// The types of lines that are not entries.
const (
	typeStart      = "start"
	typeCheckpoint = "checkpoint"
	typeEnd        = "end"
)

// causeSinksFailed is why a chain follows another within one process.
const causeSinksFailed = "all sinks failed"

// mac is a line's keyed hash.
type mac [macSize]byte

// lineHash is the hash that a line's mac is made from.
type lineHash [sha256.Size]byte

// position names a line: chain/seq.
type position struct {
	chain string
	seq   uint64
}

func (p position) String() string { return p.chain + "/" + strconv.FormatUint(p.seq, 10) }

// parsePosition reads what String writes.
func parsePosition(s string) (position, bool) {
	chain, number, ok := strings.Cut(s, "/")
	seq, err := strconv.ParseUint(number, 10, 64)
	return position{chain, seq}, ok && err == nil && chain != ""
}

// chain makes lines. Not safe for concurrent use.
type chain struct {
	key    Key
	id     string
	seq    uint64
	last   mac
	line   hash.Hash // of the line being made
	keyed  hash.Hash // of its hash
	signed hash.Hash // of the hashes since the last checkpoint
	sum    lineHash  // scratch
}

func newChain(key Key) *chain {
	c := &chain{key: key, line: sha256.New(), keyed: hmac.New(sha256.New, key.chain.Reveal()), signed: sha256.New()}
	c.renew()
	return c
}

// renew begins another chain.
func (c *chain) renew() {
	c.id = strings.ToLower(rand.Text())
	c.seq, c.last = 0, mac{}
	c.signed.Reset()
}

// begin appends the start of a line up to where its own fields go.
func (c *chain) begin(buffer []byte) []byte {
	buffer = append(append(append(buffer, lineHead...), c.id...), seqField...)
	buffer = strconv.AppendUint(buffer, c.seq, 10)
	return append(buffer, ',')
}

// end closes the line whose body is the end of buffer.
func (c *chain) end(buffer []byte, start int) []byte {
	c.hash(buffer[start:])
	c.signed.Write(c.sum[:])
	c.keyed.Reset()
	c.keyed.Write(c.sum[:])
	copy(c.last[:], c.keyed.Sum(c.sum[:0]))
	c.seq++
	buffer = hex.AppendEncode(append(buffer, macField...), c.last[:])
	return append(append(buffer, lineTail...), '\n')
}

// hash leaves the hash of body in c.sum.
func (c *chain) hash(body []byte) {
	c.line.Reset()
	c.line.Write(c.last[:])
	c.line.Write(body)
	c.line.Sum(c.sum[:0])
}

// entry appends the line of e.
func (c *chain) entry(buffer []byte, e *Entry) []byte {
	start := len(buffer)
	return c.end(e.append(c.begin(buffer)), start)
}

// start appends the first line. It names the lines that were the last before it, so
// that a tail that is cut off later shows, and why it follows them if they are of
// the same process.
func (c *chain) start(buffer []byte, now time.Time, after []position, cause string) []byte {
	start := len(buffer)
	buffer = c.typed(buffer, typeStart, now)
	buffer, _ = appendString(append(buffer, `,"key":`...), c.key.id, maxString)
	separator := `,"after":[`
	for _, p := range after {
		buffer, _ = appendString(append(buffer, separator...), p.String(), maxString)
		separator = ","
	}
	if len(after) > 0 {
		buffer = append(buffer, ']')
	}
	if cause != "" {
		buffer, _ = appendString(append(buffer, `,"cause":`...), cause, maxString)
	}
	return c.end(buffer, start)
}

// checkpoint appends a signed line of type checkpoint or end.
func (c *chain) checkpoint(buffer []byte, now time.Time, kind string) []byte {
	start := len(buffer)
	buffer = c.typed(buffer, kind, now)
	c.hash(buffer[start:])
	signature := ed25519.Sign(c.key.sign(), checkpointText(c.signed.Sum(nil), c.sum[:]))
	c.signed.Reset()
	buffer = base64.StdEncoding.AppendEncode(append(buffer, signatureField...), signature)
	return c.end(append(buffer, '"'), start)
}

func (c *chain) typed(buffer []byte, kind string, now time.Time) []byte {
	buffer = append(append(append(c.begin(buffer), typeField...), kind...), `",`...)
	return appendTime(append(buffer, timeField...), now)
}

// checkpointText is what a checkpoint signs.
func checkpointText(lines, own []byte) []byte {
	return append(append([]byte("tokenbroker audit checkpoint\x00"), lines...), own...)
}
