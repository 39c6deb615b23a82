package e2e_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	aborted       = pb.RotationState_ROTATION_STATE_ABORTED
	completed     = pb.RotationState_ROTATION_STATE_COMPLETED
	needsOperator = pb.RotationState_ROTATION_STATE_NEEDS_OPERATOR
)

// TestManagedRotations takes clients through rotations whose secrets a provider's
// management API makes, opened by the tokens of another client of the broker: in peace,
// with the management refused or out of bounds, given up in the middle, and of a secret
// in wrong hands.
func TestManagedRotations(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	up := newUpstream(t)
	up.SetTokenLifetime(4 * time.Second)
	n := newSite(t, store.config(store.Addr()), up.ca).start(t, program(t))
	p := newProvider(t, up, n)
	t.Run("all", func(t *testing.T) {
		for _, scenario := range []struct {
			rotator, what string
			run           func(*testing.T, *node, *managed)
		}{
			{"auth0", "given-up", managedGivenUp},
			{"entra", "given-up", managedGivenUp},
			{"auth0", "complete", managedCompletes},
			{"entra", "complete", managedCompletes},
			{"auth0", "compromised", managedCompromised},
			{"entra", "compromised", managedCompromised},
			{"auth0", "refused", managementRefused},
			{"entra", "unbound", managementUnbound},
		} {
			t.Run(scenario.rotator+"-"+scenario.what, func(t *testing.T) {
				t.Parallel()
				scenario.run(t, n, p.add(n, scenario.rotator, scenario.rotator+"-"+scenario.what))
			})
		}
	})
	n.stop(t)
}

// managedCompletes rotates twice, the second time what the provider made the first.
func managedCompletes(t *testing.T, n *node, m *managed) {
	if err := n.newTokenOf(t.Context(), m.name, 1); err != nil {
		t.Fatal(err)
	}
	calling := callAllTheTime(t, n, m.name)
	for _, requestID := range []string{"first", "second"} {
		ended := n.ends(t, n.begin(t, m.name, requestID), completed)
		if ended.GetSource() != pb.SecretSource_SECRET_SOURCE_PROVIDER {
			t.Errorf("it brought a secret from %v, want one from the provider", ended.GetSource())
		}
		if err := n.newTokenOf(t.Context(), m.name, ended.GetSecretVersion()); err != nil {
			t.Errorf("after: %v", err)
		}
	}
	calling()
	hasOnly(t, n, m, 3)
}

func hasOnly(t *testing.T, n *node, m *managed, version int64) {
	t.Helper()
	if err := m.hasOnly(t.Context(), n, version); err != nil {
		t.Error(err)
	}
}

// managementRefused has the provider refuse the management client, and what is granted
// it afterwards in new tokens only. Nothing was changed, a person is called, and the same
// request goes on where it stopped.
func managementRefused(t *testing.T, n *node, m *managed) {
	m.ownManager(t, n, m.up.origin)
	m.refuses.Store(true)
	n.begin(t, m.name, "refused")
	stopped := n.reaches(t, m.name, needsOperator)
	if stopped.GetReason() != "ROTATOR_UNAUTHORIZED" || stopped.GetRemedy() == "" || !stopped.GetStuck() {
		t.Errorf("it needs an operator for %s, remedy %q, stuck %t; want ROTATOR_UNAUTHORIZED, a remedy, stuck", stopped.GetReason(), stopped.GetRemedy(), stopped.GetStuck())
	}
	if err := n.newTokenOf(t.Context(), m.name, 1); err != nil {
		t.Errorf("meanwhile: %v", err)
	}
	m.refuses.Store(false)
	goesOn(t, n, m, stopped)
}

// goesOn repeats the request of a rotation that needs an operator.
func goesOn(t *testing.T, n *node, m *managed, stopped *pb.Rotation) {
	t.Helper()
	n.begin(t, m.name, stopped.GetRequestId())
	if ended := n.ends(t, m.name, completed); ended.GetName() != stopped.GetName() {
		t.Errorf("another rotation %s went on, want %s", ended.GetName(), stopped.GetName())
	}
	if err := n.newTokenOf(t.Context(), m.name, 2); err != nil {
		t.Errorf("after: %v", err)
	}
	hasOnly(t, n, m, 2)
}

// ownManager gives m a management client of its own.
func (m *managed) ownManager(t *testing.T, n *node, origins ...string) *pb.Client {
	t.Helper()
	own := m.addManager(n, m.id+"-manager", origins...)
	client := &pb.Client{Name: m.name, Rotation: m.settings(own.GetName())}
	if _, err := n.operator.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{Client: client, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"rotation"}}}); err != nil {
		t.Fatalf("UpdateClient %s: %v", m.name, err)
	}
	return own
}

