package broker_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

func TestConsentByCode(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	started := w.start(t, "crm", func(s *broker.AuthorizationStart) { s.Scopes, s.LoginHint = []string{"write", "openid"}, "ann" })
	if started.State != broker.AuthorizationPending || !slices.Equal(started.Scopes, []string{"openid", "write"}) || started.Subject != subject {
		t.Errorf("started: %+v", started)
	}
	if got := w.authorization(t, "crm"); got.Consent.AuthorizationURL != "" || got.Reason != broker.ReasonAuthorizationPending {
		t.Errorf("GetAuthorization shows the URL %q, reason %q", got.Consent.AuthorizationURL, got.Reason)
	}
	asked := w.users.Asked()[0]
	state, err := base64.RawURLEncoding.DecodeString(asked.State)
	if err != nil || asked.RedirectURI != callback || asked.Nonce == "" || asked.LoginHint != "ann" || strings.Contains(string(state), `"crm"`) {
		t.Errorf("asked for consent with %+v", asked)
	}
	granted, err := w.CompleteAuthorization(t.Context(), w.consent(t, started))
	if err != nil {
		t.Fatalf("CompleteAuthorization: %v", err)
	}
	if granted.State != broker.AuthorizationActive || !granted.Refreshable || granted.Consent != nil || granted.SecretVersion != 1 || granted.ID != started.ID {
		t.Errorf("granted: %+v", granted)
	}
	sent := w.sentOf(broker.AuthorizationCode)
	challenge := sha256.Sum256(sent[0].Grant.CodeVerifier.Reveal())
	if len(sent) != 1 || base64.RawURLEncoding.EncodeToString(challenge[:]) != asked.CodeChallenge || len(sent[0].Scopes) != 0 {
		t.Errorf("sent %d codes, first %+v", len(sent), sent[0].Grant)
	}
	for _, key := range w.memory.Keys() {
		for _, plain := range []string{subject, "refresh-", "code-1"} {
			if strings.Contains(recordOf(t, w.memory, key), plain) || strings.Contains(key, plain) {
				t.Errorf("the record %s shows %q", key, plain)
			}
		}
	}
}

// sentOf returns the token requests of a grant.
func (w *consents) sentOf(grant broker.GrantType) []broker.TokenRequest {
	var requests []broker.TokenRequest
	for _, r := range w.upstream.Requests() {
		if r.Grant.Type == grant {
			requests = append(requests, r.TokenRequest)
		}
	}
	return requests
}

func TestStartAuthorizationRefuses(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	w.register(t, "tv", broker.DeviceCode)
	w.register(t, "machine", "")
	w.register(t, "imported", broker.RefreshToken)
	w.register(t, "off", broker.AuthorizationCode)
	if _, err := w.SetDisabled(t.Context(), "off", true); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name  string
		start broker.AuthorizationStart
		want  broker.Reason
	}{
		{"no subject", broker.AuthorizationStart{ClientID: "crm"}, broker.ReasonInvalidRequest},
		{"subject with a newline", broker.AuthorizationStart{ClientID: "crm", Subject: "a\nb"}, broker.ReasonInvalidRequest},
		{"long subject", broker.AuthorizationStart{ClientID: "crm", Subject: strings.Repeat("a", 257)}, broker.ReasonInvalidRequest},
		{"no such client", broker.AuthorizationStart{ClientID: "nobody", Subject: "a"}, broker.ReasonClientNotFound},
		{"disabled", broker.AuthorizationStart{ClientID: "off", Subject: "a"}, broker.ReasonClientDisabled},
		{"no user's grant", broker.AuthorizationStart{ClientID: "machine", Subject: "a"}, broker.ReasonAuthorizationNotOffered},
		{"grants that are imported", broker.AuthorizationStart{ClientID: "imported", Subject: "a"}, broker.ReasonAuthorizationNotOffered},
		{"scope", broker.AuthorizationStart{ClientID: "crm", Subject: "a", Scopes: []string{"all"}}, broker.ReasonScopeNotAllowed},
		{"device with a redirect_uri", broker.AuthorizationStart{ClientID: "tv", Subject: "a", RedirectURI: ownPage}, broker.ReasonInvalidRequest},
		{"open redirect", broker.AuthorizationStart{ClientID: "crm", Subject: "a", RedirectURI: "https://evil.example/"}, broker.ReasonInvalidRequest},
		{"longer redirect_uri", broker.AuthorizationStart{ClientID: "crm", Subject: "a", RedirectURI: ownPage + "/more"}, broker.ReasonInvalidRequest},
		{"redirect_uri with a query", broker.AuthorizationStart{ClientID: "crm", Subject: "a", RedirectURI: ownPage + "?next=https://evil.example"}, broker.ReasonInvalidRequest},
		{"redirect_uri with a user", broker.AuthorizationStart{ClientID: "crm", Subject: "a", RedirectURI: "https://app.example@evil.example/oauth/done"}, broker.ReasonInvalidRequest},
		{"redirect_uri in capitals", broker.AuthorizationStart{ClientID: "crm", Subject: "a", RedirectURI: strings.ToUpper(ownPage)}, broker.ReasonInvalidRequest},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := w.StartAuthorization(t.Context(), c.start)
			wantReason(t, "StartAuthorization", err, c.want)
		})
	}
	if keys := keysUnder(w.memory, "grants/"); len(keys) > 0 {
		t.Errorf("refused calls left %q", keys)
	}
}

