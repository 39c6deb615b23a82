package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

const acmeID = "client-id-of-acme" // what the authorization server calls acme

// world is a store, an authorization server and its provider, which several processes
// share.
type world struct {
	kind     brokertest.ProviderKind
	memory   *brokertest.Memory
	upstream *brokertest.Upstream
	provider *brokertest.Provider
}

func newWorld(kind brokertest.ProviderKind) *world {
	upstream := brokertest.NewUpstream()
	upstream.SetLifetime(2 * time.Minute)
	return &world{kind: kind, memory: brokertest.NewMemory(), upstream: upstream, provider: brokertest.NewProvider(upstream, kind)}
}

// process is a Broker of a world, which can be killed.
type process struct {
	*fixture
	world *world
	line  *line
}

// drainFor is how long a process has to end in peace.
const drainFor = 15 * time.Second

// stoppable has the process's line end it in peace, as cmd/tokenbroker does.
func (p *process) stoppable(t *testing.T) *process {
	p.line.stop = func() {
		p.stopRun()
		ctx, cancel := context.WithTimeout(context.Background(), drainFor)
		defer cancel()
		if !p.Drain(ctx) {
			t.Errorf("what was begun has not ended within %v", drainFor)
		}
		p.Close()
		p.line.kill()
	}
	return p
}

// process starts a Broker; its Run begins with run.
func (w *world) process(t *testing.T) *process {
	t.Helper()
	store := brokertest.NewFaulty(w.memory)
	l := &line{store: store, count: map[string]int{}}
	f := open(t, w.memory, store, w.upstream, func(cfg *broker.Config) {
		cfg.RequestToken = func(ctx context.Context, req broker.TokenRequest) (answer broker.TokenResponse, err error) {
			err = l.call(ctx, "token", func() error {
				answer, err = w.upstream.RequestToken(ctx, req)
				return err
			})
			return answer, err
		}
		cfg.RevokeToken = func(ctx context.Context, req broker.RevocationRequest) error {
			return l.call(ctx, "revoke token", func() error { return w.upstream.RevokeToken(ctx, req) })
		}
		cfg.Rotators = map[string]broker.Rotator{"fake": lineRotator{w.provider, l}}
	})
	f.ctx = t.Context()
	p := &process{fixture: f, world: w, line: l}
	f.stopRun = func() {}
	return p.stoppable(t)
}

// run has the process do what nobody waits for, until it is killed or the test ends.
func (p *process) run(t *testing.T) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.Run(ctx)
	}()
	synctest.Wait() // its first look at what is under way must not meet a rotation that just begins
	// Not by sync.OnceFunc: who waits for a lock keeps a bubble's time from passing.
	p.stopRun = func() {
		cancel()
		<-ended
	}
	t.Cleanup(p.stopRun)
	return p
}

// createAcme registers acme with the first secret, at the provider too.
func (p *process) createAcme(t *testing.T, edits ...func(*broker.NewClient)) {
	t.Helper()
	n := newClient("acme")
	first := p.world.kind.First(password)
	n.Secret = input(first)
	n.Upstream.RevocationEndpoint = origin + "/revoke"
	n.Rotation = broker.RotationSettings{Rotator: "fake", VerifySpacing: time.Millisecond, Overlap: time.Minute}
	if p.world.kind.Key() {
		n.Upstream.Authentication.Method = broker.PrivateKeyJWT
	}
	for _, edit := range edits {
		edit(&n)
	}
	if _, err := p.CreateClient(t.Context(), n); err != nil {
		t.Fatalf("CreateClient: %v", err)
	}
	p.world.provider.SetByHand(acmeID, first)
	// The handle is what an earlier rotation would have brought.
	key := keyOfClient(t, p.memory, "acme")
	p.memory.Put(key, strings.Replace(recordOf(t, p.memory, key), `"number":1,`, `"number":1,"handle":"handle-1",`, 1))
	p.token(t, "acme")
}

// journal returns acme's journal as it lies in the store, without anybody looking.
func (w *world) journal(t *testing.T) broker.Rotation {
	t.Helper()
	r, _ := w.journalOf("acme")
	return r
}

