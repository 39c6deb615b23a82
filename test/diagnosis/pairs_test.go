package diagnosis_test

import (
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// pair is two faults of the catalogue at once, the earlier link first.
type pair struct{ earlier, later string }

func pairName(p pair) string { return p.earlier + ", and " + p.later }

var pairs = []pair{
	{"disabled", "a wrong secret"},
	{"deleted", "no secret was ever given"},
	{"a caller that no row lets have the token", "disabled"},
	{"a record of a newer release", "a value that was changed by hand"},
	{"a provider profile that is gone", "a value that was changed by hand"},
	{"a value that was changed by hand", "a login page"},
	{"a value under another field", "a name that does not exist"},
	{"a secret bound to another endpoint", "a server that never answers"},
	{"a name that does not exist", "a wrong secret"},
	{"a port that refuses", "a scope that the server does not know"},
	{"an expired certificate", "a login page"},
	{"a certificate of an unknown authority", "a wrong client_id"},
	{"a login page", "an API that does not take the token"},
	{"maintenance", "a wrong secret"},
	{"a path that does not exist", "an open API"},
	{"a wrong secret", "an open API"},
	{"a placeholder", "an API that fails"},
	{"a sandbox endpoint for a production client", "an open API"},
	{"a scope that the server does not know", "an API that takes any token"},
	{"a server that takes any secret", "an API that does not take the token"},
}

// order is where a stage stands in the chain.
func order(name string) int {
	return slices.IndexFunc(broker.LookupStages(), func(s broker.LookupStageInfo) bool { return s.Name == name })
}

// show injects both: the check names the earlier one, and says nothing good of the later.
func (p pair) show(t *testing.T, s *site) {
	all := onEmbedded()
	find := func(name string) fault {
		i := slices.IndexFunc(all, func(f fault) bool { return f.name == name })
		if i < 0 {
			t.Fatalf("no fault %q in the catalogue", name)
		}
		return all[i]
	}
	first, second := find(p.earlier), find(p.later)
	if order(first.want.stage) >= order(second.want.stage) {
		t.Fatalf("%s does not come before %s", first.want.stage, second.want.stage)
	}
	scene := newScene(t, s)
	second.injure(scene)
	first.injure(scene)
	scene.register()
	report := scene.run(max(first.depth, second.depth))
	if problem := first.want.check(report); problem != "" {
		t.Errorf("%s\n%s", problem, report.GetReportText())
	}
	if found := stage(t, report, second.want.stage); found.GetOutcome() == pb.StageOutcome_STAGE_OUTCOME_PASSED {
		t.Errorf("the later fault is denied: %s is passed\n%s", found.GetName(), report.GetReportText())
	}
}