// bent is text in which another character stands first.
func bent(text string) string {
	if text[0] == 'A' {
		return "B" + text[1:]
	}
	return "A" + text[1:]
}

func TestCompleteAuthorizationRefuses(t *testing.T) {
	cases := []struct {
		name string
		edit func(*broker.AuthorizationAnswer)
		want broker.Reason
		// left is what the authorization then says; pending if "".
		left broker.Reason
	}{
		{"other issuer", func(a *broker.AuthorizationAnswer) { a.Issuer = "https://evil.example" }, broker.ReasonIssuerMismatch, broker.ReasonIssuerMismatch},
		{"other issuer with an error", func(a *broker.AuthorizationAnswer) {
			a.Issuer, a.Code, a.Error = "https://evil.example", "", "access_denied"
		}, broker.ReasonIssuerMismatch, broker.ReasonIssuerMismatch},
		{"no issuer", func(a *broker.AuthorizationAnswer) { a.Issuer = "" }, broker.ReasonIssuerMismatch, broker.ReasonIssuerMismatch},
		{"denied", func(a *broker.AuthorizationAnswer) { a.Code, a.Error = "", "access_denied" }, broker.ReasonAuthorizationDenied, broker.ReasonAuthorizationDenied},
		{"invalid scope", func(a *broker.AuthorizationAnswer) { a.Code, a.Error = "", "invalid_scope" }, broker.ReasonScopeRejected, broker.ReasonScopeRejected},
		{"invented error", func(a *broker.AuthorizationAnswer) { a.Code, a.Error = "", "<script>" }, broker.ReasonUpstreamRefused, broker.ReasonUpstreamRefused},
		{"no code", func(a *broker.AuthorizationAnswer) { a.Code = "" }, broker.ReasonInvalidRequest, ""},
		{"code and error", func(a *broker.AuthorizationAnswer) { a.Error = "access_denied" }, broker.ReasonInvalidRequest, ""},
		{"code with a newline", func(a *broker.AuthorizationAnswer) { a.Code += "\r\n" }, broker.ReasonInvalidRequest, ""},
		{"long code", func(a *broker.AuthorizationAnswer) { a.Code = strings.Repeat("a", 8<<10+1) }, broker.ReasonInvalidRequest, ""},
		{"another client", func(a *broker.AuthorizationAnswer) { a.ClientID = "other" }, broker.ReasonStateInvalid, ""},
		{"bent state", func(a *broker.AuthorizationAnswer) { a.State = bent(a.State) }, broker.ReasonStateInvalid, ""},
		{"no state", func(a *broker.AuthorizationAnswer) { a.State = "" }, broker.ReasonStateInvalid, ""},
		{"elsewhere", func(a *broker.AuthorizationAnswer) { a.AtCallback = false; a.Code = "code-of-another" }, broker.ReasonAuthorizationNotTaken, broker.ReasonAuthorizationNotTaken},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newConsents(t)
			w.register(t, "crm", broker.AuthorizationCode, func(n *broker.NewClient) { n.Upstream.IssuerInAnswer = true })
			w.register(t, "other", broker.AuthorizationCode)
			answer := w.consent(t, w.start(t, "crm"))
			answer.AtCallback = true
			c.edit(&answer)
			_, err := w.CompleteAuthorization(t.Context(), answer)
			wantReason(t, "CompleteAuthorization", err, c.want)
			if got := w.authorization(t, "crm"); got.Consent.Reason != c.left || (c.left == "") != (got.State == broker.AuthorizationPending) {
				t.Errorf("the authorization is %s, %q, want %q", got.State, got.Consent.Reason, c.left)
			}
			if codes := len(w.sentOf(broker.AuthorizationCode)); codes > 0 && c.name != "elsewhere" {
				t.Errorf("%d codes were sent", codes)
			}
		})
	}
}

