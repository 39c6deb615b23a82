package diagnosis_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/lookupreport"
	"github.com/tokenbroker/tokenbroker/test/realvault"
)

var update = flag.Bool("update", false, "write the reports into testdata")

// golden are the faults whose reports are kept, to be read by people :: file → fault.
var golden = map[string]string{
	"unknown_name":          "a name with a letter left out",
	"disabled":              "disabled",
	"secret_changed":        "a value that was changed by hand",
	"sandbox":               "a sandbox endpoint for a production client",
	"pasted_header":         "a Basic header's base64",
	"no_such_host":          "a name that does not exist",
	"expired_certificate":   "an expired certificate",
	"dead_addresses":        "ten dead addresses and a good one",
	"login_page":            "a login page",
	"clock":                 "a clock ten minutes ahead, and an assertion",
	"wrong_secret":          "a secret that the provider has revoked",
	"wrong_method":          "a server that takes the secret in the form alone",
	"not_enforced":          "a server that takes any secret",
	"permission_at_the_api": "a scope that the API needs",
	"users_grant_ended":     "a grant that has ended",
}

// goldenInVault are those that need a Vault.
var goldenInVault = map[string]string{
	"policy":         "the policy denies the clients",
	"secret_deleted": "the secret was deleted by hand",
}

// masks hide what differs from run to run.
var masks = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`client-[a-z2-7]{9,10}`), "client-NAME"},
	{regexp.MustCompile(`clients/[0-9a-f]{2}/`), "clients/SHARD/"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(` \(\d+m?s\)| \(\d+\.\d+s\)`), ""},
	{regexp.MustCompile(`kv-[a-z2-7]{12}`), "MOUNT"},
	{regexp.MustCompile(`\b[a-z2-7]{26}\b`), "UID"},
	{regexp.MustCompile(`hmac-sha256:[a-z2-7]+:[0-9a-f]+`), "FINGERPRINT"},
	{regexp.MustCompile(`(\.\d+|\.test|localhost):\d{2,5}\b`), "$1:PORT"},
	{regexp.MustCompile(`the resolver at [0-9a-f.:]+(, [0-9a-f.:]+)*`), "the resolver at ADDRESS"},
	{regexp.MustCompile(`it is \d+ s old`), "it is N s old"},
	{regexp.MustCompile(`(9m59s|10m0s|10m1s) (ahead|behind)`), "10m0s $2"},
}

func masked(text string) string {
	for _, m := range masks {
		text = m.pattern.ReplaceAllString(text, m.text)
	}
	return text
}

// TestReports compares the reports of typical faults, as text and as Markdown, with those
// that somebody has read and found good.
func TestReports(t *testing.T) {
	s := newSite(t, embeddedStore(t), settings{})
	for file, name := range golden {
		t.Run(file, func(t *testing.T) {
			i := slices.IndexFunc(onEmbedded(), func(f fault) bool { return f.name == name })
			if i < 0 {
				t.Fatalf("no fault %q", name)
			}
			f, scene := onEmbedded()[i], newScene(t, s)
			f.injure(scene)
			scene.register()
			compare(t, file, scene.run(f.depth))
		})
	}
	t.Run("healthy", func(t *testing.T) {
		scene := newScene(t, s)
		scene.register()
		compare(t, "healthy", scene.run(toAPI))
	})
	t.Run("vault", func(t *testing.T) {
		server := realvault.Shared(t) // or skip
		for file, name := range goldenInVault {
			i := slices.IndexFunc(storeFaults, func(f storeFault) bool { return f.name == name })
			if i < 0 {
				t.Fatalf("no fault %q", name)
			}
			m := newMount(t, server, server.NewKV())
			scene := newScene(t, m.newVaultSite())
			scene.register()
			storeFaults[i].after(m, scene)
			compare(t, file, scene.run(secrets))
		}
	})
}

// compare judges a report by its files, or writes them.
func compare(t *testing.T, file string, report *pb.CheckLookupResponse) {
	t.Helper()
	for suffix, text := range map[string]string{".txt": lookupreport.Text(report), ".md": lookupreport.Markdown(report)} {
		path, got := filepath.Join("testdata", "reports", file+suffix), masked(text)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s\n(go test ./test/diagnosis -run TestReports -update, and read what changed)", path, got, want)
		}
		for _, line := range strings.Split(got, "\n") {
			if suffix == ".txt" && len([]rune(line)) > 100 && len(strings.Fields(line)) > 4 {
				t.Errorf("%s has a line of %d columns: %s", path, len([]rune(line)), line)
			}
		}
	}
}
