package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func imported(subject string) broker.ImportedGrant {
	return broker.ImportedGrant{ClientID: "crm", Subject: subject, RefreshToken: secret.NewString("brought-refresh-token")}
}

func (w *consents) bring(t *testing.T, g broker.ImportedGrant) *broker.Authorization {
	t.Helper()
	a, err := w.ImportAuthorization(t.Context(), g)
	if err != nil {
		t.Fatalf("ImportAuthorization: %v", err)
	}
	return a
}

func TestListAuthorizations(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.RefreshToken)
	w.register(t, "other", broker.RefreshToken)
	const all = 41
	for i := range all {
		w.bring(t, imported(fmt.Sprint("users/", i)))
	}
	var seen []string
	query := broker.AuthorizationQuery{ClientID: "crm", PageSize: 7}
	for pages := 1; ; pages++ {
		page, err := w.ListAuthorizations(t.Context(), query)
		if err != nil {
			t.Fatalf("ListAuthorizations: %v", err)
		}
		for _, a := range page.Authorizations {
			seen = append(seen, a.ID)
		}
		if page.NextPageToken == "" {
			if pages != 6 {
				t.Errorf("%d pages, want 6", pages)
			}
			break
		}
		query.PageToken = page.NextPageToken
	}
	if len(seen) != all || !slices.IsSorted(seen) || len(slices.Compact(slices.Clone(seen))) != all {
		t.Errorf("%d authorizations, sorted %v", len(seen), slices.IsSorted(seen))
	}
	_, err := w.ListAuthorizations(t.Context(), broker.AuthorizationQuery{ClientID: "other", PageToken: query.PageToken})
	wantReason(t, "another client's page token", err, broker.ReasonInvalidRequest)
	_, err = w.ListAuthorizations(t.Context(), broker.AuthorizationQuery{ClientID: "crm", PageToken: "%"})
	wantReason(t, "no page token", err, broker.ReasonInvalidRequest)
	_, err = w.ListAuthorizations(t.Context(), broker.AuthorizationQuery{ClientID: "nobody"})
	wantReason(t, "no such client", err, broker.ReasonClientNotFound)
	some, err := w.ListAuthorizations(t.Context(), broker.AuthorizationQuery{ClientID: "crm", Shown: func(s string) bool { return strings.HasPrefix(s, "users/4") }})
	if err != nil || len(some.Authorizations) != 2 { // 4 and 40
		t.Errorf("%d of those that may be shown, %v; want 2", len(some.Authorizations), err)
	}
}

func TestImportAuthorization(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.RefreshToken)
	w.register(t, "old", broker.Password, func(n *broker.NewClient) { n.Upstream.Provider = "old" })
	w.register(t, "machine", "")
	a := w.bring(t, imported(subject))
	if a.State != broker.AuthorizationActive || !a.Refreshable || !slices.Equal(a.Scopes, []string{"read"}) || a.GrantTime.IsZero() {
		t.Errorf("imported: %+v", a)
	}
	password := broker.ImportedGrant{ClientID: "old", Subject: subject, Username: "ann", Password: secret.NewString("brought-password")}
	if a := w.bring(t, password); !a.Refreshable {
		t.Errorf("imported: %+v", a)
	}
	for _, key := range w.memory.Keys() {
		if text := recordOf(t, w.memory, key); strings.Contains(text, "brought-") || strings.Contains(text, subject) {
			t.Errorf("the record %s shows what was brought", key)
		}
	}
	with := func(edit func(*broker.ImportedGrant)) broker.ImportedGrant {
		g := imported(subject)
		edit(&g)
		return g
	}
	cases := []struct {
		name  string
		grant broker.ImportedGrant
		want  broker.Reason
	}{
		{"password for a client of refresh tokens", with(func(g *broker.ImportedGrant) {
			g.RefreshToken, g.Username, g.Password = secret.Value{}, "ann", secret.NewString("x")
		}), broker.ReasonAuthorizationNotOffered},
		{"refresh token for a client of passwords", with(func(g *broker.ImportedGrant) { g.ClientID = "old" }), broker.ReasonAuthorizationNotOffered},
		{"a client without users", with(func(g *broker.ImportedGrant) { g.ClientID = "machine" }), broker.ReasonAuthorizationNotOffered},
		{"nothing", with(func(g *broker.ImportedGrant) { g.RefreshToken = secret.Value{} }), broker.ReasonInvalidRequest},
		{"both", with(func(g *broker.ImportedGrant) { g.Username, g.Password = "ann", secret.NewString("x") }), broker.ReasonInvalidRequest},
		{"long", with(func(g *broker.ImportedGrant) { g.RefreshToken = secret.NewString(strings.Repeat("x", 64<<10+1)) }), broker.ReasonInvalidRequest},
		{"no subject", with(func(g *broker.ImportedGrant) { g.Subject = "" }), broker.ReasonInvalidRequest},
		{"scope", with(func(g *broker.ImportedGrant) { g.Scopes = []string{"all"} }), broker.ReasonScopeNotAllowed},
		{"no such client", with(func(g *broker.ImportedGrant) { g.ClientID = "nobody" }), broker.ReasonClientNotFound},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := w.ImportAuthorization(t.Context(), c.grant)
			wantReason(t, "ImportAuthorization", err, c.want)
		})
	}
}

