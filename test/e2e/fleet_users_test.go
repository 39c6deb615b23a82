package e2e_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

// usersFleet is a fleet that asks a real authorization server through a front, which
// counts.
type usersFleet struct {
	*fleet
	asking *asking
	front  *front
}

// newUsersFleet starts servers that may ask each of the authorization servers. The
// application hosts the callback.
func newUsersFleet(t *testing.T, list ...*asking) *fleet {
	t.Helper()
	var authorities [][]byte
	for _, a := range list {
		authorities = append(authorities, a.ca)
	}
	return newFleetOf(t, sharedStore(t), func(s *site) {
		list[0].configure(t, s)
		delete(s.config, "authorization")
	}, authorities...)
}

// TestFleetOfAUser has fifty callers of three replicas use one grant whose refresh token
// is another one after each use, and whose tokens live for seconds. No call fails, and
// one refresh is under way at a time; the provider ends the grant if a refresh token
// comes twice. Then the grant is given up.
func TestFleetOfAUser(t *testing.T) {
	t.Parallel()
	const callers, forSeconds = 50, 15
	needServers(t)
	a := newAsking(t, 4*time.Second, nil)
	f := &usersFleet{fleet: newUsersFleet(t, a), asking: a}
	f.front = newFront(t, f.up, "front", a.provider.Issuer(), a.ca)
	client := f.front.of(a.web("web"))
	f.asking.create(f.a.node, client, webSecret)
	f.asking.consents(t, f.a.node, client.GetName(), ada)

	var running sync.WaitGroup
	var calls atomic.Int64
	var tokens sync.Map // the ids of those that were given
	ctx, cancel := context.WithTimeout(t.Context(), forSeconds*time.Second)
	defer cancel()
	for i := range callers {
		by := f.replicas()[i%3]
		running.Go(func() {
			for ctx.Err() == nil {
				got, err := by.tokenOf(t, client.GetName(), ada)
				if err != nil {
					t.Errorf("replica %s, call %d: %v", by.name, calls.Load(), err)
					return
				}
				// The time of the answer is later than that of the choice, by what a loaded machine takes.
				if left := got.GetExpireTime().AsTime().Sub(got.GetServerTime().AsTime()); left < -time.Second {
					t.Errorf("replica %s gave a token that ended %v ago", by.name, -left)
				}
				tokens.Store(got.GetTokenId(), true)
				calls.Add(1)
				pause(ctx, 100*time.Millisecond)
			}
		})
	}
	running.Wait()
	uses, err := f.front.refreshes()
	if err != nil {
		t.Error(err)
	}
	given := 0
	tokens.Range(func(any, any) bool { given++; return true })
	if uses < forSeconds/6 || given < forSeconds/6 || given > uses+1 { // one in four seconds, and what a loaded machine takes for each
		t.Errorf("%d tokens by %d refreshes in %d s, want one for each refresh and the consent", given, uses, forSeconds)
	}
	t.Logf("%d calls by %d callers, %d refreshes, none failed", calls.Load(), callers, uses)
	f.givenUp(client)
	f.stop()
}

// givenUp revokes a grant, and then all grants of a subject.
func (f *usersFleet) givenUp(client *pb.Client) {
	t := f.t
	t.Helper()
	last := f.front.lastRefresh()
	if !f.asking.active(t, last) {
		t.Fatal("the provider has ended the grant")
	}
	given, err := f.a.operator.authorizations.RevokeAuthorization(t.Context(), &pb.RevokeAuthorizationRequest{Client: client.GetName(), Subject: ada})
	if err != nil || !given.GetRevoked() {
		t.Errorf("RevokeAuthorization: %v, %v; want it revoked at the provider", given, err)
	}
	f.gone(client.GetName(), ada)
	if f.asking.active(t, last) {
		t.Error("the provider still takes the refresh token of a grant that was given up")
	}
	_, err = f.b.authorization(t, client.GetName(), ada)
	wantReason(t, "GetAuthorization of what was given up", err, "AUTHORIZATION_NOT_FOUND")

	other := f.front.of(f.asking.web("other"))
	f.asking.create(f.b.node, other, webSecret)
	const subject, stays = "users/leaving", "users/staying"
	for _, name := range []string{client.GetName(), other.GetName()} {
		f.asking.consents(t, f.b.node, name, subject)
		for _, r := range f.replicas() {
			if _, err := r.tokenOf(t, name, subject); err != nil {
				t.Errorf("replica %s: %v", r.name, err)
			}
		}
	}
	last = f.front.lastRefresh()
	f.asking.consents(t, f.b.node, other.GetName(), stays)
	deleted, err := f.c.operator.authorizations.DeleteSubject(t.Context(), &pb.DeleteSubjectRequest{Subject: subject})
	if err != nil || deleted.GetDeletedCount() != 2 || deleted.GetRevokedCount() != 2 {
		t.Errorf("DeleteSubject: %v, %v; want two, both revoked", deleted, err)
	}
	f.gone(client.GetName(), subject)
	f.gone(other.GetName(), subject)
	if f.asking.active(t, last) {
		t.Error("the provider still takes a refresh token of a subject that was deleted")
	}
	if _, err := f.a.tokenOf(t, other.GetName(), stays); err != nil {
		t.Errorf("another subject: %v", err)
	}
}

