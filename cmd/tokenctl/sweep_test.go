package main

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestSweep shows what is printed in review.
func TestSweep(t *testing.T) {
	for name, args := range map[string][]string{"sweep": {"sweep"}, "sweep-all": {"sweep", "--all", "--depth", "token", "--probes", "20"}} {
		golden(t, name+".txt", newFake(t).operator().run(args...).want(exitFault).without("\x1b", "120 checked").stdout)
	}
}

func TestSweepRequest(t *testing.T) {
	f := newFake(t)
	f.operator().run("sweep", "--filter", sampleFilter, "--depth", "connect", "--probes", "7", "--all").want(exitFault)
	r := asked[*pb.SweepLookupsRequest](f)
	if r.GetFilter() != sampleFilter || r.GetDepth() != pb.LookupDepth_LOOKUP_DEPTH_CONNECT || r.GetProbeBudget() != 7 || !r.GetIncludeHealthy() {
		t.Errorf("the request is %v", r)
	}
	f.operator().run("sweep", "--depth", "token").want(exitUsage, "say with --probes how many")
	f.operator().run("sweep", "--filter", "colour=red").want(exitUsage, "filter is not understood")
}

// TestSweepForPrograms prints a document for each client and one for the summary.
func TestSweepForPrograms(t *testing.T) {
	got := newFake(t).operator().run("sweep", "-o", "json").want(exitFault)
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	if len(lines) != 4 || got.stderr != "" {
		t.Fatalf("%d lines, want three clients and a summary:\n%s%s", len(lines), got.stdout, got.stderr)
	}
	var last struct {
		Summary struct {
			Failed string `json:"failed"`
		} `json:"summary"`
	}
	if err := json.Unmarshal([]byte(lines[3]), &last); err != nil || last.Summary.Failed != "9" {
		t.Errorf("%v: the last line is %s", err, lines[3])
	}
	newFake(t).operator().run("sweep", "-o", "yaml").want(exitFault, "---\nreport:", "---\nsummary:")
}

func TestSweepThatEnds(t *testing.T) {
	f := newFake(t)
	f.cut = true
	f.operator().run("sweep").want(exitUnavailable, "the sweep ended before its summary, after 120 clients", "acme-billing  CLIENT_REJECTED")
	f.refuse(refusal(codes.ResourceExhausted, "TOO_MANY_REQUESTS", "WAIT", "A sweep is under way."))
	f.operator().run("sweep").want(exitLimited, "A sweep is under way")
}

// TestSweepAtATerminal draws a bar that is no wider than the terminal and leaves nothing
// of it.
func TestSweepAtATerminal(t *testing.T) {
	v := sweepView{screen: screen{out: &buffer{}, width: 60}, session: &session{globals: globals{Output: outputText}}}
	v.turn(0)
	_ = v.take(&pb.SweepLookupsResponse{Event: &pb.SweepLookupsResponse_Progress{Progress: &pb.SweepProgress{Checked: 120, Failed: 1, Share: 0.4}}})
	v.turn(0)
	v.client(&pb.CheckLookupResponse{Client: "clients/acme-crm"})
	want := "\r\x1b[2K| sweeping" + "\r\x1b[2K[==========                 ]  40 %  120 checked, 1 failed" + "\r\x1b[2Kok    acme-crm\n"
	if got := v.out.(*buffer).String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	saw, status := atTerminal(t, newFake(t).operator(), 40, "", "sweep")
	if status != exitFault || !strings.Contains(saw, "\x1b[1;31mFAIL\x1b[0m  acme-billing  CLIENT_REJECTED") || !strings.Contains(saw, "\x1b[1;31mCLIENT_REJECTED\x1b[0m: 8 clients") {
		t.Errorf("status %d, saw %q", status, saw)
	}
}

func TestExplain(t *testing.T) {
	f := newFake(t)
	golden(t, "explain.txt", ago.ReplaceAllString(f.operator().run("explain", explained).want(exitDone).stdout, "(when)"))
	f.operator().run("explain", explained, "-o", "json").want(exitDone, `"method": "/tokenbroker.v1.TokenService/GetToken"`)
	f.operator().run("explain", "NONE").want(exitNotFound, "FAILURE_NOT_SEEN", "look for the id in their logs")
}