// TestAGrantIsLookedAtWhileItEnds: what was read before the write does not undo what the
// writer knows.
func TestAGrantIsLookedAtWhileItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		w.register(t, "crm", broker.AuthorizationCode)
		granted := w.granted(t, "crm")
		q := broker.TokenQuery{ClientID: "crm", Subject: subject}
		if _, _, err := w.GetToken(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		w.store.Once(brokertest.Before(func(brokertest.Call) {
			time.Sleep(time.Second)
			_, _, _ = w.GetToken(context.WithoutCancel(t.Context()), q) // has the grant read in the background
			time.Sleep(time.Second)
		}), brokertest.On(brokertest.OpWrite, "grants/"))
		if _, err := w.RevokeAuthorization(t.Context(), broker.AuthorizationRef{ClientID: "crm", ID: granted.ID}, false); err != nil {
			t.Fatal(err)
		}
		_, _, err := w.GetToken(t.Context(), q)
		wantReason(t, "GetToken", err, broker.ReasonAuthorizationRequired)
	})
}

func TestRevokeAuthorization(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	granted := w.granted(t, "crm")
	revoked, err := w.RevokeAuthorization(t.Context(), broker.AuthorizationRef{ClientID: "crm", ID: granted.ID}, false)
	if err != nil || !revoked {
		t.Fatalf("RevokeAuthorization: %v, %v", revoked, err)
	}
	if did := w.upstream.Revoked(); len(did) != 1 || did[0].Kind != broker.RefreshTokenKind || !strings.HasPrefix(did[0].Token.RevealString(), "refresh-") {
		t.Errorf("revoked %+v", did)
	}
	_, err = w.GetAuthorization(t.Context(), broker.AuthorizationRef{ClientID: "crm", Subject: subject})
	wantReason(t, "GetAuthorization afterwards", err, broker.ReasonAuthorizationNotFound)
	_, err = w.RevokeAuthorization(t.Context(), broker.AuthorizationRef{ClientID: "crm", ID: granted.ID}, false)
	wantReason(t, "once more", err, broker.ReasonAuthorizationNotFound)
	if again := w.granted(t, "crm"); again.ID != granted.ID || again.State != broker.AuthorizationActive {
		t.Errorf("granted again: %+v", again)
	}
}

func TestRevocationThatFails(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	w.granted(t, "crm")
	ref := broker.AuthorizationRef{ClientID: "crm", Subject: subject}
	w.upstream.RefuseRevocations(&broker.Error{Reason: broker.ReasonUpstreamUnavailable})
	_, err := w.RevokeAuthorization(t.Context(), ref, false)
	wantReason(t, "RevokeAuthorization", err, broker.ReasonUpstreamUnavailable)
	if got := w.authorization(t, "crm"); got.State != broker.AuthorizationEnded || got.Reason != broker.ReasonAuthorizationRequired {
		t.Errorf("it is %s, %q", got.State, got.Reason)
	}
	revoked, err := w.RevokeAuthorization(t.Context(), ref, true)
	if err != nil || revoked {
		t.Errorf("with force: %v, %v", revoked, err)
	}
	_, err = w.GetAuthorization(t.Context(), ref)
	wantReason(t, "GetAuthorization afterwards", err, broker.ReasonAuthorizationNotFound)
}

