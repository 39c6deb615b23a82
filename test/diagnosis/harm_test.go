package diagnosis_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// harm is a check that would do harm, or may not be made, to the letter of what is asked.
type harm struct {
	name    string
	arrange func(*scene)
	// refused are the stages that must be skipped, and the reason.
	refused []string
	reason  broker.Reason
	// requests are how many the token endpoint may see with credentials, at most.
	requests int64
}

// everyAsking are the stages that ask for a token, and trying those that try a wrong secret.
var (
	trying      = []string{broker.StageNoSecret, broker.StageWrongSecret}
	everyAsking = append([]string{broker.StageTokenRequest}, trying...)
)

var harms = []harm{
	{"the one active token would end", func(s *scene) { s.message.SingleActiveToken = true }, everyAsking, broker.ReasonCheckWouldHarm, 0},
	{"one of few live tokens would be used up", func(s *scene) { s.message.MaxLiveTokens = 2 }, everyAsking, broker.ReasonCheckWouldHarm, 0},
	{"a budget would be spent", func(s *scene) {
		s.message.IssueBudget = &pb.IssueBudget{Tokens: 5, Period: durationpb.New(time.Hour)}
	}, everyAsking, broker.ReasonCheckWouldHarm, 0},
	{"the provider locks clients out", func(s *scene) {
		s.message.Provider = "guarded"
	}, trying, broker.ReasonCheckWouldHarm, 1},
	{"no wrong try is left", func(s *scene) {
		s.then(func() {
			for range 2 {
				s.run(enforce) // of three, two and the third
			}
		})
	}, trying, broker.ReasonCheckBudgetSpent, 6},
	{"no wrong try is allowed", func(s *scene) {
		s.then(func() {
			s.site = newSite(s.t, s.store, settings{broker: func(cfg *broker.Config) { cfg.WrongTries = -1 }})
		})
	}, trying, broker.ReasonCheckBudgetSpent, 1},
	{"a user's refresh token would be spent", func(s *scene) {
		users := &usersServer{}
		s.forUsers(users)
		s.imported()
		s.t.Cleanup(func() {
			if n := users.spent.Load(); n > 0 {
				s.t.Errorf("the check has spent %d refresh tokens", n)
			}
		})
	}, []string{broker.StageTokenRequest}, broker.ReasonCheckWouldHarm, 0},
	{"the caller may not look so deep", func(s *scene) {
		s.then(func() { s.site = newSite(s.t, s.store, settings{table: strangerTable}) })
	}, append([]string{broker.StageDNS, broker.StageHTTP, broker.StageAPIToken}, everyAsking...), broker.ReasonCheckNotPermitted, 0},
}

func harmName(h harm) string { return h.name }

// show makes the deepest check, and makes sure that nothing was done.
func (h harm) show(t *testing.T, s *site) {
	scene := newScene(t, s)
	scene.noLook()
	h.arrange(scene)
	scene.register()
	report := scene.run(toAPI)
	for _, name := range h.refused {
		found := stage(t, report, name)
		if found.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_SKIPPED || found.GetReason() != string(h.reason) {
			t.Errorf("%s is %s with %q, want it skipped with %s", name, found.GetOutcome(), found.GetReason(), h.reason)
		}
	}
	if report.GetRootCause() != nil {
		t.Errorf("what was not tried is called broken:\n%s", report.GetReportText())
	}
	if asked := scene.as.Requests(); asked > h.requests {
		t.Errorf("the token endpoint was asked %d times with credentials, want at most %d", asked, h.requests)
	}
}

// noLook keeps what looks at the way, which brings no credential, from being counted.
func (s *scene) noLook() { s.as.answer(toCredentials(s.as.Server.ServeHTTP)) }

// TestSweepIsShallowWithoutABudget, and within one asks no more than it says.
func TestSweepIsShallowWithoutABudget(t *testing.T) {
	s := newSite(t, embeddedStore(t), settings{})
	var scenes []*scene
	for range 3 {
		one := newScene(t, s)
		one.noLook()
		one.register()
		scenes = append(scenes, one)
	}
	asked := func() (n int64) {
		for _, one := range scenes {
			n += one.as.Requests()
		}
		return n
	}
	if _, err := s.sweep(t, &pb.SweepLookupsRequest{Depth: token}); err == nil || !strings.Contains(err.Error(), "probe_budget") {
		t.Errorf("a deep sweep without a budget: %v, want it refused", err)
	}
	if end, err := s.sweep(t, &pb.SweepLookupsRequest{}); err != nil || end.GetChecked() != 3 || asked() != 0 {
		t.Errorf("a sweep: %v, %v with %d requests, want 3 clients checked and nobody asked", end, err, asked())
	}
	if end, err := s.sweep(t, &pb.SweepLookupsRequest{Depth: token, ProbeBudget: 2}); err != nil || end.GetProbes() != 2 || asked() != 2 {
		t.Errorf("a sweep with a budget of 2: %v, %v with %d requests", end, err, asked())
	}
}

// sweep returns the summary.
func (s *site) sweep(t *testing.T, req *pb.SweepLookupsRequest) (*pb.SweepSummary, error) {
	t.Helper()
	stream, err := s.diagnostics.SweepLookups(t.Context(), req)
	if err != nil {
		return nil, err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if end := message.GetSummary(); end != nil {
			return end, nil
		}
	}
}