func TestACodeOfAnotherClientIsNotTaken(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	w.register(t, "mail", broker.AuthorizationCode)
	mine, theirs := w.consent(t, w.start(t, "crm")), w.consent(t, w.start(t, "mail"))
	mine.Code = theirs.Code
	_, err := w.CompleteAuthorization(t.Context(), mine)
	wantReason(t, "the code of mail with the state of crm", err, broker.ReasonAuthorizationNotTaken)
	if got := w.authorization(t, "crm"); got.State != broker.AuthorizationEnded || got.Reason != broker.ReasonAuthorizationNotTaken {
		t.Errorf("crm's authorization is %s, %q", got.State, got.Reason)
	}
}

func TestACodeOfAnotherUserIsNotTaken(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	mine := w.consent(t, w.start(t, "crm"))
	theirs := w.consent(t, w.start(t, "crm", func(s *broker.AuthorizationStart) { s.Subject = "users/thief" }))
	mine.Code = theirs.Code
	_, err := w.CompleteAuthorization(t.Context(), mine)
	wantReason(t, "the code of another user's consent", err, broker.ReasonAuthorizationNotTaken)
}

func TestAStateIsGoodOnce(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	first := w.consent(t, w.start(t, "crm"))
	second := w.consent(t, w.start(t, "crm"))
	_, err := w.CompleteAuthorization(t.Context(), first)
	wantReason(t, "the state of a replaced consent", err, broker.ReasonStateInvalid)
	if _, err := w.CompleteAuthorization(t.Context(), second); err != nil {
		t.Fatalf("CompleteAuthorization: %v", err)
	}
	_, err = w.CompleteAuthorization(t.Context(), second)
	wantReason(t, "a used state", err, broker.ReasonStateInvalid)
	if codes := len(w.sentOf(broker.AuthorizationCode)); codes != 1 {
		t.Errorf("%d codes were sent, want 1", codes)
	}
}

func TestForgedAndExpiredStatesCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		w.register(t, "crm", broker.AuthorizationCode)
		expired := w.consent(t, w.start(t, "crm"))
		time.Sleep(time.Hour)
		before := w.store.Calls()
		for _, state := range []string{expired.State, "x", strings.Repeat("A", 400), strings.Repeat("A", 5000), "%00", ""} {
			_, err := w.CompleteAuthorization(t.Context(), broker.AuthorizationAnswer{State: state, Code: "c", AtCallback: true})
			wantReason(t, "state "+state[:min(len(state), 8)], err, broker.ReasonStateInvalid)
		}
		if calls := len(w.store.Calls()) - len(before); calls != 0 {
			t.Errorf("%d calls to the store", calls)
		}
		if got := w.authorization(t, "crm"); got.Reason != broker.ReasonAuthorizationExpired {
			t.Errorf("the authorization says %q", got.Reason)
		}
	})
}

