package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/codes"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// query is PromQL of a file, and where it stands there.
type query struct{ where, text string }

// alertRules is the format of Prometheus' rule files, as far as it is used.
type alertRules struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Expr, For    string
			Labels, Annotations map[string]string
		}
	}
}

func readRules(t *testing.T) (rules alertRules, queries []query) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(readFile(t, "deploy/prometheus/alerts.yaml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			queries = append(queries, query{rule.Alert, rule.Expr})
		}
	}
	return rules, queries
}

// readFile reads a file of the checkout.
func readFile(t *testing.T, path string) []byte {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestAlertsHaveARunbook compares the rules with the headings of docs/runbook.md, and
// wants every rule to say what Prometheus and people need.
func TestAlertsHaveARunbook(t *testing.T) {
	rules, _ := readRules(t)
	var alerts []string
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			alerts = append(alerts, rule.Alert)
			if _, err := time.ParseDuration(rule.For); err != nil {
				t.Errorf("%s: for: %v", rule.Alert, err)
			}
			if s := rule.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q, want critical or warning", rule.Alert, s)
			}
			if rule.Annotations["summary"] == "" {
				t.Errorf("%s has no summary", rule.Alert)
			}
			want := "https://github.com/tokenbroker/tokenbroker/blob/main/docs/runbook.md#" + strings.ToLower(rule.Alert)
			if got := rule.Annotations["runbook_url"]; got != want {
				t.Errorf("%s: runbook_url %q, want %q", rule.Alert, got, want)
			}
		}
	}
	var sections []string
	for _, match := range regexp.MustCompile(`(?m)^## (\S+)$`).FindAllSubmatch(readFile(t, "docs/runbook.md"), -1) {
		sections = append(sections, string(match[1]))
	}
	if len(alerts) == 0 || !slices.Equal(alerts, sections) {
		t.Errorf("alerts %q\nsections of docs/runbook.md %q", alerts, sections)
	}
}

// panel is one of a dashboard, as far as it is looked at.
type panel struct {
	ID      int
	Title   string
	Type    string
	Targets []struct{ RefID, Expr string }
}

