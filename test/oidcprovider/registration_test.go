package oidcprovider_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
	"github.com/tokenbroker/tokenbroker/test/registration"
)

// TestRFC7592 rotates secrets at the provider in each of its settings: what an update brings, and what a lost answer leaves.
func TestRFC7592(t *testing.T) {
	tests := []struct {
		name     string
		settings oidcprovider.Registration
		lost     broker.CreateOutcome
	}{
		{name: "new secret, new token", settings: oidcprovider.Registration{NewSecretAtUpdate: true, NewTokenAtUpdate: true}, lost: broker.CreateLost},
		{name: "new secret, same token", settings: oidcprovider.Registration{NewSecretAtUpdate: true}, lost: broker.CreateDone},
		{name: "same secret, new token", settings: oidcprovider.Registration{NewTokenAtUpdate: true}, lost: broker.CreateLost},
		{name: "same secret, same token", lost: broker.CreateNotDone},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := oidcprovider.Start(t, oidcprovider.Config{
				Registration: &test.settings, Resources: []oidcprovider.Resource{{URI: api, Scopes: []string{"read"}}}, DefaultResource: api,
			})
			bench := registration.NewBench(t, server.HTTPClient())
			first := server.Register("Reports", "read")
			if !bench.Works(first) {
				t.Fatal("no token for the registered secret")
			}
			now := first
			for range 3 { // each goes on with what the one before brought
				before := now
				var err error
				now, err = bench.Create(before)
				if !test.settings.NewSecretAtUpdate {
					if reason := broker.ReasonOf(err); reason != broker.ReasonRotatorRefused {
						t.Fatalf("Create = %v, want ROTATOR_REFUSED", err)
					}
				} else if err != nil {
					t.Fatalf("Create = %v", err)
				} else if bench.Works(before) {
					t.Error("the replaced secret still works")
				}
				if !bench.Works(now) {
					t.Error("no token for the secret that is current now")
				}
				if changed := now.Secret != before.Secret; changed != test.settings.NewSecretAtUpdate {
					t.Errorf("the secret changed: %t", changed)
				}
				if changed := now.Token != before.Token; changed != test.settings.NewTokenAtUpdate {
					t.Errorf("the registration token changed: %t", changed)
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
			if outcome != test.lost {
				t.Fatalf("Recover = %s, want %s", outcome, test.lost)
			}
			if works := bench.Works(found); works != (outcome != broker.CreateLost || !test.settings.NewSecretAtUpdate) {
				t.Errorf("after %s the known secret works: %t", outcome, works)
			}
		})
	}
}
