package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestFleetHolderKilled kills the replica that gets a cold token for the fleet, as
// `kill -9` does, at every write and while it asks. Callers of the others wait and
// get a token, when the lease is over at the latest; the server is asked no more
// often than that takes. Where tokens are limited, each one that may have been issued
// counts, and no other.
func TestFleetHolderKilled(t *testing.T) {
	t.Parallel()
	f := newFleet(t, sharedStore(t))
	kills := []struct {
		name     string
		write    int // about the client; 0 is while the server is asked
		kind     faultKind
		waits    bool // for the lease of the dead
		requests int64
		limit    func(*pb.Client)
		issued   int // counted by the limit
	}{
		// The lease is written first, the token last.
		{"lease-lost", 1, before, false, 1, nil, 0},
		{"lease-written", 1, after, true, 1, nil, 0},
		{"asking", 0, "", true, 2, nil, 0},
		{"token-lost", 2, before, true, 2, nil, 0},
		{"token-written", 2, after, false, 1, nil, 0},
		// Before a limited token is asked for it is noted, and afterwards how long it lives.
		{"limited-lease-lost", 1, before, false, 1, twoLive, 1},
		{"limited-lease-written", 1, after, true, 1, twoLive, 1},
		{"limited-note-lost", 2, before, true, 1, twoLive, 1},
		{"limited-note-written", 2, after, true, 1, twoLive, 2},
		{"limited-asking", 0, "", true, 2, twoLive, 2},
		{"limited-lifetime-lost", 3, before, true, 2, twoLive, 2},
		{"limited-lifetime-written", 3, after, true, 2, twoLive, 2},
		{"limited-token-lost", 4, before, true, 2, twoLive, 2},
		{"limited-token-written", 4, after, false, 1, twoLive, 1},
		{"budget-note-written", 2, after, true, 1, twoAnHour, 2},
		{"budget-asking", 0, "", true, 2, twoAnHour, 2},
		{"budget-token-lost", 3, before, true, 2, twoAnHour, 2},
		{"budget-token-written", 3, after, false, 1, twoAnHour, 1},
	}
	var running sync.WaitGroup
	for _, k := range kills {
		if k.limit == nil {
			k.limit = func(*pb.Client) {}
		}
		victim := f.a.node
		client := f.register(f.b, k.name, func(nth int64) {
			if k.write == 0 && nth == 1 {
				victim.Kill()
			}
		}, k.limit)
		tried := inject(t, "kill -9 of the holder, %s %s", k.name, k.kind)
		f.a.tap.arm(client.uid, &fault{nth: k.write, kind: k.kind, hit: victim.Kill})
		_, err := victim.token(t.Context(), client.name)
		died := time.Now()
		if _, struck := f.a.tap.disarm(client.uid); err == nil || !struck && k.write > 0 {
			victim.Kill()
			tried.survived(fmt.Errorf("it was not hit: %w", orNothing(err)))
			return
		}
		<-victim.Done()
		answers := askAll(t.Context(), client.name, f.b, f.c)
		f.restart(f.a)
		running.Go(func() {
			id, err := sameToken(<-answers)
			took := time.Since(died)
			switch {
			case err != nil:
			case k.waits && (took < leaseEnds-2*time.Second || took > leaseEnds+slack):
				err = fmt.Errorf("the others had a token after %v, want when the lease was over, after %v", took, leaseEnds)
			case !k.waits && took > leaseEnds/2:
				err = fmt.Errorf("the others had a token after %v, and nobody held the lease", took)
			}
			tried.survived(errors.Join(err, f.servesOnly(client.name, id, f.b, f.c), client.wasAsked(k.requests), f.leaseIsFree(client), f.countsIssued(client, k.issued)))
		})
	}
	running.Wait()
	for _, k := range kills { // the replica that came back has no token of its own
		if err := f.servesOnly("clients/"+k.name, "", f.replicas()...); err != nil {
			t.Errorf("%s, at the end: %v", k.name, err)
		}
	}
	f.stop()
}

func twoLive(c *pb.Client) { c.MaxLiveTokens = 2 }

func twoAnHour(c *pb.Client) {
	c.IssueBudget = &pb.IssueBudget{Tokens: 2, Period: durationpb.New(time.Hour)}
}

// countsIssued demands that so many tokens count against a client's limits; 0 is for a
// client without.
func (f *fleet) countsIssued(c *registered, want int) error {
	if want == 0 {
		return nil
	}
	if issued, _ := f.store.read("upstream/"+c.uid, 0)["issued"].([]any); len(issued) != want {
		return fmt.Errorf("%d tokens count against the limit, want %d", len(issued), want)
	}
	return nil
}

