package strictyaml_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

type sample struct {
	Name  string            `yaml:"name"`
	Count int               `yaml:"count"`
	Ratio float64           `yaml:"ratio"`
	On    bool              `yaml:"on"`
	Wait  time.Duration     `yaml:"wait"`
	List  []string          `yaml:"list"`
	Map   map[string]string `yaml:"map"`
	Sub   *struct {
		Deep string `yaml:"deep"`
	} `yaml:"sub"`
}

func TestDecode(t *testing.T) {
	tests := []struct {
		name, file string
		want       []string
	}{
		{"empty", "", nil},
		{"only a comment", "# nothing\n", nil},
		{"whole", "name: a\nwait: 3s\nlist: [x]\n", nil},
		{"with end marker", "name: a\n...\n", nil},
		{"unknown key", "name: a\nnam: b\n", []string{"2: unknown key nam"}},
		{"unknown key below", "sub:\n  dep: b\n", []string{"2: unknown key dep"}},
		{"duplicate key", "name: a\ncount: 1\nname: b\n", []string{`3: mapping key "name" already defined at line 1`}},
		{"syntax", "name: [a\n", []string{"2: did not find expected ',' or ']'"}},
		{"syntax further down", "name: a\nlist:\n  - [b\n  - c\n", []string{"3: did not find expected ',' or ']'"}},
		{"indentation", "name: a\nsub:\n  deep: b\n deeper: c\n", []string{"4: did not find expected key"}},
		{"unknown alias", "name: a\nlist: *b\n", []string{"1: unknown anchor 'b' referenced"}},
		{"tab", "sub:\n\tdeep: a\n", []string{"2: found character that cannot start any token"}},
		{"several at once", "nam: a\ncount: many\nlist: x\n", []string{"1: unknown key nam", "2: `many` is text where a whole number is needed", "3: `x` is text where a list is needed"}},
		{"types", "name: [a]\nratio: x\non: 3\nwait: x\nmap: [a]\nsub: x\n", []string{
			"1: is a list where text is needed", "2: `x` is text where a number is needed", "3: `3` is a number where true or false is needed",
			"4: `x` is text where a duration such as 30s is needed", "5: is a list where a mapping of keys is needed", "6: `x` is text, which cannot stand here",
		}},
		{"a list as the file", "- a\n", []string{"1: is a list, which cannot stand here"}},
		{"two documents", "name: a\n---\nname: b\n", []string{"2: begins a second document; put all settings into one"}},
		{"second document broken", "name: a\n---\n[\n", []string{"4: did not find expected node content"}},
		{"not UTF-8", "name: \xff\n", []string{"1: invalid leading UTF-8 octet"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, p := range strictyaml.Decode([]byte(test.file), new(sample)) {
				got = append(got, fmt.Sprintf("%d: %s", p.Line, p))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// TestDecodeFillsWhatIsRight: so that its meaning can be validated in the same go.
func TestDecodeFillsWhatIsRight(t *testing.T) {
	var got sample
	if problems := strictyaml.Decode([]byte("nam: a\ncount: x\nlist: [y]\n"), &got); len(problems) != 2 {
		t.Fatalf("got %v, want two problems", problems)
	}
	if !slices.Equal(got.List, []string{"y"}) {
		t.Errorf("got %+v, want the list filled", got)
	}
}

func TestDocument(t *testing.T) {
	doc := strictyaml.NewDocument([]byte("# head\nname: a\nsub:\n  deep: >\n    one\n    two\nlist:\n  - x\n  -\n  - z\nmap: {k: ~, l: v}\n"))
	for key, want := range map[string]int{
		"": 2, "name": 2, "sub": 3, "sub.deep": 4, "sub.other": 3, "list[0]": 8, "list[2]": 10, "list[7]": 7, "list[-1]": 7, "nothing": 2, "map.l": 11,
	} {
		if got := doc.Line(key); got != want {
			t.Errorf("Line(%q) = %d, want %d", key, got, want)
		}
	}
	if !doc.Has("list[2]") || doc.Has("list[3]") || doc.Has("sub.other") {
		t.Error("Has is wrong about what the file has")
	}
	if !doc.Holds("list", 9) || doc.Holds("list", 11) || doc.Holds("list", 6) || doc.Holds("nothing", 2) {
		t.Error("Holds is wrong about the lines of list")
	}
	if doc.Length("list") != 3 || doc.Length("sub") != -1 || doc.Length("nothing") != -1 {
		t.Error("Length is wrong")
	}
	problems := []strictyaml.Problem{{Key: "list[1]", Text: "x"}}
	doc.Locate(problems)
	if problems[0].Line != 9 {
		t.Errorf("located on line %d, want 9", problems[0].Line)
	}
	var got []string
	for _, p := range doc.Nulls() {
		got = append(got, fmt.Sprintf("%d: %s", p.Line, p))
	}
	if want := []string{"9: list[1]: has no value", "11: map.k: has no value"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAliases(t *testing.T) {
	doc := strictyaml.NewDocument([]byte("name: &n a\nlist:\n  - *n\nmap: {<<: *n}\n"))
	var got []string
	for _, p := range doc.Aliases() {
		got = append(got, fmt.Sprintf("%d: %s", p.Line, p))
	}
	if want := []string{"3: *n is an alias; write out what it stands for", "4: *n is an alias; write out what it stands for"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDuplicates(t *testing.T) {
	const text = "name: a\nmap: {k: 1, l: 2, k: 3}\nname: b\n"
	doc := strictyaml.NewDocument([]byte(text))
	var got []string
	for _, p := range doc.Duplicates() {
		got = append(got, fmt.Sprintf("%d: %s", p.Line, p))
	}
	if want := []string{`3: mapping key "name" already defined at line 1`, `2: mapping key "k" already defined at line 2`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, p := range strictyaml.Decode([]byte(text), new(sample)) { // one mapping at a time
		if said := fmt.Sprintf("%d: %s", p.Line, p); !slices.Contains(got, said) {
			t.Errorf("got %q, where decoding finds %q", got, said)
		}
	}
}

func TestDocumentOfNothing(t *testing.T) {
	for _, raw := range []string{"", "a: [", "# x"} {
		doc := strictyaml.NewDocument([]byte(raw))
		if doc.Line("a.b") != 1 || doc.Has("a") || doc.Holds("a", 1) || doc.Nulls() != nil || doc.Aliases() != nil || doc.Duplicates() != nil || doc.Length("a") != -1 {
			t.Errorf("%q: a document without keys says that it has some", raw)
		}
	}
}

func TestError(t *testing.T) {
	if err := strictyaml.NewError("f", nil); err != nil {
		t.Errorf("got %v for no problems", err)
	}
	err := strictyaml.NewError("f.yaml", []strictyaml.Problem{{Line: 3, Key: "b", Text: "late"}, {Line: 1, Text: "early"}})
	if got, want := err.Error(), "f.yaml:1: early\nf.yaml:3: b: late"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzDecode: whatever a file holds, there is no panic, and each problem has a line
// of the file.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"", "name: a", "a: &x [*x]\n", "<<: {name: b}\n", "? [a]\n: b\n", "name: a\n---\n", "sub: {deep: !!binary aGk=}", "a: *b", "!!map {}", "&a : *a"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		lines := strings.Count(string(raw), "\n") + strings.Count(string(raw), "\r") + strings.Count(string(raw), "\u0085") +
			strings.Count(string(raw), "\u2028") + strings.Count(string(raw), "\u2029") + 2
		doc := strictyaml.NewDocument(raw)
		for _, p := range slices.Concat(strictyaml.Decode(raw, new(sample)), doc.Nulls(), doc.Aliases()) {
			if p.Line < 1 || p.Line > lines || p.Text == "" {
				t.Errorf("problem %+v in a file of %d lines", p, lines)
			}
		}
	})
}
