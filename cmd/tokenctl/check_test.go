package main

import (
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// ago is what changes from one day to the next.
var ago = regexp.MustCompile(`\((\d+ (s|min|h|days) ago|in \d+ (s|min|h|days))\)`)

// TestCheck shows each report in review.
func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		status int
	}{
		{"well", []string{"acme-crm"}, exitDone},
		{"fault", []string{"acme-billing", "--depth", "token"}, exitFault},
		{"look", []string{"zeta"}, exitDone},
		{"unknown", []string{"acme-cmr"}, exitFault},
		{"denied", []string{"acme-crm", "--as", "web"}, exitFault},
		{"fault.markdown", []string{"acme-billing", "-o", "markdown"}, exitFault},
		{"fault.yaml", []string{"acme-billing", "-o", "yaml"}, exitFault},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := newFake(t).operator().run(append([]string{"check"}, test.args...)...).want(test.status).without("\x1b")
			if got.stderr != "" {
				t.Errorf("on standard error: %q", got.stderr)
			}
			golden(t, "check-"+test.name+".txt", ago.ReplaceAllString(got.stdout, "(when)"))
		})
	}
}

// TestCheckForPrograms prints the document and nothing else.
func TestCheckForPrograms(t *testing.T) {
	got := newFake(t).operator().run("check", "acme-billing", "-o", "json").want(exitFault)
	var report struct {
		RootCause struct {
			Reason string `json:"reason"`
		} `json:"root_cause"`
	}
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil || report.RootCause.Reason != "CLIENT_REJECTED" || got.stderr != "" {
		t.Errorf("%v: %+v, standard error %q", err, report, got.stderr)
	}
}

func TestCheckRequest(t *testing.T) {
	f := newFake(t)
	f.operator().run("check", "clients/acme-crm", "--depth", "enforcement", "--as", "crm", "--scope", "a", "--scope", "b,c", "--audience", "x", "--resource", "https://r.example", "--subject", "u", "--fresh").want(exitDone)
	r := asked[*pb.StreamCheckRequest](f).GetCheck()
	if r.GetClient() != "clients/acme-crm" || r.GetDepth() != pb.LookupDepth_LOOKUP_DEPTH_ENFORCEMENT || r.GetCaller() != "crm" || len(r.GetScopes()) != 2 ||
		r.GetScopes()[1] != "b,c" || r.GetAudience() != "x" || len(r.GetResources()) != 1 || r.GetSubject() != "u" || !r.GetFresh() {
		t.Errorf("the request is %v", r)
	}
}

// TestCheckThatFails: what kept the check from being made, and not what it found.
func TestCheckThatFails(t *testing.T) {
	f := newFake(t)
	f.cut = true
	f.operator().run("check", "acme-crm").want(exitUnavailable, "the check ended before its report")
	f.refuse(refusal(codes.ResourceExhausted, "TOO_MANY_REQUESTS", "WAIT", "Too many."))
	f.operator().run("check", "acme-crm").want(exitLimited, "wait", "1.5s")
	f.refuse(refusal(codes.PermissionDenied, "CALLER_NOT_ALLOWED", "FIX_CALLER", "No."))
	f.operator().run("check", "acme-crm").want(exitNotAllowed, "CALLER_NOT_ALLOWED", "this needs the permission lookup.check")
	o := newOperator(t)
	o.run("context", "set", "down", "--unix-socket", "/nowhere/api.sock").want(exitDone)
	o.run("check", "acme-crm").want(exitUnavailable, "the broker did not answer", "tokenctl context show")
	o.run("whoami", "-o", "markdown").want(exitUsage, "--output markdown is for `tokenctl check`")
}

// atTerminal runs a command line with a terminal of some width as output and input, types
// an answer when it is asked, and returns what the person saw.
func atTerminal(t *testing.T, o *operator, width int, answer string, args ...string) (saw string, status int) {
	t.Helper()
	x := newTerminal(t)
	if err := unix.IoctlSetWinsize(int(x.tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(width)}); err != nil {
		t.Fatal(err)
	}
	errors := &buffer{}
	errors.wrote = func(all string) {
		if strings.HasSuffix(all, "[y/N] ") {
			go x.types(answer)
		}
	}
	status = run(t.Context(), args, o.environ, x.tty, x.tty, errors)
	x.close()
	return x.screen.String() + errors.String(), status
}

// TestCheckAtATerminal draws no line wider than the terminal, in colour.
func TestCheckAtATerminal(t *testing.T) {
	for name, width := range map[string]int{"wide": 120, "narrow": 40} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.begins = true
			o := f.operator()
			saw, status := atTerminal(t, o, width, "", "check", "acme-billing", "--depth", "token")
			if status != exitFault {
				t.Errorf("status %d, want %d", status, exitFault)
			}
			for _, text := range []string{"\x1b[1;31mFAIL\x1b[0m", "\x1b[32mok\x1b[0m", "\r\x1b[2K"} {
				if !strings.Contains(saw, text) {
					t.Errorf("%q is not in %q", text, saw)
				}
			}
			for line := range strings.SplitSeq(saw, "\n") {
				if at := strings.LastIndex(line, "\x1b[2K"); at >= 0 {
					line = line[at+len("\x1b[2K"):]
				}
				// A word that cannot be broken is left to the terminal.
				if plain := uncoloured(strings.TrimRight(line, "\r")); len([]rune(plain)) >= width && len(strings.Fields(plain)) > 1 {
					t.Errorf("%d columns: %q", len([]rune(plain)), plain)
				}
			}
			o.environ = append(o.environ, "NO_COLOR=1")
			if saw, _ := atTerminal(t, o, width, "", "check", "acme-crm"); strings.Contains(saw, "\x1b[32m") {
				t.Errorf("coloured although NO_COLOR is set: %q", saw)
			}
		})
	}
}

// TestCheckAsksFirst: at a terminal, before wrong tries are spent.
func TestCheckAsksFirst(t *testing.T) {
	tests := []struct {
		name, answer string
		args         []string
		asks, checks bool
	}{
		{"yes", "y\r", []string{"check", "acme-crm", "--depth", "enforcement"}, true, true},
		{"no", "n\r", []string{"check", "acme-crm", "--depth", "enforcement"}, true, false},
		{"nothing", "\r", []string{"check", "acme-crm", "--depth", "api"}, true, false},
		{"said before", "", []string{"check", "acme-crm", "--depth", "api", "--yes"}, false, true},
		{"not so deep", "", []string{"check", "acme-crm", "--depth", "token"}, false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			saw, status := atTerminal(t, f.operator(), 80, test.answer, test.args...)
			if asked := strings.Contains(saw, "two wrong tries"); asked != test.asks {
				t.Errorf("asked: %v, want %v:\n%s", asked, test.asks, saw)
			}
			if checked := f.count() > 0; checked != test.checks || test.checks != (status == exitDone) {
				t.Errorf("checked: %v, status %d, want %v:\n%s", checked, status, test.checks, saw)
			}
		})
	}
}

func TestReadLine(t *testing.T) {
	from := strings.NewReader("yes\nmore")
	if line, err := readLine(from); line != "yes" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	if rest, _ := io.ReadAll(from); string(rest) != "more" {
		t.Errorf("%q is left, want the next line whole", rest)
	}
}