func TestTheIDTokenMustBeOfThisConsent(t *testing.T) {
	openid := func(s *broker.AuthorizationStart) { s.Scopes = []string{"openid"} }
	cases := []struct {
		name string
		edit func(*consents, *broker.AuthorizationAnswer)
		want broker.Reason
	}{
		{"as it should", func(*consents, *broker.AuthorizationAnswer) {}, ""},
		{"missing", func(w *consents, _ *broker.AuthorizationAnswer) { w.users.OmitIDToken() }, broker.ReasonIDTokenInvalid},
		{"not granted", func(w *consents, _ *broker.AuthorizationAnswer) {
			w.upstream.Script(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.Scopes = []string{"read"} }})
			w.users.OmitIDToken()
		}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newConsents(t)
			w.register(t, "crm", broker.AuthorizationCode)
			answer := w.consent(t, w.start(t, "crm", openid))
			c.edit(w, &answer)
			_, err := w.CompleteAuthorization(t.Context(), answer)
			wantReason(t, "CompleteAuthorization", err, c.want)
		})
	}
}

func TestAFailedExchange(t *testing.T) {
	failing := func(reason broker.Reason) brokertest.Step { return brokertest.Step{Err: &broker.Error{Reason: reason}} }
	cases := []struct {
		name       string
		step       brokertest.Step
		want, then broker.Reason // of this try, and of the same state once more
	}{
		{"nothing was sent", failing(broker.ReasonUpstreamDNS), broker.ReasonUpstreamDNS, ""},
		{"the answer is lost", failing(broker.ReasonUpstreamTimeout), broker.ReasonAuthorizationAnswerLost, broker.ReasonStateInvalid},
		{"the connection broke", failing(broker.ReasonUpstreamConnect), broker.ReasonAuthorizationAnswerLost, broker.ReasonStateInvalid},
		{"the server failed", failing(broker.ReasonUpstreamUnavailable), broker.ReasonUpstreamUnavailable, broker.ReasonStateInvalid},
		{"not taken", failing(broker.ReasonGrantRejected), broker.ReasonAuthorizationNotTaken, broker.ReasonStateInvalid},
		{"the client is rejected", failing(broker.ReasonClientRejected), broker.ReasonClientRejected, broker.ReasonStateInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newConsents(t)
			w.register(t, "crm", broker.AuthorizationCode)
			answer := w.consent(t, w.start(t, "crm"))
			w.upstream.Script(c.step)
			_, err := w.CompleteAuthorization(t.Context(), answer)
			wantReason(t, "first", err, c.want)
			_, err = w.CompleteAuthorization(t.Context(), answer)
			wantReason(t, "once more", err, c.then)
		})
	}
}

// A crash after the code was, or may have been, sent ends the consent with a reason, and
// nobody sends the code again.
func TestACrashAroundTheCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		w.register(t, "crm", broker.AuthorizationCode)
		answer := w.consent(t, w.start(t, "crm"))
		w.store.Once(brokertest.CrashAfter(), brokertest.On(brokertest.OpWrite, "grants/"))
		if _, err := w.CompleteAuthorization(t.Context(), answer); err == nil {
			t.Fatal("CompleteAuthorization succeeded although the store has gone")
		}
		other := w.replica(t)
		_, err := other.CompleteAuthorization(t.Context(), answer)
		wantReason(t, "once more at another replica", err, broker.ReasonStateInvalid)
		if got := other.authorization(t, "crm"); got.State != broker.AuthorizationPending {
			t.Errorf("right after the crash: %s", got.State)
		}
		time.Sleep(time.Minute)
		if got := other.authorization(t, "crm"); got.State != broker.AuthorizationEnded || got.Reason != broker.ReasonAuthorizationAnswerLost {
			t.Errorf("later: %s, %q", got.State, got.Reason)
		}
		if codes := len(w.sentOf(broker.AuthorizationCode)); codes > 1 {
			t.Errorf("the code was sent %d times", codes)
		}
		if _, err := other.CompleteAuthorization(t.Context(), other.consent(t, other.start(t, "crm"))); err != nil {
			t.Errorf("a new consent: %v", err)
		}
	})
}

