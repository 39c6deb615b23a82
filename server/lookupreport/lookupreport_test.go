package lookupreport_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/lookupreport"
)

var rewrite = flag.Bool("update", false, "rewrite the golden files")

var at = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func stage(name, title string, outcome pb.StageOutcome, evidence ...string) *pb.LookupStage {
	return &pb.LookupStage{Name: name, Title: title, Outcome: outcome, Evidence: evidence, Duration: durationpb.New(300 * time.Microsecond)}
}

// healthy is the report of a client that nothing is wrong with.
func healthy() *pb.CheckLookupResponse {
	return &pb.CheckLookupResponse{
		Client: "clients/acme-crm", CheckTime: timestamppb.New(at), Cost: &pb.CheckCost{},
		Stages: []*pb.LookupStage{
			stage("STORE_REACHABLE", "the store answers", pb.StageOutcome_STAGE_OUTCOME_PASSED),
			stage("INDEX", "the client is registered", pb.StageOutcome_STAGE_OUTCOME_PASSED, "record clients/82/acme-crm"),
			stage("SECRET_PRESENT", "the secret's value is there", pb.StageOutcome_STAGE_OUTCOME_PASSED, "version 1 at secrets/acme-crm/u-1"),
		},
		RecentChanges: []*pb.RecentChange{{Time: timestamppb.New(at.Add(-time.Hour)), Summary: "the client was created"}},
	}
}

// warned is one of a client that works, and that somebody should look at.
func warned() *pb.CheckLookupResponse {
	r := healthy()
	look := stage("CLOCK", "its clock and this host's agree", pb.StageOutcome_STAGE_OUTCOME_WARNED, "its Date is 47 s ahead")
	look.Reason, look.Remedy, look.Duration = "UPSTREAM_CLOCK_SKEW", "Set the clock of this host by NTP.", durationpb.New(84*time.Millisecond)
	r.Stages, r.Cost, r.StatusPage = append(r.Stages, look), &pb.CheckCost{Connections: 1}, "https://status.example.com"
	return r
}

// failed is one of a client that gets no token, with words that would be markup, and one
// that is longer than a line.
func failed() *pb.CheckLookupResponse {
	r := warned()
	broken := stage("TOKEN_REQUEST", "a token is given for the client's credentials", pb.StageOutcome_STAGE_OUTCOME_FAILED,
		"401 invalid_client | from https://auth.example.com/"+strings.Repeat("long", 30), "<script>*bold* _under_ [link](https://evil.example) `code` ~~#1~~ \\\n| a | row | \x1b[31m\u202e")
	broken.Reason, broken.Remedy = "CLIENT_REJECTED", "Check client_id and authentication method; if they are right, stage a new secret, verify it with the authorization server, and then promote it."
	skipped := stage("TOKEN_SCOPES", "it has the scopes that were asked for", pb.StageOutcome_STAGE_OUTCOME_SKIPPED)
	r.Stages = append(r.Stages, broken, skipped)
	r.Cost = &pb.CheckCost{Connections: 2, TokenRequests: 1, WrongTries: 1, WrongTriesLeft: 3}
	r.RootCause = &pb.RootCause{
		Stage: "TOKEN_REQUEST", Reason: "CLIENT_REJECTED", Summary: "The authorization server does not accept the client's credentials (invalid_client).",
		Remedy: broken.GetRemedy(), Confidence: pb.Confidence_CONFIDENCE_LIKELY, Also: []string{"AUTHENTICATION_METHOD_WRONG", "CLIENT_ID_DOUBTFUL"},
	}
	r.RecentFailures = []*pb.RecentFailure{{Reason: "CLIENT_REJECTED", Count: 12, FirstTime: timestamppb.New(at.Add(-time.Hour)), LastTime: timestamppb.New(at), SecretVersion: 2}}
	return r
}

// TestReports compares both forms with the golden files; -update writes them.
func TestReports(t *testing.T) {
	for name, report := range map[string]*pb.CheckLookupResponse{"healthy": healthy(), "warned": warned(), "failed": failed()} {
		for extension, got := range map[string]string{".txt": lookupreport.Text(report), ".md": lookupreport.Markdown(report)} {
			golden := filepath.Join("testdata", name+extension)
			if *rewrite {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s: got\n%s\nwant\n%s", golden, got, want)
			}
		}
	}
}

// TestWidth: only a word that is longer than a line makes a line longer.
func TestWidth(t *testing.T) {
	for _, report := range []*pb.CheckLookupResponse{healthy(), warned(), failed()} {
		for line := range strings.Lines(lookupreport.Text(report)) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 && len(strings.Fields(line)) > 1 {
				t.Errorf("%d columns: %q", n, line)
			}
		}
	}
}

// TestMarkdownShowsWhatWasSeenAsText: nothing of the evidence is markup, or ends a row of
// the table.
func TestMarkdownShowsWhatWasSeenAsText(t *testing.T) {
	text := lookupreport.Markdown(failed())
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "| TOKEN_REQUEST: ") {
			continue
		}
		if got := strings.Count(line, "|") - strings.Count(line, `\|`); got != 5 {
			t.Errorf("the row has %d bars, want 5: %q", got, line)
		}
		for _, c := range "`*_[]<>#~" {
			if strings.Count(line, string(c)) != strings.Count(line, `\`+string(c))+strings.Count("TOKEN_REQUEST CLIENT_REJECTED", string(c)) {
				t.Errorf("%q is not escaped: %q", c, line)
			}
		}
		return
	}
	t.Errorf("there is no row of the stage: %s", text)
}

// TestReportsCommandNoTerminal: what strangers' servers answered is shown, not obeyed.
func TestReportsCommandNoTerminal(t *testing.T) {
	for _, text := range []string{lookupreport.Text(failed()), lookupreport.Markdown(failed())} {
		for _, r := range text {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("the report has %U", r)
			}
		}
	}
}

func TestMarks(t *testing.T) {
	seen := map[string]bool{}
	for number := range pb.StageOutcome_name {
		mark := lookupreport.Mark(pb.StageOutcome(number))
		if (mark == "") != (number == 0) || seen[mark] {
			t.Errorf("%v: got the mark %q", pb.StageOutcome(number), mark)
		}
		seen[mark] = true
	}
}
