package main

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/codes"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestStepByStep changes a secret as docs/tokenctl.md tells.
func TestStepByStep(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	o.pipe(canary).run("secret", "stage", "acme-crm", "--file", "-").want(exitDone,
		"version 4 of clients/acme-crm is pending", "next: tokenctl secret verify acme-crm --secret-version 4", "note: request id ").without(canary)
	request := asked[*pb.StageSecretRequest](f)
	if request.GetClient() != "clients/acme-crm" || request.GetSecret().GetClientSecret() != canary || len(request.GetRequestId()) < 20 || request.GetSecret().GetKeepTrailingSpace() {
		t.Errorf("the request is %v", request)
	}
	o.run("secret", "versions", "clients/acme-crm").want(exitDone, "VERSION  STAGE", "3        current", "(2 days ago)", "4        pending", "beef")
	o.run("secret", "verify", "acme-crm", "--secret-version", "4").want(exitDone, "version 4 of clients/acme-crm works", "warning: SCOPES_NARROWED", "secret promote acme-crm --secret-version 4")
	o.run("secret", "promote", "acme-crm", "--secret-version", "4", "--drop-tokens").want(exitDone, "version 4 of clients/acme-crm is current, version 3 is previous", "tokenctl secret rollback acme-crm")
	if p := asked[*pb.PromoteSecretRequest](f); p.GetSecretVersion() != 4 || !p.GetDropTokens() || p.GetAllowUnverified() {
		t.Errorf("the request is %v", p)
	}
	o.run("secret", "rollback", "acme-crm", "--context", "test").want(exitDone, "version 3 of clients/acme-crm is current again")
	o.run("secret", "retire", "acme-crm", "--secret-version", "4").want(exitDone, "version 4 of clients/acme-crm is destroyed")
	o.run("secret", "adopt", "acme-crm", "--request-id", "adopt-1").want(exitDone, "pending as version 4").without("note: request id")
	if a := asked[*pb.AdoptSecretRequest](f); a.GetRequestId() != "adopt-1" {
		t.Errorf("the request is %v", a)
	}
}

// TestSources sends each kind of new secret.
func TestSources(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	pem := "-----BEGIN PRIVATE KEY-----\n" + canary + "\n-----END PRIVATE KEY-----\n"
	file := func(content string) string { return o.write("given", content) }
	tests := []struct {
		name, content string
		args          []string
		want          func(*pb.SecretInput) bool
	}{
		{"file", canary, []string{"--file", "FILE"}, func(s *pb.SecretInput) bool { return s.GetClientSecret() == canary }},
		{"line end trimmed", canary + "\n", []string{"--file", "FILE", "--trim-newline"}, func(s *pb.SecretInput) bool { return s.GetClientSecret() == canary }},
		{"line end of Windows trimmed", canary + "\r\n", []string{"--file", "FILE", "--trim-newline"}, func(s *pb.SecretInput) bool { return s.GetClientSecret() == canary }},
		{"nothing to trim", canary, []string{"--file", "FILE", "--trim-newline"}, func(s *pb.SecretInput) bool { return s.GetClientSecret() == canary }},
		{"line end kept", canary + "\n", []string{"--file", "FILE", "--keep-trailing-space"}, func(s *pb.SecretInput) bool { return s.GetClientSecret() == canary+"\n" && s.GetKeepTrailingSpace() }},
		{"blanks within and before", " a b c", []string{"--file", "FILE"}, func(s *pb.SecretInput) bool { return s.GetClientSecret() == " a b c" }},
		{"private key", pem, []string{"--private-key-file", "FILE"}, func(s *pb.SecretInput) bool { return s.GetPrivateKey() == pem }},
		{"wrapping token", "hvs." + canary + "\n", []string{"--wrapping-token-file", "FILE"}, func(s *pb.SecretInput) bool { return s.GetWrappingToken() == "hvs."+canary }},
		{"reference", "", []string{"--reference", "secret/crm/oauth#client_secret"}, func(s *pb.SecretInput) bool {
			r := s.GetReference()
			return r.GetMount() == "secret" && r.GetPath() == "crm/oauth" && r.GetField() == "client_secret"
		}},
		{"reference below a mount with a slash", "", []string{"--reference", "team/kv//crm/oauth#value"}, func(s *pb.SecretInput) bool {
			r := s.GetReference()
			return r.GetMount() == "team/kv" && r.GetPath() == "crm/oauth" && r.GetField() == "value"
		}},
		{"expiry", canary, []string{"--file", "FILE", "--expire-time", "2027-01-31"}, func(s *pb.SecretInput) bool {
			return s.GetExpireTime().AsTime().Equal(time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC))
		}},
		{"registration token", canary + "\n", []string{"--reference", "a/b#c", "--registration-access-token-file", "FILE"}, func(s *pb.SecretInput) bool {
			return s.GetRegistrationAccessToken() == canary
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{"secret", "stage", "acme-crm"}, test.args...)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "FILE", file(test.content))
			}
			o.run(args...).want(exitDone).without(canary)
			if got := asked[*pb.StageSecretRequest](f).GetSecret(); !test.want(got) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestRefusedBeforeItIsSent: what is no secret does not leave the machine.
