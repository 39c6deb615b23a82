package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/tokenbroker/vault"
)

// TestHelp shows every change of the command line in review.
func TestHelp(t *testing.T) {
	for _, name := range []string{"", "serve", "dev", "check-config", "access", "provider", "vault-policy", "doctor", "health", "completion", "version"} {
		args, file := []string{"--help"}, "help.txt"
		if name != "" {
			args, file = []string{name, "--help"}, "help-"+name+".txt"
		}
		got := command(t, args...)
		got.want(t, 0)
		if got.stderr != "" {
			t.Errorf("%v: on standard error: %q", args, got.stderr)
		}
		golden(t, file, got.stdout)
	}
}

func TestCommandLinesThatAreWrong(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "expected one of"},
		{[]string{"server"}, `did you mean "serve"`},
		{[]string{"serve", "--confg", "x"}, `did you mean "--config"`},
		{[]string{"serve", "more"}, "unexpected argument more"},
		{[]string{"health", "--config", "x", "--timeout", "soon"}, "--timeout"},
		{[]string{"vault-policy", "--mount", `a" {}`}, "mount: "},
		{[]string{"vault-policy", "--mount", "*"}, "mount: "},
		{[]string{"vault-policy", "--prefix", "a/../b"}, "prefix: "},
	} {
		got := command(t, test.args...)
		got.want(t, 2, test.want)
		if strings.Contains(got.stdout, "path ") {
			t.Errorf("%v: it printed %q", test.args, got.stdout)
		}
	}
}

func TestUnknownVariables(t *testing.T) {
	for entry, known := range map[string]bool{
		"TOKENBROKER_CONFG=x": false, "TOKENBROKER_=": false, "TOKENBROKER_CONFIG_FILE=x": false,
		"TOKENBROKER_CONFIG=x": true, "TOKENBROKER_DEV_DIR=x": true, "TOKENBROKER_TEST_SERVERS=none": true, "VAULT_ADDR=x": true, "MY_TOKENBROKER_X=x": true,
	} {
		got := commandIn(t.Context(), []string{"PATH=/bin", entry}, "version")
		if known {
			got.want(t, 0)
			continue
		}
		name, _, _ := strings.Cut(entry, "=")
		got.want(t, 2, "environment variable "+name+" is unknown", "TOKENBROKER_CONFIG", "TOKENBROKER_DEV_DIR")
	}
}

func TestVersion(t *testing.T) {
	got := command(t, "version")
	got.want(t, 0)
	if !regexp.MustCompile(`^tokenbroker \S+ \(.+, go1\.\S+\)\n$`).MatchString(got.stdout) {
		t.Errorf("it printed %q", got.stdout)
	}
}

func TestVaultPolicy(t *testing.T) {
	for _, test := range []struct {
		args          []string
		mount, prefix string
		places        []vault.Place
	}{
		{nil, "tokenbroker", "", nil},
		{[]string{"--mount", "team/kv", "--prefix", "prod/eu"}, "team/kv", "prod/eu", nil},
		{[]string{"--reference", "team/kv:crm/oauth", "--reference", "others"}, "tokenbroker", "", []vault.Place{{Mount: "team/kv", Prefix: "crm/oauth"}, {Mount: "others"}}},
	} {
		got := command(t, append([]string{"vault-policy"}, test.args...)...)
		got.want(t, 0)
		if got.stdout != vault.Policy(test.mount, test.prefix, test.places...) {
			t.Errorf("%v: it printed\n%s", test.args, got.stdout)
		}
	}
	command(t, "vault-policy", "--reference", "tokenbroker").want(t, 2, "where the broker keeps its own records")
}

// keysOf returns the dotted paths of all keys of a configuration, lists as "[]".
func keysOf(typ reflect.Type, path string) []string {
	var keys []string
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch name {
		case "-":
			continue
		case "":
			name = strings.ToLower(field.Name) // what the YAML package does
		}
		key := strings.TrimPrefix(path+"."+name, ".")
		of := field.Type
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct {
			key, of = key+"[]", of.Elem()
		}
		if of.Kind() == reflect.Struct {
			keys = append(keys, keysOf(of, key)...)
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// TestEveryKeyIsDocumented compares the struct with the table of
// docs/operations.md, in both directions.
func TestEveryKeyIsDocumented(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	keys := keysOf(reflect.TypeFor[config](), "")
	if len(keys) < 30 {
		t.Fatalf("found only the keys %v", keys)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z]+(?:\\[\\])?(?:\\.[^|]*)?) \\|").FindAllStringSubmatch(string(content), -1) {
		for _, key := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			documented = append(documented, key[1])
		}
	}
	for _, key := range keys {
		if !slices.Contains(documented, key) {
			t.Errorf("docs/operations.md does not describe `%s`", key)
		}
	}
	for _, key := range documented {
		known := func(k string) bool {
			return k == key || strings.HasPrefix(k, key+".") || strings.HasPrefix(k, key+"[]")
		}
		if !slices.ContainsFunc(keys, known) {
			t.Errorf("docs/operations.md describes `%s`, which is no key", key)
		}
	}
}

// TestConfigurationOfREADME is taken as it is, but for the files that it names.
func TestConfigurationOfREADME(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(string(content), -1) {
		var top map[string]any
		if yaml.Unmarshal([]byte(block[1]), &top) != nil || top["listen"] == nil {
			continue
		}
		found++
		file := write(t, "file", "")
		sound := regexp.MustCompile(`(_file: )\S+`).ReplaceAllString(block[1], "${1}"+file)
		command(t, "check-config", "--config", write(t, "config.yaml", sound)).want(t, 0)
	}
	if found == 0 {
		t.Error("README.md shows no configuration")
	}
}
