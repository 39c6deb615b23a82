package zoo_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/zoo"
	"github.com/tokenbroker/tokenbroker/test/zoo/table"
)

// callback is where browsers are sent back to.
const callback = "https://broker.example/callback"

// consentRow says what comes of a consent in a browser.
type consentRow struct {
	quirk string
	// want is the reason why the consent comes to nothing; "" if it does not.
	want broker.Reason
	// refresh says that a token is refreshed afterwards: with what is in the grant.
	refresh bool
	// token is what a caller of GetToken gets afterwards.
	token table.Outcome
}

func consentRows() []consentRow {
	none := table.Refused(broker.ReasonAuthorizationRequired)
	return []consentRow{
		{quirk: "consent"},
		{quirk: "consent", refresh: true, token: table.Outcome{Scopes: []string{"write"}}},
		{quirk: "wrong-issuer", want: broker.ReasonIssuerMismatch, token: none},
		{quirk: "no-issuer", want: broker.ReasonIssuerMismatch, token: none},
		{quirk: "wrong-state", want: broker.ReasonStateInvalid, token: table.Refused(broker.ReasonAuthorizationPending)},
		{quirk: "wrong-code", want: broker.ReasonAuthorizationNotTaken, token: none},
		{quirk: "denied", want: broker.ReasonAuthorizationDenied, token: none},
		{quirk: "no-refresh-token", token: table.Outcome{Warnings: []broker.Reason{broker.ReasonRefreshTokenAbsent}}},
		{quirk: "no-refresh-token", refresh: true, token: table.Refused(broker.ReasonRefreshTokenMissing)},
		{quirk: "refresh-with-access-token", refresh: true, token: table.Outcome{Scopes: []string{"write"}}},
	}
}

// TestConsentTable is the table of quirks of servers that are asked for a user's consent.
func TestConsentTable(t *testing.T) {
	t.Parallel()
	for _, r := range consentRows() {
		quirk, ok := zoo.Find(r.quirk)
		if !ok {
			t.Errorf("there is no quirk %q", r.quirk)
			continue
		}
		name := r.quirk
		if r.refresh {
			name += " and a refresh"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r.try(t, newWorld(t, quirk, true, nil))
		})
	}
}

// try consents as a browser does, and asks for a token.
func (r consentRow) try(t *testing.T, w *world) {
	t.Helper()
	started, err := w.broker.StartAuthorization(t.Context(), broker.AuthorizationStart{ClientID: clientID, Subject: subject, Scopes: []string{"read", "write"}})
	if err != nil {
		t.Fatalf("StartAuthorization: %v", err)
	}
	answer := w.consent(t, started.Consent.AuthorizationURL)
	_, err = w.broker.CompleteAuthorization(t.Context(), broker.AuthorizationAnswer{
		State: answer.Get("state"), Code: answer.Get("code"), Issuer: answer.Get("iss"), Error: answer.Get("error"),
		ErrorDescription: answer.Get("error_description"), AtCallback: true,
	})
	if got := broker.ReasonOf(err); got != r.want {
		t.Fatalf("CompleteAuthorization = %v, want %q", err, r.want)
	}
	scopes := [][]string{{"read", "write"}}
	if r.refresh {
		scopes = append(scopes, []string{"write"})
	} else if r.token.Reason == "" {
		r.token.Scopes = []string{"read", "write"}
	}
	var token *broker.Token
	var warnings []broker.Warning
	for _, list := range scopes {
		token, warnings, err = w.broker.GetToken(t.Context(), broker.TokenQuery{ClientID: clientID, Subject: subject, Scopes: list})
	}
	if got := broker.ReasonOf(err); got != r.token.Reason {
		t.Fatalf("GetToken = %v, want %q", err, r.token.Reason)
	}
	if err != nil {
		checkRefusal(t, r.token, broker.AsError(err))
		return
	}
	checkToken(t, r.token, token, warnings, 0)
	if !w.opens(t, token) {
		t.Error("the API does not take the token")
	}
}

// consent opens a URL as a browser does and returns the query that it is sent back with.
func (w *world) consent(t *testing.T, authorizationURL string) url.Values {
	t.Helper()
	response, err := trusting(t, w.server.CA).Get(authorizationURL)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	target, err := response.Location()
	if err != nil || response.StatusCode != http.StatusFound {
		t.Fatalf("consent: status %d, %v", response.StatusCode, err)
	}
	return target.Query()
}

// deviceRow says what comes of a consent on another device.
type deviceRow struct {
	quirk string
	want  broker.Reason
	// waits is how long it surely takes: the interval, and what slow_down adds to it.
	waits time.Duration
}

func deviceRows() []deviceRow {
	return []deviceRow{
		{quirk: "device", waits: 2 * time.Second},
		{quirk: "device-slow-down", waits: 7 * time.Second},
		{quirk: "device-denied", want: broker.ReasonAuthorizationDenied},
		{quirk: "device-expired", want: broker.ReasonAuthorizationExpired},
	}
}

// TestDevicesTable is the table of quirks of devices.
func TestDevicesTable(t *testing.T) {
	t.Parallel()
	for _, r := range deviceRows() {
		quirk, ok := zoo.Find(r.quirk)
		if !ok {
			t.Errorf("there is no quirk %q", r.quirk)
			continue
		}
		t.Run(r.quirk, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, quirk, true, nil)
			begin := time.Now()
			started, err := w.broker.StartAuthorization(t.Context(), broker.AuthorizationStart{ClientID: clientID, Subject: subject})
			if err != nil {
				t.Fatalf("StartAuthorization: %v", err)
			}
			if started.Consent.UserCode != "WDJB-MJHT" || started.Consent.VerificationURI != w.endpoint("verify") {
				t.Errorf("the user is to enter %q at %s", started.Consent.UserCode, started.Consent.VerificationURI)
			}
			now := w.afterPending(t)
			got := now.Reason
			if now.Consent != nil && got == "" {
				got = now.Consent.Reason
			}
			if got != r.want || time.Since(begin) < r.waits {
				t.Fatalf("it ended as %s with %q after %v, want %q after %v", now.State, got, time.Since(begin), r.want, r.waits)
			}
			if r.want != "" {
				return
			}
			token, _, err := w.broker.GetToken(t.Context(), broker.TokenQuery{ClientID: clientID, Subject: subject})
			if err != nil || !w.opens(t, token) {
				t.Errorf("GetToken = %v, or the API does not take the token", err)
			}
		})
	}
}

// afterPending waits until the consent is not pending any more: it is polled for in real time.
func (w *world) afterPending(t *testing.T) *broker.Authorization {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		now, err := w.broker.GetAuthorization(t.Context(), broker.AuthorizationRef{ClientID: clientID, Subject: subject})
		if err != nil {
			t.Fatalf("GetAuthorization: %v", err)
		}
		if now.State != broker.AuthorizationPending {
			return now
		}
		if time.Now().After(end) {
			t.Fatal("the consent is still pending after a minute")
		}
	}
}