// readDashboard returns the queries of panels and variables, with what Grafana puts
// in for its own variables.
func readDashboard(t *testing.T) (queries []query) {
	t.Helper()
	var dashboard struct {
		Panels     []panel
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
	}
	if err := json.Unmarshal(readFile(t, "deploy/grafana/tokenbroker.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	grafana := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*")
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q has the id of another, %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			queries = append(queries, query{"panel " + p.Title, grafana.Replace(target.Expr)})
		}
	}
	for _, variable := range dashboard.Templating.List {
		if variable.Type != "query" {
			continue
		}
		match := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`).FindStringSubmatch(variable.Query)
		if match == nil {
			t.Errorf("variable %s: %q is not label_values(METRIC, LABEL)", variable.Name, variable.Query)
			continue
		}
		queries = append(queries, query{"variable " + variable.Name, "group by (" + match[2] + ") (" + grafana.Replace(match[1]) + ")"})
	}
	for _, q := range queries {
		if strings.Contains(q.text, "$") {
			t.Errorf("%s: %q has a variable that nobody puts in", q.where, q.text)
		}
	}
	return queries
}

// asked is what tools/promql says of one query.
type asked struct {
	Selections []struct {
		Metric  string
		Matches map[string]string
	}
	Grouped []string
}

// buildParser builds Prometheus' own parser, which is a module of its own.
func buildParser(t *testing.T) (path string) {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "promql")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".")
	build.Dir = filepath.Join(root, "tools", "promql")
	if output, err := build.CombinedOutput(); err != nil {
		harness.Missing(t, fmt.Errorf("build tools/promql: %w\n%s", err, output))
	}
	return path
}

// parse returns what a query asks for, or what the parser has against it.
func parse(t *testing.T, parser string, q query) (result asked, err error) {
	t.Helper()
	line, err := json.Marshal(q.text)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), parser)
	command.Stdin = bytes.NewReader(line)
	output, err := command.CombinedOutput()
	if err != nil {
		return result, fmt.Errorf("%w: %s", err, output)
	}
	return result, json.Unmarshal(output, &result)
}

// exposed is what a server shows: metric → label → values.
type exposed map[string]map[string][]string

var (
	sample = regexp.MustCompile(`(?m)^([a-zA-Z_:]\w*)(?:\{(.*)\})? \S+$`)
	pair   = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)
)

// scrape reads the page as Prometheus does, and adds the labels that it adds.
func scrape(t *testing.T, p *process) exposed {
	t.Helper()
	page, address := p.page(t, "/metrics"), p.adminAddress(t)
	of := exposed{"up": {"job": {"tokenbroker"}, "instance": {address}}}
	for _, match := range sample.FindAllSubmatch(page, -1) {
		metric := string(match[1])
		if of[metric] == nil {
			of[metric] = map[string][]string{"job": {"tokenbroker"}, "instance": {address}}
		}
		for _, label := range pair.FindAllSubmatch(match[2], -1) {
			name := string(label[1])
			of[metric][name] = append(of[metric][name], string(label[2]))
		}
	}
	return of
}

// possible adds the values that a server would show if something went wrong.
func possible(t *testing.T, label string) []string {
	t.Helper()
	var values []string
	switch label {
	case "reason":
		for _, match := range regexp.MustCompile(`(?m)^\| ([A-Z][A-Z_]+) \|`).FindAllSubmatch(readFile(t, "docs/errors.md"), -1) {
			values = append(values, string(match[1]))
		}
	case "code":
		for code := codes.OK; code <= codes.Unauthenticated; code++ {
			values = append(values, code.String())
		}
	}
	return values
}

// problems compares what a query asks for with what a server shows.
func (of exposed) problems(t *testing.T, result asked) (list []string) {
	t.Helper()
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	var labels []string
	for _, selection := range result.Selections {
		shown, ok := of[selection.Metric]
		if !ok {
			add("no metric %s", selection.Metric)
			continue
		}
		labels = slices.AppendSeq(labels, maps.Keys(shown))
		for label, match := range selection.Matches {
			if shown[label] == nil {
				add("%s has no label %s", selection.Metric, label)
				continue
			}
			known := append(possible(t, label), shown[label]...)
			for value := range strings.SplitSeq(strings.TrimLeft(match, "=!~"), "|") {
				if value != ".*" && !slices.Contains(known, value) {
					add("%s of %s is never %q", label, selection.Metric, value)
				}
			}
		}
	}
	for _, label := range result.Grouped {
		if !slices.Contains(labels, label) {
			add("no selected metric has the label %s, which it groups by", label)
		}
	}
	return list
}

// TestMonitoringAsksForWhatIsThere runs every query of dashboard and alert rules
// against the metrics of a real server that has seen some work.
func TestMonitoringAsksForWhatIsThere(t *testing.T) {
	store := sharedStore(t) // some metrics are those of a Vault
	up := newUpstream(t, firstSecret)
	s := newSite(t, store.config(store.Addr()), up.ca)
	delete(s.config, "callers")
	s.config["access"] = map[string]any{"file": s.write(t, "access.yaml", []byte(`callers:
  - {name: crm, identities: ["`+callerIdentity+`"]}
  - {name: oncall, identities: ["`+operatorIdentity+`"]}
rules:
  - {callers: ["*"], permissions: ["role:operator"], clients: ["*"]}
...
`))}
	s.config["notify"] = map[string]any{"webhooks": []map[string]any{{
		"name": "pager", "url": "https://hooks.example.org/", "secret_file": s.write(t, "webhook.key", []byte(strings.Repeat("k", 32))),
	}}}
	n := s.start(t, program(t))
	client := newClient("acme", up.TokenEndpoint())
	must(n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(firstSecret)}))(t)
	for range 2 {
		must(n.token(t.Context(), "clients/acme"))(t)
	}
	if _, err := n.token(t.Context(), "clients/absent"); err == nil {
		t.Error("a token of a client that is not there")
	}
	of, parser := scrape(t, n.process), buildParser(t)
	_, queries := readRules(t)
	for _, q := range append(queries, readDashboard(t)...) {
		result, err := parse(t, parser, q)
		if err != nil {
			t.Errorf("%s: %v", q.where, err)
		}
		for _, problem := range of.problems(t, result) {
			t.Errorf("%s: %s", q.where, problem)
		}
	}

	// It notices what it is there to notice.
	for _, text := range []string{
		"tokenbroker_no_such_metric", `tokenbroker_rpcs_total{client="acme"}`, `tokenbroker_rpcs_total{reason=~"OK|NO_SUCH_REASON"}`,
		"sum by (caller) (tokenbroker_rpcs_total)", "rate(tokenbroker_rpcs_total)",
	} {
		result, err := parse(t, parser, query{"wrong", text})
		if err == nil && len(of.problems(t, result)) == 0 {
			t.Errorf("%s is not noticed", text)
		}
	}
}