func TestAStateEndsWithItsAuthorization(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	answer := w.consent(t, w.start(t, "crm"))
	if _, err := w.RevokeAuthorization(t.Context(), broker.AuthorizationRef{ClientID: "crm", Subject: subject}, false); err != nil {
		t.Fatal(err)
	}
	_, err := w.CompleteAuthorization(t.Context(), answer)
	wantReason(t, "CompleteAuthorization", err, broker.ReasonStateInvalid)
}

func TestDeleteSubject(t *testing.T) {
	w := newConsents(t)
	for _, id := range []string{"crm", "mail", "gone"} {
		w.register(t, id, broker.AuthorizationCode)
		w.granted(t, id)
	}
	if _, err := w.CompleteAuthorization(t.Context(), w.consent(t, w.start(t, "crm", func(s *broker.AuthorizationStart) { s.Subject = "users/other" }))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DeleteClient(t.Context(), "gone", ""); err != nil {
		t.Fatal(err)
	}
	did, err := w.DeleteSubject(t.Context(), subject)
	if err != nil || did.Deleted != 3 || did.Revoked != 3 {
		t.Errorf("DeleteSubject: %+v, %v; want 3 and 3", did, err)
	}
	for _, id := range []string{"crm", "mail", "gone"} {
		_, err := w.GetAuthorization(t.Context(), broker.AuthorizationRef{ClientID: id, Subject: subject})
		wantReason(t, "GetAuthorization of "+id, err, broker.ReasonAuthorizationNotFound)
	}
	if _, err := w.GetAuthorization(t.Context(), broker.AuthorizationRef{ClientID: "crm", Subject: "users/other"}); err != nil {
		t.Errorf("another subject's: %v", err)
	}
	if did, err := w.DeleteSubject(t.Context(), subject); err != nil || did != (broker.SubjectDeletion{}) {
		t.Errorf("once more: %+v, %v", did, err)
	}
	_, err = w.DeleteSubject(t.Context(), "")
	wantReason(t, "no subject", err, broker.ReasonInvalidRequest)
}

func TestADamagedGrantIsNamed(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.RefreshToken)
	w.register(t, "mail", broker.RefreshToken)
	w.bring(t, imported(subject))
	other := imported(subject)
	other.ClientID = "mail"
	w.bring(t, other)
	keys := keysUnder(w.memory, "grants/")
	record, err := w.memory.Read(t.Context(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	at, err := w.memory.Read(t.Context(), keys[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.memory.Write(t.Context(), keys[1], record.Data, at.Version); err != nil { // one client's grant under another's name
		t.Fatal(err)
	}
	var reasons []broker.Reason
	for _, id := range []string{"crm", "mail"} {
		_, err := w.GetAuthorization(t.Context(), broker.AuthorizationRef{ClientID: id, Subject: subject})
		reasons = append(reasons, broker.ReasonOf(err))
	}
	slices.Sort(reasons)
	if !slices.Equal(reasons, []broker.Reason{"", broker.ReasonRecordCorrupt}) {
		t.Errorf("reasons %q, want one RECORD_CORRUPT", reasons)
	}
}

// Whatever happens to one call of a revocation, a repetition ends it.
func TestARevocationIsEndedByARepetition(t *testing.T) {
	brokertest.EachFault(t, func(t *testing.T, run *brokertest.Run) {
		upstream := brokertest.NewUpstream()
		w := openConsentsOn(t, run.Store, upstream, brokertest.NewUsers(upstream, issuer))
		w.register(t, "crm", broker.RefreshToken)
		w.bring(t, imported(subject))
		ref := broker.AuthorizationRef{ClientID: "crm", Subject: subject}
		run.Start()
		_, err := w.RevokeAuthorization(t.Context(), ref, false)
		if run.Clean() && err != nil {
			t.Errorf("RevokeAuthorization: %v", err)
		}
		run.Stop()
		if _, err := w.RevokeAuthorization(t.Context(), ref, false); err != nil && broker.ReasonOf(err) != broker.ReasonAuthorizationNotFound {
			t.Errorf("once more: %v", err)
		}
		_, err = w.GetAuthorization(t.Context(), ref)
		wantReason(t, "GetAuthorization afterwards", err, broker.ReasonAuthorizationNotFound)
	})
}
