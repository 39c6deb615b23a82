package diagnosis_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/lookupreport"
)

// canary stands in every secret, token and body of this package, and in no name: a report
// that has it leaks.
const canary = "c4n4ry"

func newSecret() string { return canary + "-" + rand.Text() }

// scene is one client that is to be registered at a site, and the healthy authorization
// server and API that it has, for a fault to break.
type scene struct {
	*site
	t  *testing.T
	as *upstream
	// message and secret are what is registered; a scene without secret has "".
	message *pb.Client
	secret  *pb.SecretInput
	// value is the secret that the authorization server knows.
	value string
	// check is what is asked.
	check *pb.CheckLookupRequest
	// afterwards is done once the client is registered.
	afterwards []func()
	// unregistered leaves the registration out.
	unregistered bool
}

// newScene makes a healthy one.
func newScene(t *testing.T, s *site) *scene {
	t.Helper()
	id := "client-" + strings.ToLower(rand.Text()[:10])
	value := newSecret()
	as := newUpstream(t, listening{}, authserver.Client{ID: id + "-app", Secrets: []secret.Value{text(value)}, Scopes: []string{"read", "write"}})
	return &scene{
		site: s, t: t, as: as, value: value, secret: clientSecret(value),
		message: &pb.Client{
			Name: "clients/" + id, ClientId: id + "-app", TokenEndpoint: as.TokenEndpoint(), DefaultScopes: []string{"read"},
			AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC,
			ApiEndpoint:          as.ResourceURL(), TokenDestinations: []string{as.origin},
		},
		check: &pb.CheckLookupRequest{Client: "clients/" + id, Fresh: true, ReportFormat: pb.ReportFormat_REPORT_FORMAT_TEXT},
	}
}

func clientSecret(value string) *pb.SecretInput {
	return &pb.SecretInput{Value: &pb.SecretInput_ClientSecret{ClientSecret: value}}
}

// id is the client's.
func (s *scene) id() string { return strings.TrimPrefix(s.message.GetName(), "clients/") }

// then does something once the client is registered.
func (s *scene) then(do func()) { s.afterwards = append(s.afterwards, do) }

// at lets the token endpoint and the API of the client lie at another origin.
func (s *scene) at(origin string) {
	s.message.TokenEndpoint = origin + authserver.TokenPath
	s.message.ApiEndpoint, s.message.TokenDestinations = origin+authserver.ResourcePath, []string{origin}
}

// recordKey is where the client's record lies.
func (s *scene) recordKey() string { return clientKey(s.id()) }

func clientKey(id string) string {
	sum := sha256.Sum256([]byte(id))
	return fmt.Sprintf("clients/%x/%s", sum[:1], id)
}

// secretKey is where the value of secret version n lies.
func (s *scene) secretKey(n int) string {
	s.t.Helper()
	fields, _ := s.record(s.t, s.recordKey())
	return fmt.Sprintf("secrets/%s/%s-%d", s.id(), fields["uid"], n)
}

// register creates the client and does what is to be done afterwards.
func (s *scene) register() {
	s.t.Helper()
	if !s.unregistered {
		if _, err := s.clients.CreateClient(s.t.Context(), &pb.CreateClientRequest{Client: s.message, Secret: s.secret}); err != nil {
			s.t.Fatalf("create the client: %v", err)
		}
	}
	for _, do := range s.afterwards {
		do()
	}
}

// run makes the check and looks at what holds for every report.
func (s *scene) run(depth pb.LookupDepth) *pb.CheckLookupResponse {
	s.t.Helper()
	s.check.Depth = depth
	report, err := s.diagnostics.CheckLookup(s.t.Context(), s.check)
	if err != nil {
		s.t.Fatalf("CheckLookup: %v", err)
	}
	requireSound(s.t, report, s.value)
	return report
}

// requireSound looks at what holds for every report, whatever is wrong.
func requireSound(t *testing.T, report *pb.CheckLookupResponse, secrets ...string) {
	t.Helper()
	shown := prototext.Format(report) + report.GetReportText() + lookupreport.Markdown(report)
	for _, value := range append([]string{canary, "eyJ"}, secrets...) {
		if strings.Contains(shown, value) {
			t.Errorf("the report shows a secret, a token or a body:\n%s", shown)
		}
	}
	order := slices.Collect(func(yield func(string) bool) {
		for _, stage := range broker.LookupStages() {
			if !yield(stage.Name) {
				return
			}
		}
	})
	last, broken := -1, false
	for _, stage := range report.GetStages() {
		i := slices.Index(order, stage.GetName())
		if i <= last {
			t.Errorf("stage %s is unknown or out of order", stage.GetName())
		}
		last = i
		reason, outcome := broker.Reason(stage.GetReason()), stage.GetOutcome()
		if broken && outcome != pb.StageOutcome_STAGE_OUTCOME_SKIPPED {
			t.Errorf("stage %s is %s behind one that failed", stage.GetName(), outcome)
		}
		broken = broken || outcome == pb.StageOutcome_STAGE_OUTCOME_FAILED
		bad := outcome == pb.StageOutcome_STAGE_OUTCOME_FAILED || outcome == pb.StageOutcome_STAGE_OUTCOME_WARNED
		switch {
		case bad && reason == "" || outcome == pb.StageOutcome_STAGE_OUTCOME_PASSED && reason != "":
			t.Errorf("stage %s is %s with reason %q", stage.GetName(), outcome, reason)
		case reason != "" && (reason.Info().Reason != reason || stage.GetRemedy() != reason.Info().Remedy):
			t.Errorf("stage %s: the remedy is not that of %s", stage.GetName(), reason)
		case stage.GetTitle() == "" || stage.GetDocumentation() == "":
			t.Errorf("stage %s has no title or no documentation", stage.GetName())
		}
	}
	cause := report.GetRootCause()
	if broken != (cause != nil) {
		t.Errorf("a stage failed: %v; the root cause is %v", broken, cause)
	}
	if info := broker.Reason(cause.GetReason()).Info(); cause != nil && (cause.GetRemedy() != info.Remedy || cause.GetSummary() != info.Summary ||
		cause.GetRecovery().String() != "RECOVERY_"+string(info.Recovery)) {
		t.Errorf("summary, remedy or recovery are not those of %s: %v", cause.GetReason(), cause)
	}
}

// stage returns a stage of a report.
func stage(t *testing.T, report *pb.CheckLookupResponse, name string) *pb.LookupStage {
	t.Helper()
	i := slices.IndexFunc(report.GetStages(), func(s *pb.LookupStage) bool { return s.GetName() == name })
	if i < 0 {
		t.Fatalf("no stage %s in\n%s", name, report.GetReportText())
	}
	return report.GetStages()[i]
}
