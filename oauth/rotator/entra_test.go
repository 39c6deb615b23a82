package rotator_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/played"
)

var entraRole = role{name: "entra", creates: http.MethodPost, member: "secretText", start: func(t *testing.T) (*stage, broker.RotatorCall) {
	s, call, _ := playEntra(t)
	return s, call
}}

// playEntra plays addPassword, removePassword and "Get application".
func playEntra(t *testing.T) (*stage, broker.RotatorCall, *played.Entra) {
	state := &played.Entra{
		Secrets: makesCanaries, ClientID: clientID,
		Passwords: []object{{"keyId": played.EntraKeyID(100), "displayName": "by hand", "hint": "abc", "secretText": nil}},
	}
	s := play(t, "Bearer "+management, state.ServeHTTP)
	return s, s.call("/v1.0"), state
}

func TestEntra(t *testing.T) {
	s, call, state := playEntra(t)
	r := entraRole.rotator(s)
	got, err := r.Create(t.Context(), call)
	end, _ := time.Parse(time.RFC3339, played.EntraEnd)
	if err != nil || got.Value.RevealString() != made+"1" || got.Handle != played.EntraKeyID(1) || !got.ExpireTime.Equal(end) {
		t.Fatalf("Create = %v, %v; want the secret, its keyId and end", got, err)
	}
	if names := state.Names(); !slices.Equal(names, []string{"by hand", token}) {
		t.Errorf("passwords are %q, want the rotation's id as name", names)
	}
	call.New, call.Handle = got.Value, got.Handle
	for range 2 {
		if err := r.Revoke(t.Context(), call); err != nil {
			t.Fatalf("Revoke = %v, want nil", err)
		}
	}
	if names := state.Names(); !slices.Equal(names, []string{"by hand"}) {
		t.Errorf("passwords are %q, want what was not made by the broker", names)
	}
}

func TestEntraLifetime(t *testing.T) {
	s, call, _ := playEntra(t)
	call.Settings.Parameters["lifetime_days"] = "30"
	got, err := entraRole.rotator(s).Create(t.Context(), call)
	if left := time.Until(got.ExpireTime); err != nil || left < 29*24*time.Hour || left > 31*24*time.Hour {
		t.Errorf("Create = end in %s, %v; want 30 days", left, err)
	}
	for _, bad := range []string{"", "0", "3651", "x", "1.5"} {
		call.Settings.Parameters["lifetime_days"] = bad
		_, err := entraRole.rotator(s).Create(t.Context(), call)
		want(t, err, broker.ReasonRotatorRefused, true, "lifetime_days")
	}
}

func TestEntraOrphans(t *testing.T) {
	s, call, state := playEntra(t)
	r := entraRole.rotator(s)
	s.lose(http.MethodPost)
	for range 2 {
		_, err := r.Create(t.Context(), call)
		want(t, err, broker.ReasonUpstreamConnect, false, "broke")
	}
	s.heal()
	_, err := r.Recover(t.Context(), call)
	want(t, err, broker.ReasonUpstreamUnavailable, false, "one of 2")
	found, err := r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateNotDone)
	if names := state.Names(); !slices.Equal(names, []string{"by hand"}) {
		t.Errorf("passwords are %q, want no orphan and what was there", names)
	}
	found, err = r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateNotDone)
}

func TestEntraRemovesNothingOfOthers(t *testing.T) {
	s, call, state := playEntra(t)
	r := entraRole.rotator(s)
	call.Handle = played.EntraKeyID(100)
	want(t, r.Revoke(t.Context(), call), broker.ReasonRotatorRefused, true, "was not made by the broker")
	call.Handle = ""
	want(t, r.Revoke(t.Context(), call), broker.ReasonRotatorRefused, true, "keyId of the secret is not known")
	state.Passwords = append(state.Passwords, object{"keyId": played.EntraKeyID(7), "displayName": "bbbbbbbbbbbbbbbbbbbbbbbbbb"})
	found, err := r.Recover(t.Context(), call) // another rotation's
	wantOutcome(t, found, err, broker.CreateNotDone)
	if len(state.Passwords) != 2 {
		t.Errorf("passwords are %q, want all that were there", state.Names())
	}
}

func TestEntraLaggingReads(t *testing.T) {
	s, call, state := playEntra(t)
	r := entraRole.rotator(s)
	got, err := r.Create(t.Context(), call)
	if err != nil {
		t.Fatal(err)
	}
	state.Hidden = true
	call.Handle = got.Handle
	if err := r.Revoke(t.Context(), call); err != nil || len(state.Passwords) != 1 {
		t.Errorf("Revoke = %v with %q left, want it removed although it is not listed", err, state.Names())
	}
}

func TestEntraApplicationThatIsGone(t *testing.T) {
	s, call, _ := playEntra(t)
	r := entraRole.rotator(s)
	call.ClientID = "99999999-0b0a-4908-8706-050403020100"
	call.Handle = played.EntraKeyID(1)
	if err := r.Revoke(t.Context(), call); err != nil {
		t.Errorf("Revoke = %v, want nil", err)
	}
	_, err := r.Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, false, "Request_ResourceNotFound")
	_, err = r.Recover(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, true, "Request_ResourceNotFound")
	call.ClientID = "reports"
	_, err = r.Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, true, "GUID")
}
