package e2e_test

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
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

// byProvider has a provider change the secret, whose management refuses the broker until
// somebody mends that.
func byProvider() (refused, mended []deskStep) {
	refused = []deskStep{
		{"plan", "", "rotate enrolled --dry-run", 0, []string{"have rfc7592 make a new secret", "UPSTREAM_SECRET_LOST"}},
		{"refused", "", "rotate enrolled --request-id enrolled-1", 10, []string{
			"ROTATOR_UNAUTHORIZED", "tokenctl rotate enrolled --request-id enrolled-1 goes on", "tokenctl rotations abort enrolled gives it up",
		}},
		{"waits", "", "rotations list --stuck", 0, []string{"enrolled  needs operator (stuck)", "ROTATOR_UNAUTHORIZED"}},
		{"another request", "", "rotate enrolled", 10, []string{"ROTATOR_UNAUTHORIZED"}},
		{"give up", "", "rotations abort enrolled", 0, []string{"state       aborted"}},
		{"refused again", "", "rotate enrolled --request-id enrolled-2", 10, []string{"ROTATOR_UNAUTHORIZED"}},
	}
	mended = []deskStep{
		{"go on", "", "rotate enrolled --request-id enrolled-2", 0, []string{"version 2 of clients/enrolled is current"}},
		{"retire", "", "secret retire enrolled --secret-version 1", 0, []string{"version 1 of clients/enrolled is destroyed"}},
		{"over", "", "rotations get enrolled", 0, []string{"state       completed", "source      provider", "provider    replaced"}},
	}
	return refused, mended
}

// TestTokenctlGoesOn has a rotation need an operator, and the operator mend it.
func TestTokenctlGoesOn(t *testing.T) {
	t.Parallel()
	needServers(t)
	up := newUpstream(t)
	r := &playedRegistrar{up: up, secrets: []string{"enrolled-s3cr3t-1", "enrolled-s3cr3t-2"}, tokens: []string{"t0k3n-of-nobody"}}
	if err := up.AddClient(authserver.Client{ID: registeredID, Secrets: []secret.Value{secret.NewString(r.secrets[0])}, Scopes: []string{"read"}}); err != nil {
		t.Fatal(err)
	}
	up.mux.Handle("/registration", r)
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	n := s.start(t, program(t))
	client := newClient("enrolled", up.TokenEndpoint())
	client.ClientId, client.Rotation = registeredID, &pb.RotationSettings{Rotator: "rfc7592", Endpoint: up.origin + "/registration"}
	input := secretInput(r.secrets[0])
	input.RegistrationAccessToken = "registration-t0k3n-1"
	if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: input}); err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, s, n)
	refused, mended := byProvider()
	for _, step := range refused {
		d.run(step.stdin, strings.Fields(step.line)...).want(t, step.status, step.want...)
	}
	r.mu.Lock()
	r.tokens = []string{"registration-t0k3n-1", "registration-t0k3n-2"}
	r.mu.Unlock()
	for _, step := range mended {
		d.run(step.stdin, strings.Fields(step.line)...).want(t, step.status, step.want...)
	}
	if _, err := n.token(t.Context(), "clients/enrolled"); err != nil {
		t.Error(err)
	}
	if strings.Contains(d.printed.String(), "s3cr3t") || strings.Contains(d.printed.String(), "t0k3n") {
		t.Error("tokenctl printed a secret")
	}
	n.stop(t)
}
