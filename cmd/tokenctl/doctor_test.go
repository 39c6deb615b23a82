package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// TestDoctor shows what is printed of a sound set-up in review.
func TestDoctor(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	got := o.run("doctor").want(exitDone).without("\x1b")
	text := strings.ReplaceAll(strings.ReplaceAll(got.stdout, o.home, "HOME"), f.address, "127.0.0.1:PORT")
	text = regexp.MustCompile(`\d+(\.\d+)?(µs|ms)`).ReplaceAllString(text, "TIME")
	text = regexp.MustCompile(`20\d\d-\d\d-\d\d \d\d:\d\d UTC`).ReplaceAllString(text, "DATE")
	golden(t, "doctor.txt", text)
}

// TestDoctorForPrograms prints one document.
func TestDoctorForPrograms(t *testing.T) {
	got := newFake(t).operator().run("doctor", "--after-restore", "-o", "json").want(exitFault)
	var sheet struct {
		Looks []struct {
			Part, Name, Outcome, Mend string
			Seen                      []string
		}
		Fail    int
		Restore map[string]int
	}
	if err := json.Unmarshal([]byte(got.stdout), &sheet); err != nil || got.stderr != "" {
		t.Fatalf("%v: %s%s", err, got.stdout, got.stderr)
	}
	if sheet.Restore["secrets"] != 2 || sheet.Fail != 2 {
		t.Errorf("%d failures and %v, want the two clients whose secret is not whole", sheet.Fail, sheet.Restore)
	}
	for _, l := range sheet.Looks {
		if l.Part == "" || l.Name == "" || len(l.Seen) == 0 || (l.Outcome == "look" || l.Outcome == "fail") && l.Mend == "" {
			t.Errorf("%+v: it says not what was seen, or not what mends it", l)
		}
	}
}

// TestDoctorAfterARestore lists each thing with what to do.
func TestDoctorAfterARestore(t *testing.T) {
	f := newFake(t)
	f.rotation = &pb.Rotation{Name: "clients/acme-crm/rotations/r1", State: verifying, UpdateTime: timestamppb.New(checkedAt)}
	got := f.operator().run("doctor", "--after-restore")
	got.stdout = squeezed(got.stdout)
	got.want(exitFault, "acme-billing: The authorization server rejects", "acme-crm: verifying since", "tokenctl rotations abort acme-crm",
		"restart each replica", "tokens that were got between", "secrets 2", "rotations 2", "versions 3", "zeta: version 1 is previous", "tokenctl secret retire zeta --secret-version 1", "was at 2026-11-21 09:07:00 UTC")
}

// TestDoctorFinds what is wrong on the way, and says what mends it.
func TestDoctorFinds(t *testing.T) {
	other, err := devpki.New("another authority")
	if err != nil {
		t.Fatal(err)
	}
	strangerCertificate, strangerKey, err := other.Caller(operatorIdentity)
	if err != nil {
		t.Fatal(err)
	}
	closed := harness.UnusedAddress(t)
	tests := []struct {
		name string
		edit func(*fake, *operator)
		want []string
	}{
		{"nobody listens", func(f *fake, o *operator) { o.replace(f.address, closed) }, []string{"FAIL  address", "connection refused", "start the broker"}},
		{"no such name", func(f *fake, o *operator) { o.replace(f.address, "broker.invalid:1") }, []string{"FAIL  name", "correct the context's address"}},
		{"another authority", func(_ *fake, o *operator) { o.write(".config/tokenctl/ca.pem", string(other.PEM())) }, []string{"FAIL  certificate", "its authority is none that is trusted here", "ca_file"}},
		{"another name", func(_ *fake, o *operator) { o.replace("ca_file", "server_name: broker.example, ca_file") }, []string{"it is not for broker.example", "server_name"}},
		{"unknown certificate", func(_ *fake, o *operator) {
			o.write(".config/tokenctl/me.pem", string(strangerCertificate))
			o.write(".config/tokenctl/me-key.pem", string(strangerKey))
		}, []string{"FAIL  mutual TLS", "ended the handshake", "listen.client_ca_file"}},
		{"key of another", func(_ *fake, o *operator) { o.write(".config/tokenctl/me-key.pem", string(strangerKey)) }, []string{"FAIL  key fits", "do not go together"}},
		{"files mixed up", func(_ *fake, o *operator) { o.write(".config/tokenctl/me.pem", string(strangerKey)) }, []string{"FAIL  certificate", "are the two files mixed up?"}},
		{"key for all", func(_ *fake, o *operator) {
			if err := os.Chmod(o.folder()+"/me-key.pem", 0o644); err != nil {
				t.Error(err)
			}
		}, []string{"FAIL  key", "mode 0644", "chmod 600"}},
		{"clock", func(f *fake, _ *operator) { f.skew = -5*time.Minute - time.Second/2 }, []string{"FAIL  clock", "5m0", "behind this machine's", "time service"}},
		{"clock a little", func(f *fake, _ *operator) { f.skew = 10 * time.Second }, []string{"look  clock", "ahead of"}},
		{"nobody", func(f *fake, _ *operator) {
			f.refuse(refusal(codes.Unavailable, "STORE_UNREACHABLE", "FIX_STORE", "Away."))
		}, []string{"FAIL  health", "tokenbroker doctor --config FILE"}},
		{"no configuration", func(_ *fake, o *operator) { o.write(".config/tokenctl/config.yaml", "current: x\n") }, []string{"FAIL  configuration", "tokenctl context set"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			o := f.operator()
			test.edit(f, o)
			status := exitFault
			if strings.HasPrefix(test.want[0], "look") {
				status = exitDone
			}
			got := o.run("doctor")
			got.stdout = squeezed(got.stdout)
			for i := range test.want {
				test.want[i] = squeezed(test.want[i])
			}
			got.want(status, test.want...)
		})
	}
}

// squeezed is text as it would be without columns and line ends.
func squeezed(text string) string { return strings.Join(strings.Fields(text), " ") }

// replace changes the operator's configuration.
func (o *operator) replace(text, by string) {
	o.t.Helper()
	raw, err := os.ReadFile(o.folder() + "/config.yaml")
	if err != nil {
		o.t.Fatal(err)
	}
	o.write(".config/tokenctl/config.yaml", strings.Replace(string(raw), text, by, 1))
}

// TestDoctorLooksAtTokens by what they say, and shows nothing of their signature.
func TestDoctorLooksAtTokens(t *testing.T) {
	token := func(expires int64) string {
		claims := `{"iss":"https://issuer.example","sub":"me","exp":` + strconv.FormatInt(expires, 10) + `}`
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + canary
	}
	for name, test := range map[string]struct{ content, want string }{
		"good":    {token(time.Now().Add(time.Hour).Unix()), "me of https://issuer.example"},
		"expired": {token(1), "expired at 1970-01-01"},
		"forever": {token(0), "it never expires"},
		"no JWT":  {canary, "holds no JWT"},
		"empty":   {"", "holds no JWT"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			o := f.operator()
			o.write(".config/tokenctl/token", test.content)
			o.replace("ca_file", "token_file: token, ca_file")
			got := o.run("doctor").without(canary)
			if !strings.Contains(squeezed(got.stdout), test.want) {
				t.Errorf("%q is not in\n%s", test.want, got.stdout)
			}
		})
	}
}

// TestDoctorAtASocket needs no TLS.
func TestDoctorAtASocket(t *testing.T) {
	o := newOperator(t)
	o.run("context", "set", "down", "--unix-socket", o.home+"/none.sock").want(exitDone)
	o.run("doctor").want(exitFault, "FAIL  socket", "no such file", "FAIL  health")
}
