package e2e_test

import (
	"strings"
	"testing"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// atOnce changes a secret by `rotate`, with every mistake on the way, and leads back.
// Version 1 is current, its value firstSecret; the authorization server knows
// secondSecret too.
func atOnce() []deskStep {
	return []deskStep{
		{"never rotated", "", "rotations get spin", 4, []string{"ROTATION_NOT_FOUND"}},
		{"no secret and no rotator", "", "rotate spin", 5, []string{"ROTATOR_NOT_SET", "--prompt"}},
		{"not allowed", secondSecret, "rotate spin --file - --context caller", 3, []string{"CALLER_NOT_ALLOWED"}},
		{"line end", secondSecret + "\n", "rotate spin --file -", 2, []string{"ends in white space"}},
		{"the same again", firstSecret, "rotate spin --file -", 5, []string{"SECRET_UNCHANGED"}},
		{"plan", secondSecret, "rotate spin --file - --dry-run", 0, []string{"nothing was changed", "stage the given secret as version 2", "verify it with 3 tokens"}},
		{"a wrong one", "wr0ng-s3cr3t", "rotate spin --file -", 11, []string{"verify: CLIENT_REJECTED", "the rotation failed; the current secret is what it was"}},
		{"failed", "", "rotations list --state failed", 0, []string{"spin    failed", "CLIENT_REJECTED"}},
		{"watch what is over", "", "rotations watch spin", 11, []string{"failed"}},
		{"rotate", secondSecret + "\n", "rotate spin --file - --trim-newline --request-id spin-1", 0, []string{"version 3 of clients/spin is current", "version 1 is retired"}},
		{"rotate once more", secondSecret + "\n", "rotate spin --file - --trim-newline --request-id spin-1", 0, []string{"version 3 of clients/spin is current"}},
		{"rotate another time", "another-s3cr3t", "rotate spin --file -", 5, []string{"ROTATION_UNDER_WAY", "version 1 is retired at"}},
		{"abort after promotion", "", "rotations abort spin", 5, []string{"ROTATION_WRONG_STATE", "RollbackSecret is `tokenctl secret rollback"}},
		{"promoted", "", "rotations get spin -o json", 0, []string{`"state": "ROTATION_STATE_PROMOTED"`, `"request_id": "spin-1"`}},
		{"plan of the way back", "", "secret rollback spin --dry-run", 0, []string{"make version 1 current again"}},
		{"back", "", "secret rollback spin --secret-version 1", 0, []string{"version 1 of clients/spin is current again"}},
		{"back once more", "", "secret rollback spin --secret-version 1", 0, []string{"version 1 of clients/spin is current again"}},
		{"rolled back", "", "rotations get spin", 0, []string{"state       rolled back"}},
		{"abort what is over", "", "rotations abort spin", 0, []string{"rolled back", "nothing was aborted"}},
		{"stage", secondSecret, "secret stage spin --file -", 0, []string{"version 4 of clients/spin is pending"}},
		{"staged", "", "rotations list --state staged", 0, []string{"spin    staged"}},
		{"abort another one", "", "rotations abort spin --rotation clients/spin/rotations/other", 4, []string{"ROTATION_NOT_FOUND"}},
		{"abort", "", "rotations abort spin", 0, []string{"state       aborted"}},
		{"nothing is stuck", "", "rotations list --stuck", 0, []string{"none"}},
		{"nobody wrote by hand", "", "secret adopt spin", 5, []string{"SECRET_UNCHANGED", "nobody has changed version 1", "there is nothing to adopt"}},
		{"compromised", secondSecret, "rotate spin --file - --compromised", 0, []string{"version 5 of clients/spin is current", "completed"}},
		{"no way back", "", "secret rollback spin", 5, []string{"SECRET_WRONG_STAGE"}},
		{"only one is left", "", "secret versions spin -o json", 0, []string{`"number": "5"`, `"stage": "SECRET_STAGE_CURRENT"`}},
	}
}

// TestTokenctlRotates takes an operator's way through rotations that go on by
// themselves, against the real server.
func TestTokenctlRotates(t *testing.T) {
	t.Parallel()
	needServers(t)
	up := newUpstream(t, firstSecret, secondSecret)
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	n := s.start(t, program(t))
	if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("spin", up.TokenEndpoint()), Secret: secretInput(firstSecret)}); err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, s, n)
	for _, step := range atOnce() {
		t.Run(step.name, func(t *testing.T) { d.run(step.stdin, strings.Fields(step.line)...).want(t, step.status, step.want...) })
		if t.Failed() {
			break
		}
	}
	tokens, credentials := up.seen()
	for _, value := range append(append([]string{firstSecret, secondSecret, "wr0ng-s3cr3t", "another-s3cr3t"}, tokens...), credentials...) {
		if strings.Contains(d.printed.String(), value) {
			t.Errorf("tokenctl printed %s…", value[:4])
		}
	}
	n.stop(t)
}

// TestTokenctlAdopts has somebody write a secret into Vault by hand, and an operator
// make it the client's.
func TestTokenctlAdopts(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	up := newUpstream(t, firstSecret, secondSecret)
	s := newSite(t, store.config(store.Addr()), up.ca)
	n := s.start(t, program(t))
	created, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("desk", up.TokenEndpoint()), Secret: secretInput(firstSecret)})
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, s, n)
	key := "secrets/desk/" + created.GetClient().GetUid() + "-1"
	d.run("", "secret", "adopt", "desk").want(t, 5, "SECRET_UNCHANGED")
	store.put(key, map[string]any{"value": secondSecret})
	d.run("", "secret", "adopt", "desk", "--request-id", "adopt-1").want(t, 0, "what was written by hand is pending as version 2 of clients/desk")
	d.run("", "secret", "adopt", "desk", "--request-id", "adopt-1").want(t, 0, "pending as version 2 of clients/desk")
	d.run("", "rotations", "get", "desk").want(t, 0, "source      adopted")
	d.run("", "secret", "verify", "desk").want(t, 0, "version 2 of clients/desk works")
	d.run("", "secret", "promote", "desk", "--secret-version", "2").want(t, 0, "version 2 of clients/desk is current")
	if _, err := n.token(t.Context(), "clients/desk"); err != nil {
		t.Error(err)
	}
	store.put("secrets/desk/"+created.GetClient().GetUid()+"-2", map[string]any{"password": "not-where-it-belongs"})
	d.run("", "secret", "adopt", "desk").want(t, 1, "RECORD_CORRUPT")
	if strings.Contains(d.printed.String(), secondSecret) {
		t.Error("tokenctl printed the secret")
	}
	n.stop(t)
}