func TestRefusedBeforeItIsSent(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	tests := []struct {
		name, content string
		args          []string
		want          string
	}{
		{"line end", canary + "\n", []string{"--file", "-"}, "--trim-newline takes one line end off"},
		{"blank", canary + " ", []string{"--file", "-"}, "ends in white space"},
		{"no-break space", canary + "\u00a0", []string{"--file", "-"}, "ends in white space"},
		{"two line ends", canary + "\n\n", []string{"--file", "-", "--trim-newline"}, "ends in white space"},
		{"empty", "", []string{"--file", "-"}, "it is empty"},
		{"white space", " \n\t", []string{"--file", "-", "--keep-trailing-space"}, "it is empty"},
		{"line end alone", "\n", []string{"--file", "-", "--trim-newline"}, "it is empty"},
		{"no text", canary + "\xff", []string{"--file", "-"}, "not text in UTF-8"},
		{"key that is no text", canary + "\xff", []string{"--private-key-file", "-"}, "not text in UTF-8"},
		{"too long", canary + strings.Repeat("x", 64<<10), []string{"--file", "-"}, "more than 65536 bytes"},
		{"two words as token", "hvs." + canary + " more", []string{"--wrapping-token-file", "-"}, "no token"},
		{"empty token", "\n", []string{"--wrapping-token-file", "-"}, "it is empty"},
		{"standard input twice", canary, []string{"--file", "-", "--registration-access-token-file", "-"}, "read once only"},
		{"no terminal", canary, nil, "standard input is no terminal"},
		{"no terminal for a wrapping token", canary, []string{"--prompt-wrapping-token"}, "standard input is no terminal"},
		{"no file", "", []string{"--file", "nowhere"}, "nowhere"},
		{"folder", "", []string{"--file", o.home}, "is a folder"},
		{"reference without field", "", []string{"--reference", "a/b"}, "MOUNT/PATH#FIELD"},
		{"reference without path", "", []string{"--reference", "a#b"}, "MOUNT/PATH#FIELD"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o.pipe(test.content).run(append([]string{"secret", "stage", "acme-crm"}, test.args...)...).want(exitUsage, test.want).without(canary)
		})
	}
	if n := f.count(); n != 0 {
		t.Errorf("%d requests were sent, want none", n)
	}
}

// TestPermissionsOfASecretFile: a file that everybody can read is worth a word.
func TestPermissionsOfASecretFile(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	path := o.write("open", canary)
	o.run("secret", "stage", "acme-crm", "--file", path).want(exitDone).without("can be read by everybody")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	o.run("secret", "stage", "acme-crm", "--file", path).want(exitDone, "can be read by everybody on this machine (mode 0644)")
}

func TestDryRun(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	plan := []string{"nothing was changed", "1. store version 4 as pending", "crm     3        ", "(20 min ago)", "warning: ROTATION_GAP_NOT_ACCEPTED"}
	o.pipe(canary).run("secret", "stage", "acme-crm", "--file", "-", "--dry-run").want(exitDone, plan...).without("request id")
	o.run("secret", "promote", "acme-crm", "--dry-run").want(exitDone, plan...)
	o.run("secret", "rollback", "acme-crm", "--dry-run").want(exitDone, plan...)
	o.run("rotate", "acme-crm", "--dry-run").want(exitDone, plan...)
	o.run("rotate", "acme-crm", "--dry-run", "-o", "json").want(exitDone, `"store version 4 as pending"`)
	if !asked[*pb.RotateSecretRequest](f).GetValidateOnly() || !asked[*pb.StageSecretRequest](f).GetValidateOnly() {
		t.Error("the requests do not say that nothing may change")
	}
	// A broker that does not know dry runs does it, and must not be believed.
	o.run("secret", "retire", "acme-crm", "--secret-version", "9", "--dry-run").want(exitUnknownCall, "may have done it")
}

