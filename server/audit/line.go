package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
)

// line is one line as it was read. Its slices are parts of what was parsed.
type line struct {
	chain []byte
	seq   uint64
	kind  string // typeStart, typeCheckpoint, typeEnd; "" for an entry
	time  stamp
	body  []byte
	mac   mac
}

// parseLine reads a line with or without its newline. It takes nothing that chain
// would not write, as far as that is looked at; the rest is for the mac to tell.
func parseLine(raw []byte) (line, bool) {
	raw = bytes.TrimSuffix(raw, []byte{'\n'})
	raw = raw[headerSize(raw):]
	at := len(raw) - len(macField) - 2*macSize - len(lineTail)
	if len(raw) > maxLine || at < 0 || string(raw[at:at+len(macField)]) != macField || string(raw[len(raw)-len(lineTail):]) != lineTail {
		return line{}, false
	}
	l := line{body: raw[:at]}
	// encoding/hex reads capitals too, which would be another line of the same mac.
	digits := raw[at+len(macField) : len(raw)-len(lineTail)]
	if _, err := hex.Decode(l.mac[:], digits); err != nil || bytes.ContainsAny(digits, "ABCDEF") {
		return line{}, false
	}
	ok := l.parseHead()
	return l, ok
}

// parseHead reads chain, number, type and time from the beginning of the body.
func (l *line) parseHead() bool {
	const idSize = 26 // of rand.Text
	rest, ok := bytes.CutPrefix(l.body, []byte(lineHead))
	if !ok || len(rest) < idSize {
		return false
	}
	l.chain, rest = rest[:idSize], rest[idSize:]
	for _, c := range l.chain {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(seqField)); !ok {
		return false
	}
	number, rest, ok := bytes.Cut(rest, []byte{','})
	seq, err := strconv.ParseUint(string(number), 10, 64)
	if !ok || err != nil || len(number) > 1 && number[0] == '0' {
		return false
	}
	l.seq = seq
	if typed, isTyped := bytes.CutPrefix(rest, []byte(typeField)); isTyped {
		kind, after, ok := bytes.Cut(typed, []byte(`",`))
		switch string(kind) {
		case typeStart:
			l.kind = typeStart
		case typeCheckpoint:
			l.kind = typeCheckpoint
		case typeEnd:
			l.kind = typeEnd
		default:
			return false
		}
		if rest = after; !ok {
			return false
		}
	}
	rest, ok = bytes.CutPrefix(rest, []byte(timeField+`"`))
	if !ok || len(rest) < timeSize+1 || rest[timeSize] != '"' {
		return false
	}
	l.time = stamp(rest)
	return true
}

// headerSize returns the length of what a syslog daemon or a container runtime puts
// before a line: something that ends in "tokenbroker[123]: " or " stdout F ". What
// it says is nobody's to prove.
func headerSize(raw []byte) int {
	if bytes.HasPrefix(raw, []byte(lineHead)) {
		return 0
	}
	at := bytes.Index(raw, []byte(lineHead))
	if at < 0 {
		return 0
	}
	header := raw[:at]
	if bytes.HasSuffix(header, []byte(" stdout F ")) {
		return at
	}
	if tagged, ok := bytes.CutSuffix(header, []byte("]: ")); ok {
		if tag := bytes.TrimRight(tagged, "0123456789"); len(tag) < len(tagged) && bytes.HasSuffix(tag, []byte(" "+syslogTag+"[")) {
			return at
		}
	}
	return 0
}

// isFragment reports whether raw may be part of a line, as a write that was cut
// short by a crash leaves behind: its beginning, or nothing but zeros.
func isFragment(raw []byte) bool {
	raw = bytes.TrimSuffix(raw, []byte{'\n'})
	if bytes.HasSuffix(raw, []byte(lineTail)) {
		return false
	}
	return len(bytes.Trim(raw, "\x00")) == 0 || bytes.HasPrefix(raw, []byte(lineHead)) || strings.HasPrefix(lineHead, string(raw))
}

// startFields are what only a start has.
type startFields struct {
	Key   string   `json:"key"`
	After []string `json:"after"`
	Cause string   `json:"cause"`
}

// start reads the fields of a line of type start.
func (l *line) start() startFields {
	var fields startFields
	// What is not JSON, its mac does not fit either.
	_ = json.Unmarshal(append(bytes.Clone(l.body), '}'), &fields)
	return fields
}
