package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"google.golang.org/protobuf/proto"
)

// FuzzReference: what is taken has three parts and is what was written.
func FuzzReference(f *testing.F) {
	for _, seed := range []string{"secret/crm/oauth#client_secret", "team/kv//crm#value", "a#b", "//#", "a/b#", "#", "a//b//c#d#e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseReference(text)
		if err != nil {
			return
		}
		if r.GetMount() == "" || r.GetPath() == "" || r.GetField() == "" {
			t.Errorf("%q was taken with an empty part: %v", text, r)
		}
		if short, long := r.GetMount()+"/"+r.GetPath()+"#"+r.GetField(), r.GetMount()+"//"+r.GetPath()+"#"+r.GetField(); text != short && text != long {
			t.Errorf("%q was taken for %q", text, long)
		}
	})
}

// FuzzClean: what is printed moves no cursor and stays on its line.
func FuzzClean(f *testing.F) {
	f.Add("a\x1b[2Jb\u202e\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsFunc(clean(text), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("clean(%q) = %q", text, clean(text))
		}
	})
}

// FuzzConfiguration: whatever the file holds there is no panic, what is taken says who
// the operator is, and what `context set` writes can be read again.
func FuzzConfiguration(f *testing.F) {
	f.Add("current: a\ncontexts:\n  a: {address: \"x:1\", token_file: t}\n")
	f.Add("contexts: {a: {unix_socket: s}}\n# end")
	f.Add("contexts: &x {a: *x}")
	f.Add("current: [\n")
	f.Add("&0: {0: {0: 0}} #0")
	f.Fuzz(func(t *testing.T, text string) {
		o := newOperator(t)
		path := filepath.Join(o.home, "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := o.run("--config", path, "context", "list"); got.status != exitDone {
			got.want(exitUsage, "c.yaml:")
			return
		}
		set := o.run("--config", path, "context", "set", "fuzzed", "--unix-socket", "/s", "--use")
		if set.status != exitDone {
			set.want(exitUsage, "change it by hand")
			if now, err := os.ReadFile(path); err != nil || string(now) != text {
				t.Errorf("what cannot be changed was: %v, %q", err, now)
			}
			return
		}
		o.run("--config", path, "context", "show").want(exitDone, "fuzzed")
	})
}

// FuzzClientFile: what can be read is written as what it was, and nothing breaks off.
func FuzzClientFile(f *testing.F) {
	f.Add(acmeFile)
	f.Add("name: a\nsecret: {reference: a/b#c, expire_time: 2030-01-01}\n")
	f.Add(`{"name": "a", "rotation": {"windows": [{"days": ["mon"], "begin": "01:00", "end": "02:00"}], "every": "1.5h"}}`)
	f.Add("name: a\nissue_budget: {tokens: 3, period: 1h}\nparameters: {\"\": \"\", a: \"\\0\"}\nlabels: {<<: *x}\n")
	f.Fuzz(func(t *testing.T, content string) {
		r := &clientReader{path: "f.yaml", line: 1, scrubber: &scrubber{}}
		file := r.read([]byte(content))
		if r.err() != nil {
			return
		}
		text, err := settingsYAML(file.client)
		if err != nil {
			t.Fatalf("%q cannot be written: %v", content, err)
		}
		again := &clientReader{path: "f.yaml", line: 1, scrubber: &scrubber{}}
		if got := again.read(text); again.err() != nil || !proto.Equal(got.client, file.client) {
			t.Errorf("%q is written as\n%s\nwhich is read as %v (%v), want %v", content, text, got, again.err(), file.client)
		}
	})
}