// gone demands that no replica serves a subject's tokens.
func (f *usersFleet) gone(client, subject string) {
	f.t.Helper()
	for _, r := range f.replicas() {
		eventually(f.t, noticedWithin, "replica "+r.name+" serves no token of what was given up", func() error {
			_, err := r.tokenOf(f.t, client, subject)
			return hasReason("GetToken", err, "AUTHORIZATION_REQUIRED")
		})
	}
}

// TestFleetOfAUserKilled kills the replica that refreshes users' tokens, while it waits
// for the provider. The others go on with a grant where a second use does no harm, and
// else say that the answer was lost; they never try their luck. New consent mends it.
func TestFleetOfAUserKilled(t *testing.T) {
	t.Parallel()
	needServers(t)
	replaces := newAsking(t, 0, nil)
	keeps := newAsking(t, 0, func(config *oidcprovider.Config) { config.RotateRefreshTokens = false })
	f := newUsersFleet(t, replaces, keeps)
	type use struct {
		name   string
		asking *asking
		acted  bool // by the provider, when the replica dies
		want   string
		front  *front
		letGo  func()
		tried  *injected
	}
	uses := []*use{
		{name: "replaced", asking: replaces, acted: true, want: "REFRESH_ANSWER_LOST"},
		{name: "to-be-replaced", asking: replaces, want: "REFRESH_ANSWER_LOST"},
		{name: "kept", asking: keeps, acted: true},
	}
	var running sync.WaitGroup
	for _, u := range uses {
		u.front = newFront(t, f.up, u.name, u.asking.provider.Issuer(), u.asking.ca)
		client := u.front.of(u.asking.web(u.name))
		u.asking.create(f.a.node, client, webSecret)
		u.asking.consents(t, f.a.node, client.GetName(), ada)
		wantRefreshed(t, f.a.node, client.GetName(), ada) // shows whether a use replaces the refresh token
		var reached <-chan struct{}
		reached, u.letGo = u.front.held(u.acted)
		victim := f.a.node
		running.Go(func() {
			if got, err := victim.tokenOf(t, client.GetName(), ada, "write"); err == nil {
				t.Errorf("%s: the replica that died gave token %s", u.name, got.GetTokenId())
			}
		})
		if err := within30s(t.Context(), reached); err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range uses {
		u.tried = inject(t, "kill -9 of the replica that refreshes a user's token, %s, acted on: %t", u.name, u.acted)
	}
	f.a.Kill()
	for _, u := range uses {
		u.letGo()
		running.Go(func() { u.tried.survived(f.goesOn(u.asking, u.front, "clients/"+u.name, u.want)) })
	}
	f.restart(f.a)
	running.Wait()
	f.stop()
}

// goesOn demands that a user's grant goes on after its holder died, or that want is why not,
// and that its refresh tokens were not sent in vain.
func (f *fleet) goesOn(a *asking, front *front, client, want string) error {
	err := within(leaseEnds+2*slack, func() error {
		_, err := f.b.tokenOf(f.t, client, ada, "write")
		return hasReason("GetToken", err, want)
	})
	if want == "" || err != nil {
		return err
	}
	ended, err := f.c.authorization(f.t, client, ada)
	if err != nil || ended.GetState() != pb.AuthorizationState_AUTHORIZATION_STATE_ENDED || ended.GetReason() != want {
		return fmt.Errorf("the authorization is %v with %q, %w; want ended with %s", ended.GetState(), ended.GetReason(), orNothing(err), want)
	}
	if _, err := front.refreshes(); err != nil {
		return err
	}
	a.consents(f.t, f.c.node, client, ada)
	_, err = f.b.tokenOf(f.t, client, ada, "read")
	return err
}
