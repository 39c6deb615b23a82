package glewlwyd_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/glewlwyd"
	"github.com/tokenbroker/tokenbroker/test/registration"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRFC7592 rotates secrets at a server whose every update brings a new secret and keeps the registration access token.
func TestRFC7592(t *testing.T) {
	server := glewlwyd.Start(t)
	bench := registration.NewBench(t, server.HTTPClient())
	now := server.Register("Reports")
	if !bench.Works(now) {
		t.Fatal("no token for the registered secret")
	}
	for range 3 { // each goes on with what the one before brought
		before := now
		var err error
		if now, err = bench.Create(before); err != nil {
			t.Fatalf("Create = %v", err)
		}
		if bench.Works(before) {
			t.Error("the replaced secret still works")
		}
		if !bench.Works(now) {
			t.Error("no token for the new secret")
		}
		if now.Token != before.Token || now.Endpoint != before.Endpoint {
			t.Error("the registration access token or its endpoint changed")
		}
	}
	found, outcome := bench.Recover(now)
	if outcome != broker.CreateNotDone || found != now {
		t.Errorf("Recover without a Create = %s, want %s", outcome, broker.CreateNotDone)
	}

	if _, err := bench.Create(bench.Losing(now)); broker.ReasonOf(err) != broker.ReasonUpstreamConnect {
		t.Fatalf("Create with a lost answer = %v, want UPSTREAM_CONNECT", err)
	}
	found, outcome = bench.Recover(now)
	if outcome != broker.CreateDone || bench.Works(now) || !bench.Works(found) {
		t.Errorf("after a lost answer Recover = %s, want %s and a secret that works", outcome, broker.CreateDone)
	}

	stranger := now
	stranger.Token = "wrong"
	if _, err := bench.Create(stranger); broker.ReasonOf(err) != broker.ReasonRotatorUnauthorized {
		t.Errorf("Create with a wrong registration token = %v, want ROTATOR_UNAUTHORIZED", err)
	}
}