// journalOf returns a client's journal; false if there is none that can be read.
func (w *world) journalOf(id string) (broker.Rotation, bool) {
	for _, key := range keysUnder(w.memory, "rotations/") {
		record, err := w.memory.Read(context.Background(), key)
		var r broker.Rotation
		if err == nil && json.Unmarshal(record.Data.Reveal(), &r) == nil && r.ClientID == id {
			return r, true
		}
	}
	return broker.Rotation{}, false
}

// wantWorking checks that acme has one current secret, and that it works.
func (w *world) wantWorking(t *testing.T) {
	t.Helper()
	wantSound(t, w.memory, "acme")
	p := w.process(t)
	if _, err := p.RevokeTokens(t.Context(), "acme"); err != nil {
		t.Errorf("RevokeTokens: %v", err)
	}
	if err := p.ResetUpstream(t.Context(), "acme"); err != nil {
		t.Errorf("ResetUpstream: %v", err)
	}
	current, _ := p.get(t, "acme").Staged(broker.Current)
	token, warnings, err := p.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
	if err != nil || token.SecretVersion != current.Number || len(warnings) > 0 {
		t.Errorf("GetToken = %+v, %v, %v, want one of version %d", token, warnings, err, current.Number)
	}
}

// wantTidy checks that the provider has the secrets of acme's versions and no others.
func (w *world) wantTidy(t *testing.T) {
	t.Helper()
	c := w.process(t).get(t, "acme")
	var named []string
	for _, v := range c.Secrets {
		named = append(named, w.valueOf(t, v.Number))
	}
	there := w.provider.Secrets(acmeID)
	slices.Sort(named)
	slices.Sort(there)
	if !slices.Equal(named, there) {
		t.Errorf("the provider has the secrets %q, the client's versions are %q (%s)", there, named, stages(c))
	}
}

// valueOf returns the secret of a version of acme.
func (w *world) valueOf(t *testing.T, number int64) string {
	t.Helper()
	for _, key := range keysUnder(w.memory, "secrets/acme/") {
		if !strings.HasSuffix(key, fmt.Sprint("-", number)) {
			continue
		}
		var value struct{ Value string }
		if err := json.Unmarshal([]byte(recordOf(t, w.memory, key)), &value); err != nil {
			t.Fatal(err)
		}
		return value.Value
	}
	t.Fatalf("there is no version %d", number)
	return ""
}

// lineFault is what becomes of a call to a provider or an authorization server.
type lineFault struct {
	name string
	// acts lets the call take effect; err, if it is not nil, takes the place of the
	// answer; hangs waits for the context's end first; kills ends the process; stops asks
	// it to end, and answers a little later.
	acts, hangs, kills, stops bool
	err                       error
}

// stopped is the fault of a process that is asked to end while it calls the store.
func stopped() brokertest.Fault { return brokertest.Fault{Name: "stops"} }

// stopTakes is how long the answer to a call is away whose process is asked to end.
const stopTakes = 3 * time.Second

func lineFaults(rotator bool) []lineFault {
	timeout := &broker.Error{Reason: broker.ReasonUpstreamTimeout, Op: "by order of the test"}
	faults := []lineFault{
		{name: "fails", err: &broker.Error{Reason: broker.ReasonUpstreamUnavailable, Op: "by order of the test"}},
		{name: "hangs before", hangs: true, err: timeout},
		{name: "hangs after", acts: true, hangs: true, err: timeout},
		{name: "lost before", err: timeout},
		{name: "lost after", acts: true, err: timeout},
		{name: "crash before", kills: true, err: timeout},
		{name: "crash after", acts: true, kills: true, err: timeout},
		{name: "stops", stops: true},
	}
	if rotator {
		faults = append(faults, lineFault{name: "unsent", err: &broker.UnsentError{Err: timeout}})
	}
	return faults
}

