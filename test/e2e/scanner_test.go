package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// scanner finds values that must not be anywhere, whole or in pieces, in each of
// the spellings in which text and bytes are written down.
type scanner struct {
	begins [1 << 16]bool // whether a needle begins with these two bytes
	// needles :: first eight bytes → the needles that begin so.
	needles map[uint64][]needle
}

type needle struct {
	text []byte
	what string
}

const (
	// piece is how much of a value gives it away.
	piece = 16
	// shortest is the length of the shortest needle.
	shortest = 12
)

func newScanner() *scanner { return &scanner{needles: map[uint64][]needle{}} }

// add makes the scanner look for each piece of value, and of value as HTTP Basic
// has it before base64.
func (s *scanner) add(what string, value []byte) {
	s.addPieces(what, value)
	if escaped := url.QueryEscape(string(value)); escaped != string(value) {
		s.addPieces(what+", form-encoded", []byte(escaped))
	}
}

func (s *scanner) addPieces(what string, value []byte) {
	for from := 0; from < len(value); from += piece {
		part := value[from:min(from+piece, len(value))]
		if len(part) < shortest {
			if from > 0 {
				part = value[max(0, len(value)-piece):]
			} else {
				panic("too short to be looked for: " + what)
			}
		}
		for spelling, text := range spellings(part) {
			if len(text) < shortest {
				continue
			}
			key := binary.LittleEndian.Uint64(text)
			s.begins[binary.LittleEndian.Uint16(text)] = true
			s.needles[key] = append(s.needles[key], needle{text, fmt.Sprintf("%s, bytes %d on, %s", what, from, spelling)})
		}
	}
}

// spellings returns the ways in which bytes can be written down.
func spellings(value []byte) map[string][]byte {
	quoted := func(s string) string { return s[1 : len(s)-1] }
	asJSON, _ := json.Marshal(string(value))
	list := map[string][]byte{
		"raw":                 value,
		"hex":                 []byte(hex.EncodeToString(value)),
		"upper hex":           []byte(strings.ToUpper(hex.EncodeToString(value))),
		"URL query":           []byte(url.QueryEscape(string(value))),
		"URL path":            []byte(url.PathEscape(string(value))),
		"URL, lower case":     lowerEscapes(url.QueryEscape(string(value))),
		"JSON":                []byte(quoted(string(asJSON))),
		"Go":                  []byte(quoted(strconv.Quote(string(value)))),
		"a list of numbers":   []byte(strings.Trim(fmt.Sprint(value), "[]")),
		"numbers with commas": []byte(strings.ReplaceAll(strings.Trim(fmt.Sprint(value), "[]"), " ", ",")),
	}
	for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
		// Where a value begins within what is encoded decides how it looks: there are
		// three ways, and the characters at both ends depend on the neighbours too.
		for before := range 3 {
			text := encoding.EncodeToString(append(make([]byte, before), value...))
			text = text[(before*8+5)/6:]
			if (before+len(value))%3 != 0 {
				text = text[:len(text)-1]
			}
			list[fmt.Sprintf("%s after %d bytes", name, before)] = []byte(text)
		}
	}
	return list
}

// lowerEscapes writes the digits of %XX small.
func lowerEscapes(s string) []byte {
	out := []byte(s)
	for i := 0; i+2 < len(out); i++ {
		if out[i] == '%' {
			copy(out[i+1:], bytes.ToLower(out[i+1:i+3]))
		}
	}
	return out
}

// scan returns what it found in data, each value once.
func (s *scanner) scan(data []byte) []string {
	var found []string
	seen := map[string]bool{}
	for i := 0; i+8 <= len(data); i++ {
		if !s.begins[binary.LittleEndian.Uint16(data[i:])] {
			continue
		}
		for _, n := range s.needles[binary.LittleEndian.Uint64(data[i:])] {
			if bytes.HasPrefix(data[i:], n.text) && !seen[n.what] {
				seen[n.what] = true
				from := max(0, i-60)
				found = append(found, fmt.Sprintf("%s, after %q", n.what, data[from:i]))
			}
		}
	}
	return found
}

// scanFolder scans the names and contents of all files below a folder, and returns
// how many bytes it has seen.
func (s *scanner) scanFolder(dir string) (found []string, size int, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		found = append(found, s.scan([]byte(path))...)
		if !entry.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		size += len(content)
		for _, f := range s.scan(content) {
			found = append(found, path+": "+f)
		}
		return nil
	})
	return found, size, err
}

// folderOf returns the names in a folder.
func folderOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// TestScanner makes sure that what is hidden is found: a search that finds nothing
// proves nothing else.
func TestScanner(t *testing.T) {
	const value = `cAnArY: 7f3a9c+/=~"%\ of a secret that has a length`
	s := newScanner()
	s.add("the value", []byte(value))
	for spelling, text := range spellings([]byte(value)) {
		if got := s.scan([]byte("noise " + string(text) + " noise")); len(got) == 0 {
			t.Errorf("the whole value as %s is not found", spelling)
		}
	}
	for name, text := range map[string]string{
		"a piece":                   "x" + value[:piece] + "x",
		"the end":                   value[len(value)-piece:],
		"base64 of a header":        base64.StdEncoding.EncodeToString([]byte("my-client:" + url.QueryEscape(value))),
		"base64 of a longer header": base64.StdEncoding.EncodeToString([]byte("my-client1:" + value)),
		"a JSON log line":           fmt.Sprintf(`{"msg":%q}`, "secret is "+value),
		"bytes in a log line":       fmt.Sprint([]byte(value)),
	} {
		if got := s.scan([]byte(text)); len(got) == 0 {
			t.Errorf("%s is not found in %q", name, text)
		}
	}
	if got := s.scan([]byte("cAnArY: 7f3a9c")); len(got) != 0 {
		t.Errorf("%q is found where too little of it is", got)
	}
}