// managementUnbound has a management client whose tokens may not be sent to the
// management API, until its secret is given anew together with that place.
func managementUnbound(t *testing.T, n *node, m *managed) {
	unbound := m.ownManager(t, n, "https://elsewhere.example")
	m.gate.freeze(1, false) // nothing may be sent
	n.begin(t, m.name, "unbound")
	stopped := n.reaches(t, m.name, needsOperator)
	if sent := m.gate.thaw(); stopped.GetReason() != "DESTINATION_NOT_BOUND" || len(sent) > 0 {
		t.Errorf("it needs an operator for %s, and %v were sent; want DESTINATION_NOT_BOUND and nothing", stopped.GetReason(), sent)
	}
	unbound.TokenDestinations = []string{m.up.origin}
	mask := &fieldmaskpb.FieldMask{Paths: []string{"token_destinations"}}
	_, err := n.operator.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{Client: unbound, UpdateMask: mask, Secret: secretInput(managerSecret)})
	if err != nil {
		t.Fatalf("UpdateClient %s: %v", unbound.GetName(), err)
	}
	goesOn(t, n, m, stopped)
}

// managedGivenUp aborts a rotation while the provider does not answer. Where two
// secrets work at a time the present one stays; where the provider has ended it, the
// new one takes its place.
func managedGivenUp(t *testing.T, n *node, m *managed) {
	nth, want, version := 2, aborted, int64(1) // a token with the new password
	if m.auth0 != nil {
		nth, want, version = 1, completed, 2 // the answer with the new secret
	}
	frozen := m.gate.freeze(nth, true)
	n.begin(t, m.name, "given-up")
	select {
	case <-frozen:
	case <-time.After(30 * time.Second):
		t.Fatalf("the provider was asked %v only", m.gate.thaw())
	}
	if _, err := n.operator.rotations.AbortRotation(t.Context(), &pb.AbortRotationRequest{Client: m.name}); err != nil {
		t.Fatalf("AbortRotation: %v", err)
	}
	m.gate.thaw()
	n.ends(t, m.name, want)
	if err := n.newTokenOf(t.Context(), m.name, version); err != nil {
		t.Errorf("after: %v", err)
	}
	hasOnly(t, n, m, version)
}

// managedCompromised rotates a secret that is in wrong hands: its tokens are dropped
// and revoked, it is gone at once, and who had tokens is named.
func managedCompromised(t *testing.T, n *node, m *managed) {
	n.ends(t, n.begin(t, m.name, "made-by-the-provider"), completed)
	if err := n.newTokenOf(t.Context(), m.name, 2); err != nil {
		t.Fatal(err)
	}
	live, err := n.token(t.Context(), m.name)
	if err != nil {
		t.Fatal(err)
	}
	revoked := m.revoked.Load()
	if _, err := n.operator.rotations.RotateSecret(t.Context(), &pb.RotateSecretRequest{Client: m.name, Compromised: true, RequestId: "compromised"}); err != nil {
		t.Fatalf("RotateSecret: %v", err)
	}
	ended := n.ends(t, m.name, completed)
	if retired := ended.GetEndTime().AsTime().Sub(ended.GetPromoteTime().AsTime()); retired > 10*time.Second || !ended.GetCompromised() {
		t.Errorf("compromised %t, over %v after the promotion; want true, at once", ended.GetCompromised(), retired)
	}
	if token, err := n.token(t.Context(), m.name); err != nil || token.GetSecretVersion() != 3 {
		t.Errorf("after: a token of version %d, %v; want 3", token.GetSecretVersion(), err)
	}
	// On a loaded machine it may have ended by itself: then there was nothing to revoke.
	if m.revoked.Load() == revoked && live.GetExpireTime().AsTime().After(ended.GetEndTime().AsTime()) {
		t.Error("no token was revoked at the provider")
	}
	if callers := ended.GetCallers(); len(callers) == 0 || callers[0].GetCaller() != "crm" {
		t.Errorf("the callers that got tokens are %v, want crm", callers)
	}
	hasOnly(t, n, m, 3)
	_, err = n.operator.rotations.RollbackSecret(t.Context(), &pb.RollbackSecretRequest{Client: m.name})
	if reasonOf(err) == "" {
		t.Error("a compromised secret was brought back")
	}
}
