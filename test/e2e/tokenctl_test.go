package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// tokenctlBuilt is the operator's tool, built once, beside the server.
var tokenctlBuilt struct {
	once sync.Once
	path string
	err  error
}

// tokenctl returns the path of the operator's tool.
func tokenctl(t *testing.T) string {
	t.Helper()
	beside := filepath.Dir(program(t))
	tokenctlBuilt.once.Do(func() {
		tokenctlBuilt.path = filepath.Join(beside, "tokenctl")
		args := []string{"build", "-o", tokenctlBuilt.path}
		if raceDetector {
			args = append(args, "-race")
		}
		tokenctlBuilt.err = goCommand(append(args, "./cmd/tokenctl")...)
	})
	if tokenctlBuilt.err != nil {
		t.Fatal(tokenctlBuilt.err)
	}
	return tokenctlBuilt.path
}

// desk is a person with tokenctl and a home of their own. It keeps all that was printed.
type desk struct {
	t       *testing.T
	home    string
	printed logBuffer
}

// newDesk makes contexts of the two usual peers, "operator" (current) and "caller".
func newDesk(t *testing.T, s *site, n *node) *desk {
	t.Helper()
	d := &desk{t: t, home: t.TempDir()}
	ca := d.write("ca.pem", s.ca.PEM())
	for name, identity := range map[string]string{"caller": callerIdentity, "operator": operatorIdentity} {
		certificate, key, err := s.ca.Caller(identity)
		if err != nil {
			t.Fatal(err)
		}
		d.run("", "context", "set", name, "--address", n.address, "--ca-file", ca,
			"--certificate-file", d.write(name+".pem", certificate), "--key-file", d.write(name+"-key.pem", key)).want(t, 0)
	}
	d.run("", "context", "use", "operator").want(t, 0)
	return d
}

