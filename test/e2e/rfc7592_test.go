package e2e_test

import (
	"fmt"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

// TestRegisteredClientsRotate takes clients that registered themselves through
// rotations by RFC 7592, at real servers that differ in what the RFC leaves open, with
// callers that notice nothing; and through answers that are lost.
func TestRegisteredClientsRotate(t *testing.T) {
	t.Parallel()
	needServers(t)
	tests := []struct {
		name  string
		start func(*testing.T) *registrar
		// tokenEnds says that an update ends the registration access token.
		tokenEnds bool
	}{
		{"oidc-provider-new-token", func(t *testing.T) *registrar {
			return newOIDCRegistrar(t, oidcprovider.Registration{NewSecretAtUpdate: true, NewTokenAtUpdate: true})
		}, true},
		{"oidc-provider-same-token", func(t *testing.T) *registrar {
			return newOIDCRegistrar(t, oidcprovider.Registration{NewSecretAtUpdate: true})
		}, false},
		{"glewlwyd", newGlewlwydRegistrar, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := test.start(t)
			r.twiceInARow(t)
			r.slowAnswer(t)
			if test.tokenEnds {
				r.losesTheSecret(t)
			} else {
				r.losesAnAnswer(t)
			}
			r.stop(t)
		})
	}
}

// twiceInARow shows that what came with the first new secret opens the way to the
// second.
func (r *registrar) twiceInARow(t *testing.T) {
	t.Helper()
	first := r.register("Twice")
	name := r.create(t, "twice", first)
	if err := r.newTokenOf(t.Context(), name, 1); err != nil {
		t.Fatalf("before: %v", err)
	}
	calling := callAllTheTime(t, r.node, name)
	for version := int64(2); version <= 3; version++ {
		r.begin(t, name, fmt.Sprint("twice-", version))
		var ended *pb.Rotation
		if version == 2 && !r.longLived {
			ended = r.ends(t, name, pb.RotationState_ROTATION_STATE_COMPLETED)
		} else {
			ended = r.retires(t, name)
		}
		if ended.GetSecretVersion() != version || ended.GetShape() != pb.ProviderShape_PROVIDER_SHAPE_REPLACED || ended.GetSource() != pb.SecretSource_SECRET_SOURCE_PROVIDER || !made(ended, "bridge") {
			t.Errorf("it brought version %d, %v, from %v; want %d, replaced, from the provider, after bridge tokens; events %v",
				ended.GetSecretVersion(), ended.GetShape(), ended.GetSource(), version, ended.GetEvents())
		}
		if r.bench.Works(first) {
			t.Error("the provider still takes the first secret")
		}
		if err := r.newTokenOf(t.Context(), name, version); err != nil {
			t.Errorf("after: %v", err)
		}
	}
	calling()
	list, err := r.operator.rotations.ListSecretVersions(t.Context(), &pb.ListSecretVersionsRequest{Client: name})
	if versions := list.GetSecretVersions(); err != nil || len(versions) != 1 || versions[0].GetNumber() != 3 {
		t.Errorf("versions %v, %v; want version 3 alone", versions, err)
	}
}

// slowAnswer holds the answer up when the old secret has ended and nobody knows the new
// one: callers live on the tokens that were got before.
func (r *registrar) slowAnswer(t *testing.T) {
	t.Helper()
	way, client := r.lossyTo(t, r.register("Slow"))
	name := r.create(t, "slow", client)
	if err := r.newTokenOf(t.Context(), name, 1); err != nil {
		t.Fatalf("before: %v", err)
	}
	calling := callAllTheTime(t, r.node, name)
	held, release := way.hold()
	r.begin(t, name, "slow")
	select {
	case <-held:
	case <-time.After(30 * time.Second):
		t.Fatal("the provider was not asked")
	}
	if r.bench.Works(client) {
		t.Error("the provider still takes the old secret")
	}
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		if token, err := r.token(t.Context(), name); err != nil || token.GetSecretVersion() != 1 {
			t.Fatalf("while no secret works: version %d, %v; want a token of version 1", token.GetSecretVersion(), err)
		}
		pause(t.Context(), 50*time.Millisecond)
	}
	release()
	r.retires(t, name)
	if err := r.newTokenOf(t.Context(), name, 2); err != nil {
		t.Errorf("after: %v", err)
	}
	calling()
}

// losesAnAnswer loses the new secret on its way, where the registration can be read
// with the token from before.
func (r *registrar) losesAnAnswer(t *testing.T) {
	t.Helper()
	way, client := r.lossyTo(t, r.register("Lossy"))
	name := r.create(t, "lossy", client)
	if err := r.newTokenOf(t.Context(), name, 1); err != nil {
		t.Fatalf("before: %v", err)
	}
	calling := callAllTheTime(t, r.node, name)
	way.loses(true)
	ended := r.rotateOnce(t, name, "lossy")
	way.loses(false)
	if r.bench.Works(client) || ended.GetSecretVersion() != 2 {
		t.Errorf("it brought version %d, and the old secret works: %t; want version 2 and no", ended.GetSecretVersion(), r.bench.Works(client))
	}
	if err := r.newTokenOf(t.Context(), name, 2); err != nil {
		t.Errorf("after: %v", err)
	}
	r.rotateOnce(t, name, "lossy-again")
	calling()
}

// losesTheSecret loses the new secret together with the only token by which it could be
// read. That is recognised, callers have tokens as long as they live, and a person
// mends it.
func (r *registrar) losesTheSecret(t *testing.T) {
	t.Helper()
	way, client := r.lossyTo(t, r.register("Lost"))
	name := r.create(t, "lost", client)
	if err := r.newTokenOf(t.Context(), name, 1); err != nil {
		t.Fatalf("before: %v", err)
	}
	way.loses(true)
	ended := r.ends(t, r.begin(t, name, "lost"), pb.RotationState_ROTATION_STATE_FAILED)
	if ended.GetReason() != "UPSTREAM_SECRET_LOST" || ended.GetRemedy() == "" || !made(ended, "bridge") {
		t.Errorf("it failed for %s, remedy %q, events %v; want UPSTREAM_SECRET_LOST and a remedy, after bridge tokens", ended.GetReason(), ended.GetRemedy(), ended.GetEvents())
	}
	if token, err := r.token(t.Context(), name); err != nil || token.GetSecretVersion() != 1 {
		t.Errorf("with the secret lost: %v, version %d; want the token that was got before", err, token.GetSecretVersion())
	}
	if r.bench.Works(client) {
		t.Error("the provider still takes the old secret")
	}
	const mended = "a secret that a person set at the console"
	r.put(client.ID, mended)
	rotate(t, r.node, name, mended)
	if err := r.newTokenOf(t.Context(), name, 2); err != nil {
		t.Errorf("after it was mended by hand: %v", err)
	}
}