// line is a process's way to the outside. It counts calls by what they are, those to
// the store too, and puts one fault in the way.
type line struct {
	store *brokertest.Faulty

	mu    sync.Mutex // guards what follows
	count map[string]int
	order []outsideCall
	// target is the call that meets fault.
	target outsideCall
	fault  lineFault
	struck bool
	dead   bool
	// stop ends the process in peace.
	stop func()
}

// outsideCall is the nth call of a name since the last reset; op is "" unless it is one
// to the store.
type outsideCall struct {
	name string
	n    int
	op   brokertest.Operation
}

func (c outsideCall) String() string { return fmt.Sprintf("%s #%d", c.name, c.n) }

// varying is what differs from run to run in a key. Whole words: a long enough part of a hash can look like an id.
var varying = regexp.MustCompile(`\b(?:[a-z2-7]{26}|[0-9a-f]{32})\b`)

func (l *line) note(name string, op brokertest.Operation) outsideCall {
	l.count[name]++
	c := outsideCall{name, l.count[name], op}
	l.order = append(l.order, c)
	return c
}

// reset begins to count. The fault, if it has a name, strikes target.
func (l *line) reset(target outsideCall, fault lineFault, storeFault brokertest.Fault) {
	l.mu.Lock()
	l.count, l.order, l.target, l.fault = map[string]int{}, nil, target, fault
	l.mu.Unlock()
	if storeFault.Dead {
		before := storeFault.Before
		storeFault.Before = func(ctx context.Context, c brokertest.Call) error {
			l.kill()
			if before != nil {
				return before(ctx, c)
			}
			return nil
		}
	}
	if storeFault.Name == stopped().Name {
		storeFault.Before = func(context.Context, brokertest.Call) error {
			go l.stop()
			time.Sleep(stopTakes)
			return nil
		}
	}
	l.store.Heal()
	l.store.Always(storeFault, func(c brokertest.Call) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		hit := l.note(string(c.Op)+" "+varying.ReplaceAllString(c.Key, "*"), c.Op) == target && !l.struck
		l.struck = l.struck || hit
		return hit
	})
}

// kill ends the process as far as anybody else can see.
func (l *line) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

func (l *line) call(ctx context.Context, name string, act func() error) error {
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return &broker.Error{Reason: broker.ReasonUpstreamTimeout, Op: "a dead process calls nobody"}
	}
	hit := l.note(name, "") == l.target && !l.struck
	l.struck = l.struck || hit
	fault := l.fault
	l.mu.Unlock()
	if !hit {
		return act()
	}
	if fault.stops {
		err := act()
		go l.stop()
		select {
		case <-time.After(stopTakes):
			return err
		case <-ctx.Done(): // nobody waits for the answer, but the call has taken effect
			return &broker.Error{Reason: broker.ReasonDeadlineExceeded, Op: name, Err: ctx.Err()}
		}
	}
	if fault.kills {
		l.kill()
		l.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
	}
	if fault.acts {
		_ = act() // its answer is lost
	}
	if fault.hangs {
		<-ctx.Done()
	}
	return fault.err
}

// lineRotator is a provider at the end of a line.
type lineRotator struct {
	*brokertest.Provider
	line *line
}

func (r lineRotator) Create(ctx context.Context, call broker.RotatorCall) (created broker.CreatedSecret, err error) {
	answer := broker.CreatedSecret{}
	err = r.line.call(ctx, "create", func() error {
		created, err = r.Provider.Create(ctx, call)
		return err
	})
	if err != nil {
		return answer, err
	}
	return created, nil
}

func (r lineRotator) Recover(ctx context.Context, call broker.RotatorCall) (found broker.RecoveredCreate, err error) {
	err = r.line.call(ctx, "recover", func() error {
		found, err = r.Provider.Recover(ctx, call)
		return err
	})
	return found, err
}

func (r lineRotator) Activate(ctx context.Context, call broker.RotatorCall) error {
	return r.line.call(ctx, "activate", func() error { return r.Provider.Activate(ctx, call) })
}

func (r lineRotator) Revoke(ctx context.Context, call broker.RotatorCall) error {
	return r.line.call(ctx, "revoke", func() error { return r.Provider.Revoke(ctx, call) })
}
