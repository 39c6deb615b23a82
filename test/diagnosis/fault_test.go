package diagnosis_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// The depths, by the names that the rows of the catalogue have.
const (
	index   = pb.LookupDepth_LOOKUP_DEPTH_INDEX
	secrets = pb.LookupDepth_LOOKUP_DEPTH_SECRET
	connect = pb.LookupDepth_LOOKUP_DEPTH_CONNECT
	token   = pb.LookupDepth_LOOKUP_DEPTH_TOKEN
	enforce = pb.LookupDepth_LOOKUP_DEPTH_ENFORCEMENT
	toAPI   = pb.LookupDepth_LOOKUP_DEPTH_API
)

// fault is one row of the catalogue.
type fault struct {
	name  string
	depth pb.LookupDepth
	// injure breaks a scene that would be healthy.
	injure func(*scene)
	want   verdict
}

// verdict is what a check must say. Its zero confidence means that nothing failed, and
// that stage and reason are of a warning.
type verdict struct {
	stage      string
	reason     broker.Reason
	confidence broker.Confidence
	// seen are parts of that stage's evidence.
	seen []string
}

// proven, likely, unknown and warned make verdicts.
func proven(stage string, reason broker.Reason, seen ...string) verdict {
	return verdict{stage, reason, broker.Proven, seen}
}

func likely(stage string, reason broker.Reason, seen ...string) verdict {
	return verdict{stage, reason, broker.Likely, seen}
}

func unknown(stage string, reason broker.Reason, seen ...string) verdict {
	return verdict{stage, reason, broker.Unknown, seen}
}

func warned(stage string, reason broker.Reason, seen ...string) verdict {
	return verdict{stage, reason, "", seen}
}

// check returns what is wrong with a report; "" if it says what it must.
func (v verdict) check(report *pb.CheckLookupResponse) string {
	cause := report.GetRootCause()
	confidence := strings.ToLower(strings.TrimPrefix(cause.GetConfidence().String(), "CONFIDENCE_"))
	switch {
	case v.confidence == "" && cause != nil:
		return fmt.Sprintf("it names %s at %s; nothing should have failed", cause.GetReason(), cause.GetStage())
	case v.confidence != "" && (cause.GetStage() != v.stage || cause.GetReason() != string(v.reason) || confidence != string(v.confidence)):
		return fmt.Sprintf("it names %s at %s (%s); want %s at %s (%s)", cause.GetReason(), cause.GetStage(), confidence, v.reason, v.stage, v.confidence)
	}
	i := slices.IndexFunc(report.GetStages(), func(s *pb.LookupStage) bool { return s.GetName() == v.stage })
	if i < 0 {
		return "there is no stage " + v.stage
	}
	found := report.GetStages()[i]
	if found.GetReason() != string(v.reason) {
		return fmt.Sprintf("stage %s has %q, want %s", v.stage, found.GetReason(), v.reason)
	}
	for _, text := range v.seen {
		if !strings.Contains(strings.Join(found.GetEvidence(), "\n"), text) {
			return fmt.Sprintf("the evidence of %s lacks %q: %q", v.stage, text, found.GetEvidence())
		}
	}
	return ""
}

// atOnce is how many rows are looked at together: some wait for servers that never answer.
const atOnce = 12

// together runs rows as subtests, many at a time.
func together[R any](t *testing.T, rows []R, name func(R) string, run func(*testing.T, R)) {
	t.Helper()
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	for _, row := range rows {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			t.Run(name(row), func(t *testing.T) { run(t, row) })
		})
	}
	running.Wait()
}

// tally counts what the catalogue has shown. Safe for concurrent use.
type tally struct {
	mu                         sync.Mutex
	faults, right, falseAlarms int // guarded by mu
}

func (c *tally) fault(right bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults++
	if right {
		c.right++
	}
}

func (c *tally) falseAlarm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.falseAlarms++
}

// tell prints the figures as `make diagnosis` shows them.
func (c *tally) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(os.Stdout, "figure diagnosis_faults %d\nfigure diagnosis_right %d\nfigure diagnosis_false_alarms %d\n", c.faults, c.right, c.falseAlarms)
}

// faultName names a subtest.
func faultName(f fault) string { return f.name }

// show injects a fault and judges what the check says of it.
func (f fault) show(t *testing.T, s *site, count *tally) {
	right := false
	defer func() { count.fault(right && !t.Failed()) }()
	scene := newScene(t, s)
	f.injure(scene)
	scene.register()
	report := scene.run(f.depth)
	problem := f.want.check(report)
	if right = problem == ""; !right {
		t.Errorf("%s\n%s", problem, report.GetReportText())
	}
}
