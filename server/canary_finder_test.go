package server_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// finder finds marked values in text, also when only a part of one is there and
// however it is encoded. It looks for every run of 12 of a mark's bytes.
type finder struct {
	// windows is length of a run :: its text → the mark it is of.
	windows map[int]map[string]string

	mu sync.Mutex // guards windows: rotations go on beside the calls
}

// run is how many bytes of a mark are too many to be there by chance.
const run = 12

func newFinder() *finder { return &finder{windows: map[int]map[string]string{}} }

// add marks value, which should be random: parts of it must not be anywhere else.
func (f *finder) add(name string, value []byte) {
	texts := []string{
		string(value), url.QueryEscape(string(value)), url.PathEscape(string(value)), html.EscapeString(string(value)),
		strconv.Quote(string(value)), strconv.QuoteToASCII(string(value)), jsonText(value, true), jsonText(value, false),
		prototext.MarshalOptions{EmitASCII: true}.Format(wrapperspb.String(string(value))), prototext.Format(wrapperspb.Bytes(value)),
	}
	for _, text := range texts {
		text = strings.TrimSuffix(strings.TrimPrefix(text, `value:"`), `"`)
		f.slide(name, text, run)
	}
	f.slide(name+" in hex", hex.EncodeToString(value), 2*run)
	f.slide(name+" in HEX", strings.ToUpper(hex.EncodeToString(value)), 2*run)
	for shift := range 3 {
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(append(make([]byte, shift), value...))
			// What depends on the neighbours is not part of the mark.
			f.slide(name+" in base64", text[(8*shift+5)/6:len(text)-1], (run-1)*4/3)
		}
	}
}

func jsonText(value []byte, escapeHTML bool) string {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(escapeHTML)
	_ = encoder.Encode(string(value)) // a string always encodes
	return strings.Trim(text.String(), "\"\n")
}

func (f *finder) slide(name, text string, length int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.windows[length] == nil {
		f.windows[length] = map[string]string{}
	}
	for i := 0; i+length <= len(text); i++ {
		f.windows[length][text[i:i+length]] = name
	}
}

// find returns the names of the marks that are in text.
func (f *finder) find(text string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for length, windows := range f.windows {
		for i := 0; i+length <= len(text); i++ {
			if name, ok := windows[text[i:i+length]]; ok && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	return found
}

// random returns n random hex digits.
func random(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)[:n]
}

// TestFinder makes sure that the canary test can fail.
func TestFinder(t *testing.T) {
	value := markedSecret()
	f := newFinder()
	f.add("mark", []byte(value))
	ways := map[string]string{
		"raw": value, "part": value[10:25], "query": url.QueryEscape(value), "path": url.PathEscape(value), "html": html.EscapeString(value),
		"hex": hex.EncodeToString([]byte(value)), "HEX": fmt.Sprintf("%X", value), "quoted": fmt.Sprintf("%q", value), "ASCII": fmt.Sprintf("%+q", value),
		"JSON": jsonText([]byte(value), true), "JSON without HTML": jsonText([]byte(value), false), "prototext": prototext.Format(wrapperspb.String(value)),
		"special characters": value[len(value)/2-7 : len(value)/2+7],
	}
	for name, encoding := range map[string]*base64.Encoding{
		"std": base64.StdEncoding, "raw std": base64.RawStdEncoding, "url": base64.URLEncoding, "raw url": base64.RawURLEncoding,
	} {
		for shift := range 4 {
			ways[fmt.Sprintf("base64 %s shifted by %d", name, shift)] = encoding.EncodeToString([]byte("abcd"[:shift] + value + "xyz"))
		}
		ways["base64 of a part, "+name] = encoding.EncodeToString([]byte(value[5:20]))
	}
	for name, text := range ways {
		if len(f.find("before "+text+" after")) == 0 {
			t.Errorf("%s is not found: %s", name, text)
		}
	}
	other := markedSecret()
	for _, text := range []string{other, hex.EncodeToString([]byte(other)), base64.StdEncoding.EncodeToString([]byte(other)), "a private key (PEM or JWK)"} {
		if found := f.find(text[:len(text)/3]); len(found) != 0 {
			t.Errorf("found %v in %q, which is another text", found, text)
		}
	}
}

// markedSecret returns a random client secret with characters that encodings treat
// in their own ways.
func markedSecret() string { return "cs-" + random(24) + `"<&>+/=%é \?~'` + random(24) }
