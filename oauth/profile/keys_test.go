package profile_test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// keysOf returns the dotted paths of all keys of a profile: lists of structs as "[]",
// mappings to them as ".*".
func keysOf(typ reflect.Type, path string) []string {
	var keys []string
	for i := range typ.NumField() {
		field := typ.Field(i)
		name := field.Tag.Get("yaml")
		if !field.IsExported() || name == "" {
			continue
		}
		key, of := strings.TrimPrefix(path+"."+name, "."), field.Type
		switch {
		case of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct:
			key, of = key+"[]", of.Elem()
		case of.Kind() == reflect.Map && of.Elem().Kind() == reflect.Struct:
			key, of = key+".*", of.Elem()
		}
		if of.Kind() == reflect.Struct {
			keys = append(keys, keysOf(of, key)...)
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

func document(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestEveryKeyIsDocumented compares the struct with the table of docs/providers.md, in
// both directions.
func TestEveryKeyIsDocumented(t *testing.T) {
	keys := keysOf(reflect.TypeFor[profile.Profile](), "")
	if len(keys) < 50 {
		t.Fatalf("found only the keys %v", keys)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z_]+[^|]*) \\|").FindAllStringSubmatch(document(t), -1) {
		for _, key := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			documented = append(documented, key[1])
		}
	}
	for _, key := range keys {
		if !slices.Contains(documented, key) {
			t.Errorf("docs/providers.md does not describe `%s`", key)
		}
	}
	for _, key := range documented {
		if !slices.Contains(keys, key) {
			t.Errorf("docs/providers.md describes `%s`, which is no key", key)
		}
	}
}

// TestDocumentedExample: the example is sound, and the one that the command's help has.
func TestDocumentedExample(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(document(t), -1)
	if len(blocks) != 1 {
		t.Fatalf("docs/providers.md has %d YAML blocks, want one", len(blocks))
	}
	p, err := profile.Parse("acme.yaml", []byte(blocks[0][1]))
	if err != nil {
		t.Fatal(err)
	}
	lines := p.Describe(p.Examples())
	for _, want := range []string{"With the variables tenant=t1 (required):", "Tokens are asked for at https://t1.acme.example/oauth/token."} {
		if !slices.Contains(lines, want) || !strings.Contains(document(t), "  "+want+"\n") {
			t.Errorf("%q is not what the document shows: it means %q", want, lines)
		}
	}
	help, err := os.ReadFile("../../cmd/tokenbroker/provider-example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if blocks[0][1] != string(help) {
		t.Error("the example differs from that of `tokenbroker provider check --help`")
	}
}

// TestDocumentedReasons: the document lists what errors.aliases takes.
func TestDocumentedReasons(t *testing.T) {
	_, err := profile.Parse("acme.yaml", []byte(head+"errors: {aliases: {bad: X}}\n"))
	if err == nil {
		t.Fatal("takes a reason that is none")
	}
	_, after, _ := strings.Cut(document(t), "Reasons of `errors` are those that an answer can mean: ")
	listed, _, _ := strings.Cut(after, ".\n")
	for _, reason := range regexp.MustCompile(`[A-Z]+(_[A-Z0-9]+)+`).FindAllString(err.Error(), -1) {
		if !slices.Contains(strings.FieldsFunc(listed, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }), reason) {
			t.Errorf("docs/providers.md does not list %s", reason)
		}
	}
	for _, reason := range strings.FieldsFunc(listed, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		if !strings.Contains(err.Error(), reason) {
			t.Errorf("docs/providers.md lists %s, which is not taken", reason)
		}
	}
}
