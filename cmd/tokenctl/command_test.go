package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// model returns the command line as kong knows it.
func model(t *testing.T) *kong.Application {
	t.Helper()
	var cli commands
	parser, err := newParser(&cli, &buffer{}, &buffer{}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model
}

// TestHelp shows every change of the command line in review.
func TestHelp(t *testing.T) {
	newOperator(t).run("--help").helps("help.txt")
	for _, leaf := range model(t).Leaves(true) {
		words := strings.Fields(strings.TrimPrefix(leaf.FullPath(), "tokenctl "))
		got := newOperator(t).run(append(words, "--help")...)
		got.helps("help-" + strings.Join(words, "-") + ".txt")
		if simple := slices.Contains([]string{"version", "context-list", "context-use", "context-show"}, strings.Join(words, "-")); !simple && !strings.Contains(got.stdout, "\n    tokenctl ") && words[0] != "completion" {
			t.Errorf("%v: its help has no example", words)
		}
	}
}

func (o outcome) helps(file string) {
	o.t.Helper()
	o.want(exitDone)
	if o.stderr != "" {
		o.t.Errorf("%s: on standard error: %q", file, o.stderr)
	}
	golden(o.t, file, o.stdout)
}

// TestHelpIsTrue parses the examples of every help text.
func TestHelpIsTrue(t *testing.T) {
	found := 0
	for _, leaf := range model(t).Leaves(true) {
		for _, line := range regexp.MustCompile(`(?m)^    .*$`).FindAllString(leaf.Detail, -1) {
			found++
			parseExample(t, leaf.FullPath(), line)
		}
	}
	if found < 20 {
		t.Errorf("only %d examples were found", found)
	}
}

// parseExample parses the tokenctl commands of a line of a document.
func parseExample(t *testing.T, where, line string) {
	t.Helper()
	for _, part := range regexp.MustCompile(`\||<\(|\)|;|&&`).Split(line, -1) {
		words := strings.Fields(part)
		if len(words) == 0 || words[0] != "tokenctl" {
			continue
		}
		if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, ">") || w == "<" || strings.HasPrefix(w, "#") }); i > 0 {
			words = words[:i]
		}
		for i, word := range words {
			words[i] = strings.Trim(word, `'"`)
		}
		var cli commands
		parser, err := newParser(&cli, &buffer{}, &buffer{}, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(words[1:]); err != nil {
			t.Errorf("%s: %q: %v", where, strings.Join(words, " "), err)
		}
	}
}

const canary = "c4n4ry-s3cr3t"

// TestCommandLinesThatAreWrong end with status 2, say why, and repeat nothing that may
// have been meant as a secret.
func TestCommandLinesThatAreWrong(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"nothing", nil, "expected one of"},
		{"misspelled command", []string{"secret", "stge", "acme-crm"}, `did you mean "stage"`},
		{"misspelled flag", []string{"whoami", "--contxt", "x"}, `did you mean "--context"`},
		{"no client", []string{"secret", "stage"}, "expected \"<client>\""},
		{"secret as argument", []string{"secret", "stage", "acme-crm", canary}, "a secret is never one"},
		{"secret as argument of rotate", []string{"rotate", "acme-crm", canary}, "a secret is never one"},
		{"secret as unknown flag", []string{"secret", "stage", "acme-crm", "--secret=" + canary}, "unknown flag --secret"},
		{"secret behind unknown flag", []string{"secret", "stage", "acme-crm", "--secret", canary}, "unknown flag --secret"},
		{"secret as cluster of short flags", []string{"secret", "stage", "acme-crm", "-p" + canary}, "unknown flag -p"},
		{"wrapping token as value", []string{"secret", "stage", "acme-crm", "--prompt-wrapping-token=" + canary}, "--prompt-wrapping-token: bool value must be"},
		{"secret as number", []string{"secret", "retire", "acme-crm", "--secret-version", canary}, "--secret-version: expected"},
		{"secret as time", []string{"secret", "stage", "acme-crm", "--expire-time", canary}, "--expire-time must be a day"},
		{"secret as reference", []string{"secret", "stage", "acme-crm", "--reference", canary}, "--reference must be MOUNT/PATH#FIELD"},
		{"two sources", []string{"secret", "stage", "acme-crm", "--file", "a", "--reference", "b/c#d"}, "--file and --reference can't be used together"},
		{"two ends", []string{"secret", "stage", "acme-crm", "--trim-newline", "--keep-trailing-space"}, "can't be used together"},
		{"prompt and file", []string{"rotate", "acme-crm", "--prompt", "--file", "a"}, "can't be used together"},
		{"how without what", []string{"rotate", "acme-crm", "--trim-newline"}, "none is given"},
		{"retire what", []string{"secret", "retire", "acme-crm"}, "missing flags: --secret-version"},
		{"output", []string{"whoami", "-o", "xml"}, "--output must be one of"},
		{"timeout", []string{"whoami", "--timeout", "soon"}, "--timeout: expected duration"},
		{"negative timeout", []string{"whoami", "--timeout=-1s"}, "--timeout must be above 0"},
		{"state", []string{"rotations", "list", "--state", "done"}, "--state must be one of"},
		{"shell", []string{"completion", "tcsh"}, "must be one of"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			newOperator(t).run(test.args...).want(exitUsage, test.want).without(canary)
		})
	}
}

func TestUnknownVariables(t *testing.T) {
	for name, known := range map[string]bool{
		"TOKENCTL_SECRET": false, "TOKENCTL_TOKEN": false, "TOKENCTL_CONFG": false, "TOKENCTL_CONFIG": true, "TOKENCTL_CONTEXT": true, "TOKENBROKER_CONFIG": true,
	} {
		o := newOperator(t)
		o.environ = append(o.environ, name+"="+canary)
		got := o.run("version").without(canary)
		if known {
			got.want(exitDone, "tokenctl devel")
			continue
		}
		got.want(exitUsage, "environment variable "+name+" is unknown")
	}
}

// TestNoFlagTakesASecret: what holds a secret is named by a file.
func TestNoFlagTakesASecret(t *testing.T) {
	for _, leaf := range model(t).Leaves(false) {
		for _, flag := range leaf.Flags {
			name := flag.Name
			if !flag.IsBool() && regexp.MustCompile(`secret|token|key|password`).MatchString(name) && !strings.HasSuffix(name, "-file") && name != "secret-version" {
				t.Errorf("%s: --%s may be meant for a secret", leaf.FullPath(), name)
			}
			if len(flag.Envs) > 0 {
				t.Errorf("%s: --%s is read from %v", leaf.FullPath(), name, flag.Envs)
			}
		}
	}
}