func TestAGrantLastsUntilTheNextOne(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	granted := w.granted(t, "crm")
	pending := w.start(t, "crm", func(s *broker.AuthorizationStart) { s.Scopes = []string{"write"} })
	if pending.State != broker.AuthorizationActive || pending.Consent == nil || !slices.Equal(pending.Scopes, granted.Scopes) {
		t.Errorf("while another consent is asked for: %+v", pending)
	}
	denied := w.consent(t, pending)
	denied.Code, denied.Error = "", "access_denied"
	_, err := w.CompleteAuthorization(t.Context(), denied)
	wantReason(t, "denied", err, broker.ReasonAuthorizationDenied)
	if got := w.authorization(t, "crm"); got.State != broker.AuthorizationActive || got.Consent.Reason != broker.ReasonAuthorizationDenied {
		t.Errorf("after the denial: %s, %+v", got.State, got.Consent)
	}
}

func TestAnApplicationHostsItsOwnCallback(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	answer := w.consent(t, w.start(t, "crm", func(s *broker.AuthorizationStart) { s.RedirectURI = ownPage }))
	answer.AtCallback = true
	_, err := w.CompleteAuthorization(t.Context(), answer)
	wantReason(t, "at the broker's callback", err, broker.ReasonStateInvalid)
	answer.AtCallback, answer.ClientID = false, "crm"
	if _, err := w.CompleteAuthorization(t.Context(), answer); err != nil {
		t.Fatalf("CompleteAuthorization: %v", err)
	}
	if sent := w.sentOf(broker.AuthorizationCode); sent[0].Grant.RedirectURI != ownPage {
		t.Errorf("sent with redirect_uri %q", sent[0].Grant.RedirectURI)
	}
}

func TestConsentAsksPermission(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	answer := w.consent(t, w.start(t, "crm"))
	refused := &broker.Error{Reason: broker.ReasonCallerNotAllowed}
	answer.Permit = func(got string) error {
		if got != subject {
			t.Errorf("asked about %q", got)
		}
		return refused
	}
	before := content(t, w.memory)
	_, err := w.CompleteAuthorization(t.Context(), answer)
	wantReason(t, "CompleteAuthorization", err, broker.ReasonCallerNotAllowed)
	ref := broker.AuthorizationRef{ClientID: "crm", ID: w.authorization(t, "crm").ID, Permit: answer.Permit}
	_, err = w.GetAuthorization(t.Context(), ref)
	wantReason(t, "GetAuthorization", err, broker.ReasonCallerNotAllowed)
	_, err = w.RevokeAuthorization(t.Context(), ref, true)
	wantReason(t, "RevokeAuthorization", err, broker.ReasonCallerNotAllowed)
	if content(t, w.memory) != before {
		t.Error("refused calls changed the store")
	}
}

func TestAnErrorsDescriptionIsBounded(t *testing.T) {
	w := newConsents(t)
	w.register(t, "crm", broker.AuthorizationCode)
	opened, err := url.Parse(w.start(t, "crm").Consent.AuthorizationURL)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.CompleteAuthorization(t.Context(), broker.AuthorizationAnswer{
		State: opened.Query().Get("state"), Error: "access_denied", ErrorDescription: strings.Repeat("<b>\n\x1b[31m", 1000),
	})
	detail := broker.AsError(err).Detail
	if broker.ReasonOf(err) != broker.ReasonAuthorizationDenied || len(detail) > 500 || strings.ContainsAny(detail, "\n\x1b") {
		t.Errorf("%d bytes of detail: %.80q", len(detail), detail)
	}
}
