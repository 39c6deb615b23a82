package audit_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

var update = flag.Bool("update", false, "write the example of docs/audit.md anew")

const docsPath = "../../docs/audit.md"

// section returns what stands in docs/audit.md under a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, text, found := strings.Cut(read(t, docsPath), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/audit.md has no heading %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// rows returns the first cells of the tables in text, without their backquotes.
func rows(text string) (names []string) {
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|").FindAllStringSubmatch(text, -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			names = append(names, name[1])
		}
	}
	return names
}

// exampleEntries are the entries in docs/audit.md; the first has all fields.
func exampleEntries() []*audit.Entry {
	return []*audit.Entry{
		{
			RequestID: "6c0ad3b2-0d8c-4f0c-8d3e-3a1f6d9b7c55", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", Caller: "crm",
			Identity: "spiffe://example.org/crm", Method: "/tokenbroker.v1.TokenService/GetToken", Client: "clients/acme-crm",
			Scopes: []string{"contacts.read"}, Outcome: audit.Allowed, TokenID: "5f2c0a9be1d47788", SecretVersion: 3, ServedFrom: "memory",
		},
		{
			RequestID: "K4QZ2VJ7XW3MTHRC6YEBN5DPLA", Caller: "billing", Identity: "dns:billing.example.org",
			Method: "/tokenbroker.v1.TokenService/GetToken", Client: "clients/acme-crm", Outcome: audit.Denied, Reason: "CALLER_NOT_ALLOWED",
		},
	}
}

// TestFieldsDoc compares the table of fields with the struct and with what is written.
func TestFieldsDoc(t *testing.T) {
	full := *exampleEntries()[0]
	full.Reason, full.LeftOut, full.Time, full.Subject = "X", 7, time.Now(), "users/4711"
	var encoded map[string]any
	if err := json.Unmarshal(audit.AppendFields(&full), &encoded); err != nil {
		t.Fatal(err)
	}
	written := slices.Sorted(maps.Keys(encoded))
	var fields []string
	for field := range reflect.TypeFor[audit.Entry]().Fields() {
		if reflect.ValueOf(full).FieldByIndex(field.Index).IsZero() {
			t.Errorf("the entry of this test lacks %s", field.Name)
		}
		fields = append(fields, snake(field.Name))
	}
	slices.Sort(fields)
	if !slices.Equal(written, fields) {
		t.Errorf("fields written are %v, those of Entry are %v", written, fields)
	}
	documented := rows(section(t, "Fields"))
	slices.Sort(documented)
	all := append([]string{"chain", "seq", "mac", "truncated"}, fields...)
	slices.Sort(all)
	if !slices.Equal(documented, all) {
		t.Errorf("fields documented are\n%v, there are\n%v", documented, all)
	}
}

// snake turns SecretVersion into secret_version and TokenID into token_id.
func snake(name string) string {
	var out []rune
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 && !unicode.IsUpper(rune(name[i-1])) {
			out = append(out, '_')
		}
		out = append(out, unicode.ToLower(r))
	}
	return string(out)
}

// TestOutcomesAndEndingsDoc: each value stands in the text.
func TestOutcomesAndEndingsDoc(t *testing.T) {
	for _, outcome := range audit.Outcomes() {
		if !strings.Contains(section(t, "Fields"), "`"+string(outcome)+"`") {
			t.Errorf("the outcome %s is not documented", outcome)
		}
	}
	for _, ending := range []audit.Ending{audit.Closed, audit.Running, audit.SinksFailed, audit.Broken} {
		if !strings.Contains(section(t, "Verify"), "`"+string(ending)+"`") {
			t.Errorf("the ending %q is not documented", ending)
		}
	}
}

// TestExampleDoc verifies the example with the key beside it.
func TestExampleDoc(t *testing.T) {
	if *update {
		writeExample(t)
	}
	blocks := regexp.MustCompile("(?s)```\\w*\n(.*?)```").FindAllStringSubmatch(section(t, "Example"), -1)
	if len(blocks) != 2 {
		t.Fatalf("got %d blocks, want lines and a key", len(blocks))
	}
	path := filepath.Join(t.TempDir(), "audit.pub")
	write(t, path, blocks[1][1], 0o644)
	public, err := audit.LoadPublicKey(path)
	if err != nil {
		t.Fatal(err)
	}
	report := verify(t, audit.VerifyConfig{PublicKeys: []audit.PublicKey{public}}, blocks[0][1])
	wantSound(t, report)
	if report.Entries() != uint64(len(exampleEntries())) || report.Chains[0].Ending != audit.Closed {
		t.Errorf("got %s", report)
	}
}

func writeExample(t *testing.T) {
	t.Helper()
	key, sink := newKey(t), &memory{}
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
	for _, e := range exampleEntries() {
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	must(l.stop())
	const heading = "\n## Example\n"
	before, _, _ := strings.Cut(read(t, docsPath), heading) // it is the last
	content := before + heading + "\n```json\n" + sink.text() + "```\n\n```\n" + key.Public().String() + "```\n"
	if err := os.WriteFile(docsPath, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
