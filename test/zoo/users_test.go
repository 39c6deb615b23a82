package zoo_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/test/zoo"
	"github.com/tokenbroker/tokenbroker/test/zoo/table"
)

// subject is whose grants the tests use.
const subject = "users/ada"

// userRow says what a caller of GetToken gets by a user's refresh token that was had elsewhere.
type userRow struct {
	name, quirk string
	// spent uses the refresh token before the broker gets it.
	spent bool
	// scopes are asked for one after the other, with ["read"] first; each needs a refresh of its own.
	scopes [][]string
	// at is the endpoint where refreshes are asked for; "token" if "".
	at string
	// requests is how many come; one for each of the scopes if 0.
	requests int
	// want is what the last one gets.
	want table.Outcome
}

func userRows() []userRow {
	write := [][]string{{"write"}}
	rejected := table.Refused(broker.ReasonRefreshTokenRejected)
	return []userRow{
		{name: "twice", quirk: "refresh-forever", scopes: write, want: table.Outcome{Scopes: []string{"write"}}},
		{name: "with its successor", quirk: "refresh-rotating", scopes: write, want: table.Outcome{Scopes: []string{"write"}}},
		{name: "reused", quirk: "refresh-rotating", spent: true, want: table.Refused(broker.ReasonRefreshTokenReused)},
		{name: "with its successor", quirk: "refresh-rotating-grace", scopes: write, want: table.Outcome{Scopes: []string{"write"}}},
		{name: "reused in the grace", quirk: "refresh-rotating-grace", spent: true},
		{name: "with its successor", quirk: "refresh-returned-in-grace", scopes: write, want: table.Outcome{Scopes: []string{"write"}}},
		{name: "reused in the grace", quirk: "refresh-returned-in-grace", spent: true, scopes: write, want: table.Outcome{Scopes: []string{"write"}}},
		{name: "at its own URL", quirk: "refresh-elsewhere", scopes: write, at: "refresh", want: table.Outcome{Scopes: []string{"write"}}},
		{name: "shared", quirk: "single-active-pair", scopes: write, requests: 1, want: table.Outcome{Scopes: []string{"read", "write"}}},
		{name: "refused", quirk: "grant-revoked", want: rejected},
		{name: "refused", quirk: "grant-testing", want: rejected},
		{name: "refused", quirk: "grant-limit", want: rejected},
		{name: "refused", quirk: "grant-of-another", want: rejected},
		{name: "refused", quirk: "grant-expired-words", want: table.Refused(broker.ReasonRefreshTokenExpired)},
	}
}

// TestUsersTable is the table of quirks for grants of users.
func TestUsersTable(t *testing.T) {
	t.Parallel()
	for _, r := range userRows() {
		quirk, ok := zoo.Find(r.quirk)
		if !ok {
			t.Errorf("there is no quirk %q", r.quirk)
			continue
		}
		t.Run(r.quirk+" "+r.name, func(t *testing.T) {
			t.Parallel()
			r.try(t, newWorld(t, quirk, true, nil))
		})
	}
}

// try imports the refresh token and asks for the tokens.
func (r userRow) try(t *testing.T, w *world) {
	t.Helper()
	planted := w.zoo.Plant(r.quirk)
	if r.spent {
		if got := (visitor{t, w.zoo, r.quirk}).refresh(planted); got.Access == "" {
			t.Fatalf("the refresh token is not good: %s", got.Error)
		}
	}
	if _, err := w.broker.ImportAuthorization(t.Context(), broker.ImportedGrant{
		ClientID: clientID, Subject: subject, RefreshToken: secret.NewString(planted), Scopes: []string{"read", "write"},
	}); err != nil {
		t.Fatalf("ImportAuthorization: %v", err)
	}
	at, requests := r.at, r.requests
	if at == "" {
		at = "token"
	}
	if requests == 0 {
		requests = 1 + len(r.scopes)
	}
	before := w.zoo.Requests(r.quirk, at)
	var token *broker.Token
	var warnings []broker.Warning
	var err error
	for _, scopes := range append([][]string{{"read"}}, r.scopes...) {
		token, warnings, err = w.broker.GetToken(t.Context(), broker.TokenQuery{ClientID: clientID, Subject: subject, Scopes: scopes})
	}
	if got := broker.ReasonOf(err); got != r.want.Reason {
		t.Fatalf("GetToken = %v, want %q", err, r.want.Reason)
	}
	if got := w.zoo.Requests(r.quirk, at) - before; got != requests {
		t.Errorf("%d requests, want %d", got, requests)
	}
	if err != nil {
		checkRefusal(t, r.want, broker.AsError(err))
		return
	}
	checkToken(t, r.want, token, warnings, 0)
	if !w.opens(t, token) {
		t.Error("the API does not take the token")
	}
}