// TestErrors: each cause has its status, and the parts of an error are shown.
func TestErrors(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	for code, want := range map[codes.Code]int{
		codes.InvalidArgument: 2, codes.PermissionDenied: 3, codes.Unauthenticated: 3, codes.NotFound: 4, codes.FailedPrecondition: 5, codes.AlreadyExists: 5,
		codes.Unavailable: 6, codes.Aborted: 7, codes.DeadlineExceeded: 8, codes.ResourceExhausted: 9, codes.Unimplemented: 12, codes.Internal: 1, codes.DataLoss: 1,
	} {
		f.refuse(refusal(code, "SOME_REASON", "ROTATE_SECRET", "Something is wrong. Mend it."))
		got := o.run("whoami").want(want, "tokenctl: SOME_REASON: clients/acme-crm: Something is wrong. Mend it.\n",
			"detail   seen at path kv/data/x\n", "mend     a new secret is needed\n", "request  P2SDVNBOQ7GZ2LEMALDABCHLKM in the broker's log\n")
		if got.stdout != "" {
			t.Errorf("%v: on standard output: %q", code, got.stdout)
		}
		if code == codes.Unavailable {
			got.want(want, "wait     1.5s")
		}
		if code == codes.InvalidArgument {
			got.want(want, "field    client must match the pattern")
		}
	}
	f.refuse(refusal(codes.FailedPrecondition, "SECRET_NOT_VERIFIED", "FIX_CALLER", "Not verified."))
	var told struct{ Error map[string]any }
	if got := o.run("whoami", "-o", "json").want(exitPrecondition); json.Unmarshal([]byte(got.stderr), &told) != nil || told.Error["reason"] != "SECRET_NOT_VERIFIED" ||
		told.Error["code"] != "FAILED_PRECONDITION" || told.Error["exit_status"] != 5.0 || told.Error["request_id"] != "P2SDVNBOQ7GZ2LEMALDABCHLKM" {
		t.Errorf("as JSON: %s", got.stderr)
	}
	if got := o.run("whoami", "-o", "yaml"); yaml.Unmarshal([]byte(got.stderr), &told) != nil || told.Error["recovery"] != "FIX_CALLER" {
		t.Errorf("as YAML: %s", got.stderr)
	}
}

// TestErrorsSayNoSecret although the broker sends back what it got, and move no cursor.
func TestErrorsSayNoSecret(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	f.refuse(refusal(codes.InvalidArgument, "INVALID_REQUEST", "FIX_CALLER", "What is "+canary+"? \x1b[2J\u202e"))
	for _, output := range []string{"text", "json", "yaml"} {
		o.pipe(canary+"\n").run("secret", "stage", "acme-crm", "--file", "-", "--trim-newline", "-o", output).want(exitUsage, "What is [secret]?").without(canary, "\x1b")
	}
	o.pipe(canary+"\n").run("secret", "stage", "acme-crm", "--wrapping-token-file", "-").want(exitUsage, "What is [secret]?").without(canary, "\x1b", "\u202e")
}

// TestUnknownOutcome: who does not know what became of a call is told how to repeat it.
func TestUnknownOutcome(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	f.refuse(refusal(codes.Unavailable, "STORE_ANSWER_LOST", "RETRY", "The answer was lost."))
	got := o.pipe(canary).run("secret", "stage", "acme-crm", "--file", "-").want(exitUnavailable, "STORE_ANSWER_LOST")
	sent := asked[*pb.StageSecretRequest](f).GetRequestId()
	got.want(exitUnavailable, "with --request-id "+sent+" does it once at most", "note: request id "+sent)
	o.pipe(canary).run("secret", "stage", "acme-crm", "--file", "-", "--request-id", sent)
	if again := asked[*pb.StageSecretRequest](f).GetRequestId(); again != sent {
		t.Errorf("the repetition has the id %q, want %q", again, sent)
	}
}

// TestInterruptedWhileReading: Ctrl-C ends the wait for a pipe that nobody writes to.
func TestInterruptedWhileReading(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o.stdin = reader
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.runIn(ctx, "secret", "stage", "acme-crm", "--file", "-").want(exitInterrupted, "interrupted")
	_ = writer.Close() // ends the read
	_ = reader.Close()
	if n := f.count(); n != 0 {
		t.Errorf("%d requests were sent, want none", n)
	}
}

// TestOutputForPrograms: JSON and YAML say the same, with times by RFC 3339.
func TestOutputForPrograms(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	var fromJSON, fromYAML map[string]any
	if err := json.Unmarshal([]byte(o.run("secret", "versions", "acme-crm", "-o", "json").want(exitDone).stdout), &fromJSON); err != nil {
		t.Fatal(err)
	}
	text := o.run("secret", "versions", "acme-crm", "-o", "yaml").want(exitDone).stdout
	if err := yaml.Unmarshal([]byte(text), &fromYAML); err != nil {
		t.Fatal(err)
	}
	first := fromJSON["secret_versions"].([]any)[0].(map[string]any)
	if first["number"] != "3" || first["stage"] != "SECRET_STAGE_CURRENT" || !regexp.MustCompile(`^\d{4}-\d\d-\d\dT.*Z$`).MatchString(first["create_time"].(string)) {
		t.Errorf("as JSON: %v", first)
	}
	if same := fromYAML["secret_versions"].([]any)[0].(map[string]any); same["number"] != "3" || same["stage"] != first["stage"] || !strings.Contains(text, "\n  - number: \"3\"\n") {
		t.Errorf("as YAML: %s", text)
	}
}
