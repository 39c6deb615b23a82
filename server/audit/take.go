package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
)

// verdict is what a mac says of a line.
type verdict int

const (
	unknown verdict = iota // there is no key for it, or the line before is missing
	wrong
	proven
)

// judge says whether the line that s stands at is c's next, and with which key.
func (v *verifier) judge(c *readChain, s *source) (verdict, *verifyKey) {
	if !c.linked || c.foreign {
		return unknown, c.key
	}
	h := v.check.hash(c.last, s.line.body)
	key := c.key
	if key == nil {
		key = v.keyOf(&s.line, h)
	}
	switch {
	case key == nil || key.keyed == nil:
		return unknown, key
	case v.check.fits(key, h, s.line.mac):
		return proven, key
	default:
		return wrong, key
	}
}

// keyOf finds out which key a line was made with: the one that fits, or else the one
// that a start names, or else the only one there is.
func (v *verifier) keyOf(l *line, h lineHash) *verifyKey {
	for _, key := range v.keys {
		if key.keyed != nil && v.check.fits(key, h, l.mac) {
			return key
		}
	}
	if l.kind == typeStart {
		return v.key(l.start().Key)
	}
	if len(v.keys) == 1 {
		return v.keys[0]
	}
	return nil
}

// take takes the next line of c from the sources that have it: a copy that is proven,
// or else the first.
func (v *verifier) take(c *readChain, copies []*source) {
	best := copies[0]
	is, key := v.judge(c, best)
	for _, s := range copies[1:] {
		if is == proven {
			break
		}
		if other, otherKey := v.judge(c, s); other == proven {
			best, is, key = s, other, otherKey
		}
	}
	c.key = key
	l := &best.line
	if is == wrong {
		v.find(best.where(), "was changed, or the line before it was, or somebody without the key wrote it")
	}
	for _, s := range copies {
		if s != best && (s.line.mac != l.mac || !bytes.Equal(s.line.body, l.body)) {
			v.find(s.where(), "differs from the same line at %s", best.where())
		}
	}
	if c.begin == (stamp{}) {
		c.began, c.since, c.begin = best.where(), best.where(), l.time
		c.report.First = l.seq
	}
	if c.closed && !c.extra {
		c.extra = true
		v.find(best.where(), "follows the end of chain %s", c.id)
	}
	v.accept(c, best, is)
	if l.kind == typeStart && is != wrong {
		for _, s := range copies {
			for _, p := range c.after {
				s.over[p.chain] = c.id
			}
		}
	}
}

// accept makes the line that s stands at the last one of c.
func (v *verifier) accept(c *readChain, s *source, is verdict) {
	l := &s.line
	h := v.check.hash(c.last, l.body)
	c.whole = c.whole && is != wrong
	sound := c.linked && is != wrong
	switch l.kind {
	case typeStart:
		if is != wrong {
			v.start(c, s)
		}
	case typeCheckpoint, typeEnd:
		signed := v.checkpoint(c, s)
		c.closed = c.closed || l.kind == typeEnd && (signed || is == proven)
		c.tail, c.whole, c.since = 0, sound && !c.foreign, s.where()
		c.signed.Reset()
	default:
		c.report.Entries++
		c.tail++
	}
	c.signed.Write(h[:])
	if len(c.ring) > 0 {
		c.ring[l.seq%recentLines] = recent{l.seq, h, l.mac}
	}
	c.last, c.linked, c.next = l.mac, true, l.seq+1
	if l.time.after(c.newest) {
		c.newest = l.time
	}
	c.ended, c.end, c.report.Last = s.where(), l.time, l.seq
}

// start reads what a start says.
func (v *verifier) start(c *readChain, s *source) {
	fields := s.line.start()
	if c.key == nil {
		c.foreign, c.whole = true, false
		v.find(s.where(), "chain %s was written with the key %q, which was not given", c.id, fields.Key)
		return
	}
	c.cause = fields.Cause
	for _, after := range fields.After {
		if p, ok := parsePosition(after); ok {
			c.after = append(c.after, p)
		}
	}
}

// checkpoint reports whether the checkpoint that s stands at signs the lines before it.
func (v *verifier) checkpoint(c *readChain, s *source) bool {
	if !c.whole {
		c.report.Unproven += c.tail
		return false
	}
	own, rest, _ := bytes.Cut(s.line.body, []byte(signatureField))
	signature, err := base64.StdEncoding.Strict().DecodeString(string(bytes.TrimSuffix(rest, []byte{'"'})))
	h := v.check.hash(c.last, own)
	text := checkpointText(c.signed.Sum(nil), h[:])
	keys := v.keys
	if c.key != nil {
		keys = []*verifyKey{c.key}
	}
	for _, key := range keys {
		if err == nil && ed25519.Verify(key.public, text, signature) {
			c.key = key
			c.checked = s.line.time
			return true
		}
	}
	c.report.Unproven += c.tail
	v.find(s.where(), "does not sign the lines since %s as they are: one was changed, removed, added or moved, or this checkpoint was", c.since)
	return false
}

// late checks a line that was taken from other sources before s came to it.
func (v *verifier) late(c *readChain, s *source) {
	l := &s.line
	known, there := c.recall(l.seq)
	before, linked := c.recall(l.seq - 1)
	if l.seq == 0 {
		before, linked = recent{}, true
	}
	switch {
	case there && linked:
		if l.mac != known.mac || v.check.hash(before.mac, l.body) != known.hash {
			v.find(s.where(), "differs from the same line in another file")
		}
	case s.adjacent && c.key != nil && c.key.keyed != nil:
		if !v.check.fits(c.key, v.check.hash(s.before, l.body), l.mac) {
			v.find(s.where(), "was changed, or the line before it was")
		}
	default:
		v.find(s.where(), "cannot be compared with the same line in another file, because it comes much later here: verify this file alone")
	}
}