// TestFleetHolderFrozen stops a holder, as SIGSTOP does, past its lease: once while it
// asks, once with its token on the way to Vault. Another replica takes over; what
// the late one writes is refused, and it serves what the fleet has.
func TestFleetHolderFrozen(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/task"); err != nil {
		t.Skipf("it takes /proc to see that a process stands still: %v", err)
	}
	f := newFleet(t, sharedStore(t))
	late := f.a
	frozen, release := make(chan struct{}), make(chan struct{})
	asks, writes := make(chan struct{}), make(chan struct{})
	asking := f.register(f.b, "frozen-asking", func(nth int64) {
		if nth == 1 {
			close(asks)
			<-frozen
		}
	})
	writing := f.register(f.b, "frozen-writing", nil)
	write := &fault{nth: 2, kind: held, hit: func() { close(writes); <-release }}
	late.tap.arm(writing.uid, write)
	lateAnswers := map[*registered]<-chan []answer{}
	for _, client := range []*registered{asking, writing} {
		lateAnswers[client] = askAll(t.Context(), client.name, late)
	}
	for _, reached := range []<-chan struct{}{asks, writes} {
		select {
		case <-reached:
		case <-time.After(leaseEnds / 2):
			t.Fatal("the holder did not get to where it is to be frozen")
		}
	}
	hit := map[*registered]*injected{
		asking:  inject(t, "SIGSTOP of the holder past its lease, while it asks"),
		writing: inject(t, "SIGSTOP of the holder past its lease, its token on the way to Vault"),
	}
	freeze(t, late.process)
	close(frozen) // the authorization server answers one who does not hear it
	others := map[*registered]<-chan []answer{}
	for client := range hit {
		others[client] = askAll(t.Context(), client.name, f.b, f.c)
	}
	newer, problems := map[*registered]string{}, map[*registered]error{}
	for client, answers := range others {
		newer[client], problems[client] = sameToken(<-answers)
	}
	close(release) // the late write arrives
	<-write.landed
	if _, struck := late.tap.disarm(writing.uid); !struck || write.status != http.StatusBadRequest {
		problems[writing] = errors.Join(problems[writing], fmt.Errorf("the late write: seen %v, status %d; want it refused by check-and-set, %d", struck, write.status, http.StatusBadRequest))
	}
	if err := late.command.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for client, tried := range hit {
		err := problems[client]
		for _, a := range <-lateAnswers[client] {
			if a.err != nil || a.token.GetTokenId() != newer[client] {
				err = errors.Join(err, fmt.Errorf("the late replica gave out token %q, %w; the fleet has %s", a.token.GetTokenId(), orNothing(a.err), newer[client]))
			}
		}
		tried.survived(errors.Join(err, f.servesOnly(client.name, newer[client], f.replicas()...), client.wasAsked(2), f.leaseIsFree(client)))
	}
	f.restart(late)
	for client := range hit {
		if err := errors.Join(f.servesOnly(client.name, newer[client], late), client.wasAsked(2)); err != nil {
			t.Errorf("%s, after a restart of the late replica: %v", client.id, err)
		}
	}
	f.stop()
}

// freeze stops a process and waits until each of its threads stands still.
func freeze(t *testing.T, p *process) {
	t.Helper()
	if err := p.command.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, slack, "SIGSTOP", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.pid()))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("no threads in /proc: %w", orNothing(err))
		}
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err != nil {
				return err
			}
			if _, state, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(state, "T") {
				return fmt.Errorf("a thread runs on: %s", stat)
			}
		}
		return nil
	})
}

// TestFleetLosesAnswers breaks the connection to Vault at each write of a cold mint,
// in each way in which an answer can be lost; nobody is killed. All replicas get one
// token with one request.
func TestFleetLosesAnswers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, sharedStore(t))
	var running sync.WaitGroup
	for write, name := range map[int]string{1: "lease", 2: "token"} {
		for i, kind := range []faultKind{before, after, late} {
			client := f.register(f.b, fmt.Sprintf("%s-answer-%d", name, i), nil)
			tried := inject(t, "the answer to the write of the %s lost %s", name, kind)
			running.Go(func() {
				f.a.tap.arm(client.uid, &fault{nth: write, kind: kind})
				ctx, cancel := context.WithTimeout(t.Context(), leaseEnds+slack)
				defer cancel()
				_, err := f.a.token(ctx, client.name)
				if _, struck := f.a.tap.disarm(client.uid); !struck {
					err = errors.Join(err, errors.New("no answer was lost"))
				}
				tried.survived(errors.Join(err, f.servesOnly(client.name, "", f.replicas()...), client.wasAsked(1), f.leaseIsFree(client)))
			})
		}
	}
	running.Wait()
	f.stop()
}