func (d *desk) write(name string, content []byte) string {
	d.t.Helper()
	path := filepath.Join(d.home, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// said is what came of a command line.
type said struct {
	args           []string
	stdout, stderr string
	status         int
}

// run runs tokenctl with stdin piped into it.
func (d *desk) run(stdin string, args ...string) said {
	d.t.Helper()
	command := exec.CommandContext(d.t.Context(), tokenctl(d.t), args...)
	command.Env, command.Dir, command.Stdin = environment(d.home), d.home, strings.NewReader(stdin)
	var stdout, stderr logBuffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	fmt.Fprintln(&d.printed, stdout.String(), stderr.String())
	return said{args, stdout.String(), stderr.String(), command.ProcessState.ExitCode()}
}

// want checks the status, and that each text was printed.
func (s said) want(t *testing.T, status int, texts ...string) said {
	t.Helper()
	if s.status != status {
		t.Fatalf("tokenctl %v: status %d, want %d\n%s%s", s.args, s.status, status, s.stdout, s.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(s.stdout+s.stderr, text) {
			t.Errorf("tokenctl %v: %q is not in\n%s%s", s.args, text, s.stdout, s.stderr)
		}
	}
	return s
}

// deskStep is one command line and what comes of it.
type deskStep struct {
	name   string
	stdin  string
	line   string // the command line, its words parted by blanks
	status int
	want   []string
}

// byHand changes a secret step by step, with every mistake on the way. Version 1 is
// current, its value firstSecret; the authorization server knows secondSecret too.
func byHand() []deskStep {
	return []deskStep{
		{"who", "", "whoami", 0, []string{operatorIdentity, "caller    oncall"}},
		{"versions", "", "secret versions desk", 0, []string{"1        current"}},
		{"no such client", "", "secret versions nobody", 4, []string{"CLIENT_NOT_FOUND", "in the broker's log"}},
		{"not allowed", secondSecret, "secret stage desk --file - --context caller", 3, []string{"CALLER_NOT_ALLOWED"}},
		{"line end", secondSecret + "\n", "secret stage desk --file -", 2, []string{"ends in white space"}},
		{"the same again", firstSecret + "\n", "secret stage desk --file - --trim-newline", 5, []string{"SECRET_UNCHANGED"}},
		{"nothing pending", "", "secret verify desk", 5, []string{"SECRET_WRONG_STAGE"}},
		{"stage a wrong one", "wr0ng-s3cr3t", "secret stage desk --file -", 0, []string{"version 2 of clients/desk is pending"}},
		{"verify a wrong one", "", "secret verify desk --secret-version 2", 5, []string{"CLIENT_REJECTED"}},
		{"promote unverified", "", "secret promote desk --secret-version 2", 5, []string{"SECRET_NOT_VERIFIED", "VerifySecret is `tokenctl secret verify`"}},
		{"stage", secondSecret + "\n", "secret stage desk --file - --trim-newline --request-id desk-1", 0, []string{"version 3 of clients/desk is pending"}},
		{"stage once more", secondSecret + "\n", "secret stage desk --file - --trim-newline --request-id desk-1", 0, []string{"version 3 of clients/desk is pending"}},
		{"verify", "", "secret verify desk --secret-version 3", 0, []string{"version 3 of clients/desk works"}},
		{"promote", "", "secret promote desk --secret-version 3 --drop-tokens", 0, []string{"version 3 of clients/desk is current, version 1 is previous"}},
		{"token", "", "token get desk --context caller --min-validity 1m --scope read", 0, []string{"hidden; --show prints it", "secret    version 3"}},
		{"retire current", "", "secret retire desk --secret-version 3", 5, []string{"SECRET_WRONG_STAGE"}},
		{"retire", "", "secret retire desk --secret-version 1", 0, []string{"version 1 of clients/desk is destroyed"}},
		{"after", "", "secret versions desk -o json", 0, []string{`"stage": "SECRET_STAGE_CURRENT"`, `"number": "3"`}},
	}
}

// TestTokenctl takes an operator's way through the tool, against the real server.
func TestTokenctl(t *testing.T) {
	t.Parallel()
	needServers(t)
	up := newUpstream(t, firstSecret, secondSecret)
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	n := s.start(t, program(t))
	if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("desk", up.TokenEndpoint()), Secret: secretInput(firstSecret)}); err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, s, n)
	for _, step := range byHand() {
		t.Run(step.name, func(t *testing.T) { d.run(step.stdin, strings.Fields(step.line)...).want(t, step.status, step.want...) })
		if t.Failed() {
			break
		}
	}
	// Nothing of what was sent and got was printed; --show prints the token alone.
	tokens, credentials := up.seen()
	for _, value := range append(append([]string{firstSecret, secondSecret, "wr0ng-s3cr3t"}, tokens...), credentials...) {
		if strings.Contains(d.printed.String(), value) {
			t.Errorf("tokenctl printed %s…", value[:4])
		}
	}
	var answer struct {
		Token string `json:"access_token"`
	}
	shown := d.run("", "token", "get", "desk", "--context", "caller", "--show", "-o", "json").want(t, 0)
	if err := json.Unmarshal([]byte(shown.stdout), &answer); err != nil || answer.Token != tokens[len(tokens)-1] {
		t.Errorf("--show: %v, want the token that the authorization server gave", err)
	}
	eventually(t, startsWithin, "completion of the client", func() error { // which gives up after 2 s and says nothing
		if got := d.run("", "__complete", "secret", "stage", "d").want(t, 0).stdout; got != "desk\t\n" {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
	n.stop(t)
	d.run("", "whoami").want(t, 6, "the broker did not answer")
}

// TestTokenctlIdentities reaches the server by a JWT from a file, which changes, and by
// the UNIX socket.
func TestTokenctlIdentities(t *testing.T) {
	t.Parallel()
	needServers(t)
	s := newSite(t, embeddedStore(t.TempDir()))
	issuer := newWorkloadIssuer(t, s.dir)
	socket := filepath.Join(s.dir, "s")
	s.config["listen"].(map[string]any)["unix_socket"] = map[string]any{"path": socket}
	s.config["jwt"] = map[string]any{"issuers": []map[string]any{{
		"issuer": workloadIssuerName, "audiences": []string{"tokenbroker"}, "algorithms": []string{"ES256"}, "jwks_file": issuer.file,
	}}}
	s.config["callers"] = []map[string]any{
		{"name": "job", "identity": "jwt:" + workloadIssuerName + "#job", "role": "operator"},
		{"name": "local", "identity": fmt.Sprintf("unix:uid=%d", os.Getuid()), "role": "operator"},
		{"name": "oncall", "identity": operatorIdentity, "role": "operator"},
	}
	n := s.launch(t, program(t))
	d := newDesk(t, s, n)
	jwt := d.write("jwt", []byte(issuer.token("job")+"\n"))
	d.run("", "context", "set", "job", "--address", n.address, "--ca-file", filepath.Join(d.home, "ca.pem"), "--token-file", jwt).want(t, 0)
	d.run("", "context", "set", "local", "--unix-socket", socket).want(t, 0)
	d.run("", "whoami").want(t, 0, "caller    oncall")
	d.run("", "whoami", "--context", "job").want(t, 0, "caller    job")
	d.run("", "whoami", "--context", "local").want(t, 0, "caller    local")
	d.write("jwt", []byte(issuer.token("other")+"\n"))
	d.run("", "whoami", "--context", "job").want(t, 0, workloadIssuerName+"#other", "none: the access table lists no such identity")
	d.write("jwt", []byte("no.j.wt\n"))
	d.run("", "whoami", "--context", "job").want(t, 3, "CALLER_UNAUTHENTICATED")
	n.stop(t)
}
