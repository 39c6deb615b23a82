package zoo_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/zoo"
	"github.com/tokenbroker/tokenbroker/test/zoo/table"
)

// TestTable is the table of quirks: what the provider sends → what the caller gets. What needs no profile is tried without one too.
func TestTable(t *testing.T) {
	t.Parallel()
	for _, r := range table.Rows() {
		quirk, ok := zoo.Find(r.Quirk)
		if !ok {
			t.Errorf("there is no quirk %q", r.Quirk)
			continue
		}
		t.Run(r.Quirk, func(t *testing.T) {
			t.Parallel()
			try(t, r, newWorld(t, quirk, true, r.Change))
		})
		if quirk.Profile == "" && r.Want.Source != broker.ExpiryFromIntrospection { // that needs to be told where
			t.Run(r.Quirk+" without a profile", func(t *testing.T) {
				t.Parallel()
				try(t, r, newWorld(t, quirk, false, r.Change))
			})
		}
	}
}

// try asks for the token.
func try(t *testing.T, r table.Row, w *world) {
	t.Helper()
	for range r.First {
		if _, _, err := w.broker.GetToken(t.Context(), broker.TokenQuery{ClientID: clientID, Scopes: []string{"write"}}); err != nil {
			t.Fatalf("a token before: %v", err)
		}
	}
	query := broker.TokenQuery{ClientID: clientID, Scopes: r.Scopes, Audience: r.Audience}
	if r.Resource != "" {
		query.Resources = []string{r.Resource}
	}
	before := w.zoo.Requests(w.quirk.Name, "token")
	begin := time.Now()
	token, warnings, err := w.broker.GetToken(t.Context(), query)
	if got, want := w.zoo.Requests(w.quirk.Name, "token")-before, max(r.Want.Requests, 1); got != want {
		t.Errorf("%d token requests, want %d", got, want)
	}
	if got := broker.ReasonOf(err); got != r.Want.Reason {
		t.Fatalf("GetToken = %v, want %q", err, r.Want.Reason)
	}
	if err != nil {
		checkRefusal(t, r.Want, broker.AsError(err))
		return
	}
	checkToken(t, r.Want, token, warnings, time.Since(begin))
	if got := w.opens(t, token); got == r.Dead {
		t.Errorf("the API takes the token: %v", got)
	}
}

func checkRefusal(t *testing.T, o table.Outcome, err *broker.Error) {
	t.Helper()
	if err.RetryAfter < o.Retry {
		t.Errorf("RetryAfter is %v, want at least %v", err.RetryAfter, o.Retry)
	}
	text := err.Error()
	if !strings.Contains(text, o.Detail) {
		t.Errorf("the error is %q, want %q in it", text, o.Detail)
	}
	if strings.Contains(text, zoo.ClientSecret) || strings.ContainsAny(text, "\x1b\r\n") || strings.Contains(text, "zoo-acc") {
		t.Errorf("the error has a secret, part of a token, or a control character: %q", text)
	}
}

func checkToken(t *testing.T, o table.Outcome, token *broker.Token, warnings []broker.Warning, took time.Duration) {
	t.Helper()
	if o.Source == "" {
		o.Lifetime, o.Source = time.Hour, broker.ExpiryFromResponse
	}
	const rounding = time.Second // of answers in whole seconds
	if got := token.ExpireTime.Sub(token.IssueTime); got > o.Lifetime+took+rounding || got < o.Lifetime-took-rounding || token.ExpirySource != o.Source {
		t.Errorf("it lives %v by %s, want %v by %s", got, token.ExpirySource, o.Lifetime, o.Source)
	}
	want := o.Scopes
	if want == nil {
		want = []string{"read"}
	}
	if !slices.Equal(token.Scopes, want) {
		t.Errorf("its scopes are %q, want %q", token.Scopes, want)
	}
	var got []broker.Reason
	for _, warning := range warnings {
		got = append(got, warning.Reason)
	}
	if !slices.Equal(got, o.Warnings) {
		t.Errorf("its warnings are %q, want %q", got, o.Warnings)
	}
}

// TestEachQuirkHasARow holds the tables to the zoo, and so to the notes: [TestEachNoteHasAQuirk].
func TestEachQuirkHasARow(t *testing.T) {
	tried := map[string]bool{}
	for _, r := range table.Rows() {
		tried[r.Quirk] = true
	}
	for _, r := range userRows() {
		tried[r.quirk] = true
	}
	for _, r := range consentRows() {
		tried[r.quirk] = true
	}
	for _, r := range deviceRows() {
		tried[r.quirk] = true
	}
	for _, quirk := range zoo.Quirks() {
		if !tried[quirk.Name] {
			t.Errorf("the quirk %q, of the line %q, has no row", quirk.Name, quirk.Line)
		}
	}
}
