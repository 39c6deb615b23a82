package e2e_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// wellAndUnwell asks about two clients: the secret of "desk" is right, that of "drawer"
// is not. DIR is the deployment's folder.
func wellAndUnwell() []deskStep {
	return []deskStep{
		{"well", "", "check desk", 0, []string{"ok    STORE_REACHABLE", "ok    SECRET_FIT", "clients/desk: nothing failed."}},
		{"a token", "", "check desk --depth token", 0, []string{"ok    TOKEN_REQUEST"}},
		{"refused", "", "check drawer --depth token", 13, []string{"FAIL  TOKEN_REQUEST", "CLIENT_REJECTED", "mend  "}},
		{"near miss", "", "check deks", 13, []string{"FAIL  INDEX", "near to it: desk"}},
		{"as a caller", "", "check desk --as crm", 0, []string{"ok    CALLER_PERMITTED"}},
		{"as nobody", "", "check desk --as nobody", 2, []string{"not the name of a caller"}},
		{"not allowed", "", "check desk --context caller", 3, []string{"CALLER_NOT_ALLOWED", "this needs the permission lookup.check"}},
		{"Markdown", "", "check drawer -o markdown", 0, []string{"| STORE_REACHABLE: the store answers | passed |"}},
		{"sweep", "", "sweep", 0, []string{"2 clients checked", "0 with a fault"}},
		{"sweep with tokens", "", "sweep --depth token --probes 10 --all", 13, []string{"FAIL  drawer  CLIENT_REJECTED", "ok    desk", "1 with a fault"}},
		{"a sweep of a filter", "", "sweep --filter prefix=de", 0, []string{"1 client checked"}},
		{"access", "", "access explain crm desk", 0, []string{"lets crm have a token of clients/desk"}},
		{"watch", "", "watch desk --timeout 6s --context caller", 8, []string{"scopes: ", "secret version 1", "stopped watching"}},
		{"doctor", "", "doctor", 0, []string{"ok    TLS", "ok    mutual TLS", "you are oncall", "ok    clock", "the store answers", "0 broken"}},
		{"doctor of a caller", "", "doctor --context caller", 0, []string{"you are crm", "-     store"}},
		{"after a restore", "", "doctor --after-restore", 0, []string{"ok    rotations", "ok    secrets", "restart each replica"}},
		{"audit", "", "audit verify --key-file DIR/audit.key --running 1 DIR/audit.log", 0, []string{"SOUND"}},
	}
}

// TestTokenctlDiagnosis finds out what is wrong, against the real server.
func TestTokenctlDiagnosis(t *testing.T) {
	t.Parallel()
	needServers(t)
	up := newUpstream(t, firstSecret)
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	n := s.start(t, program(t))
	for name, secret := range map[string]string{"desk": firstSecret, "drawer": secondSecret} {
		if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient(name, up.TokenEndpoint()), Secret: secretInput(secret)}); err != nil {
			t.Fatal(err)
		}
	}
	d := newDesk(t, s, n)
	for _, step := range wellAndUnwell() {
		t.Run(step.name, func(t *testing.T) {
			d.run(step.stdin, strings.Fields(strings.ReplaceAll(step.line, "DIR", s.dir))...).want(t, step.status, step.want...)
		})
	}
	t.Run("explain", func(t *testing.T) {
		failed := d.run("", "token", "get", "drawer", "-o", "json").want(t, 5)
		var told struct {
			Error struct {
				RequestID string `json:"request_id"`
			} `json:"error"`
		}
		if err := json.Unmarshal([]byte(failed.stderr), &told); err != nil {
			t.Fatal(err)
		}
		d.run("", "explain", told.Error.RequestID).want(t, 0, "CLIENT_REJECTED", "clients/drawer", "oncall", "tokenctl check drawer")
		d.run("", "explain", "NONE").want(t, 4, "FAILURE_NOT_SEEN")
	})
	t.Run("the server's own doctor", func(t *testing.T) {
		output, err := exec.CommandContext(t.Context(), program(t), "doctor", "--config", filepath.Join(s.dir, "config.yaml")).CombinedOutput()
		if err != nil || !strings.Contains(string(output), "in use, as by a running server") || !strings.Contains(string(output), "0 broken") {
			t.Errorf("%v\n%s", err, output)
		}
	})
	tokens, credentials := up.seen()
	for _, value := range append(append([]string{firstSecret, secondSecret}, tokens...), credentials...) {
		if strings.Contains(d.printed.String(), value) {
			t.Errorf("tokenctl printed %s…", value[:4])
		}
	}
	n.stop(t)
	d.run("", "check", "desk").want(t, 6, "the broker did not answer")
	d.run("", "doctor").want(t, 13, "FAIL  address", "start the broker")
}
