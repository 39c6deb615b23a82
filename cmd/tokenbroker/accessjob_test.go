package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// forJobs returns the YAML blocks of docs/rotation.md about jobs: the table, and what is
// expected of it.
func forJobs(t *testing.T) (table, expectations string) {
	t.Helper()
	document, err := os.ReadFile("../../docs/rotation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(document), "\n## For jobs\n")
	if !found {
		t.Fatal("docs/rotation.md has no section for jobs")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(section, -1)
	if len(blocks) != 2 {
		t.Fatalf("docs/rotation.md has %d YAML blocks for jobs, want the table and the expectations", len(blocks))
	}
	return blocks[0][1], blocks[1][1]
}

// TestTableOfAJob: a server takes the table that docs/rotation.md gives to a job, and the
// job may do what stands beside it and nothing else.
func TestTableOfAJob(t *testing.T) {
	table, expectations := forJobs(t)
	got := command(t, "access", "test", "--file", write(t, "access.yaml", table), write(t, "job.yaml", expectations))
	got.want(t, 0)
	if want := strings.Count(expectations, "caller:"); want < 8 || !strings.HasSuffix(got.stdout, "expectations met\n") {
		t.Errorf("%d expectations: it printed %q", want, got.stdout)
	}
	config := setup(t, harness.UnusedAddress(t), true)
	content, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(config), "access.yaml")
	if err := os.WriteFile(path, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, append(content, "access: {file: "+path+"}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "check-config", "--config", config).want(t, 0)
}
