package brokertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// ProviderKind says how a [Provider] changes secrets.
type ProviderKind struct {
	// Name is used in the names of subtests.
	Name   string
	Traits broker.RotatorTraits
	// ShowsSecret says that a secret that was made can be read again; TellsChange that
	// it is at least known which call made the last change.
	ShowsSecret, TellsChange bool
}

// ProviderKinds lists each kind that a rotation treats in a way of its own.
func ProviderKinds() []ProviderKind {
	kind := func(name string, shape broker.Shape, edits ...func(*ProviderKind)) ProviderKind {
		k := ProviderKind{Name: name, Traits: broker.RotatorTraits{Shape: shape}}
		for _, edit := range edits {
			edit(&k)
		}
		return k
	}
	shows := func(k *ProviderKind) { k.ShowsSecret = true }
	tells := func(k *ProviderKind) { k.TellsChange = true }
	chosen := func(k *ProviderKind) { k.Traits.TakesChosen = true }
	early := func(k *ProviderKind) { k.Traits.WorksBeforeActivation = true }
	return []ProviderKind{
		kind("overlapping", broker.ShapeOverlapping),
		kind("overlapping, shows", broker.ShapeOverlapping, shows),
		kind("overlapping, chosen", broker.ShapeOverlapping, chosen),
		kind("activated", broker.ShapeActivated, shows),
		kind("activated, works before", broker.ShapeActivated, early),
		kind("replaced, shows", broker.ShapeReplaced, shows),
		kind("replaced, tells", broker.ShapeReplaced, tells),
		kind("replaced, chosen", broker.ShapeReplaced, chosen),
		kind("key pair", broker.ShapeKeyPair, chosen),
	}
}

// ProviderOperation is a method of [broker.Rotator] that speaks to a provider.
type ProviderOperation string

// The operations.
const (
	ProviderCreate   ProviderOperation = "create"
	ProviderRecover  ProviderOperation = "recover"
	ProviderActivate ProviderOperation = "activate"
	ProviderRevoke   ProviderOperation = "revoke"
)

// ProviderStep is what becomes of one call to a [Provider].
type ProviderStep struct {
	// Delay passes before the answer; a context that ends first is UPSTREAM_TIMEOUT.
	Delay time.Duration
	// Err is the answer; nil answers as usual.
	Err error
	// Acts says that the call takes effect at once although its answer is late or Err.
	Acts bool
}

// mostSecrets is how many secrets a provider takes at a time where they overlap.
const mostSecrets = 2

// Provider is the management API of an authorization server without a network: a
// [broker.Rotator] whose secrets an [Upstream] accepts or refuses. Safe for concurrent
// use; make one with [NewProvider].
type Provider struct {
	kind     ProviderKind
	upstream *Upstream

	mu sync.Mutex // guards what follows
	// clients :: client_id → its secrets
	clients map[string]*providerClient
	// script :: operation → what becomes of the next calls
	script map[ProviderOperation][]ProviderStep
	calls  []ProviderOperation
	made   int
}

type providerClient struct {
	secrets []providerSecret
	// next was made and is not active yet.
	next *providerSecret
}

type providerSecret struct{ handle, value, token string }

var (
	_ broker.Rotator     = (*Provider)(nil)
	_ broker.SecretMaker = (*Provider)(nil)
)

// NewProvider returns a provider that knows nobody.
func NewProvider(upstream *Upstream, kind ProviderKind) *Provider {
	return &Provider{kind: kind, upstream: upstream, clients: map[string]*providerClient{}, script: map[ProviderOperation][]ProviderStep{}}
}

// SetByHand makes clientSecret the only one that is taken for clientID, as a person at
// the provider's console does. Its handle is "handle-1" if it is the provider's first.
func (p *Provider) SetByHand(clientID, clientSecret string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.client(clientID)
	p.end(clientID, c.secrets...)
	if c.next != nil {
		p.end(clientID, *c.next)
	}
	p.made++
	*c = providerClient{secrets: []providerSecret{{value: clientSecret, handle: fmt.Sprint("handle-", p.made)}}}
	p.upstream.Register(clientID, clientSecret)
}

// Secrets returns the secrets of a client that were made and not ended, oldest first,
// also one that is not active yet.
func (p *Provider) Secrets(clientID string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.client(clientID)
	var values []string
	for _, s := range c.secrets {
		values = append(values, s.value)
	}
	if c.next != nil {
		values = append(values, c.next.value)
	}
	return values
}

// Script says what becomes of the next calls of op, one step each.
func (p *Provider) Script(op ProviderOperation, steps ...ProviderStep) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script[op] = append(p.script[op], steps...)
}

// Count returns how many calls of op have arrived.
func (p *Provider) Count(op ProviderOperation) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, c := range p.calls {
		if c == op {
			n++
		}
	}
	return n
}

// Traits implements [broker.Rotator].
func (p *Provider) Traits(broker.RotationSettings) broker.RotatorTraits { return p.kind.Traits }

// MakeSecret implements [broker.SecretMaker].
func (p *Provider) MakeSecret(broker.RotatorCall) (secret.Value, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made++
	if p.kind.Traits.Shape == broker.ShapeKeyPair {
		return secret.NewString(fmt.Sprintf(`{"kty":"oct","k":"made-%d"}`, p.made)), nil
	}
	return secret.NewString(fmt.Sprint("chosen-", p.made)), nil
}

// Create implements [broker.Rotator].
func (p *Provider) Create(ctx context.Context, call broker.RotatorCall) (created broker.CreatedSecret, err error) {
	err = p.call(ctx, ProviderCreate, func() error {
		created, err = p.create(call)
		return err
	})
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	return created, nil
}

func (p *Provider) create(call broker.RotatorCall) (broker.CreatedSecret, error) {
	c := p.client(call.ClientID)
	made := providerSecret{token: call.Token, value: call.New.RevealString(), handle: call.Handle}
	if p.kind.Traits.TakesChosen {
		if slices.ContainsFunc(c.secrets, func(s providerSecret) bool { return s.value == made.value }) {
			return broker.CreatedSecret{Handle: made.handle}, nil
		}
	} else {
		p.made++
		made.value, made.handle = fmt.Sprint("made-", p.made), fmt.Sprint("handle-", p.made)
	}
	switch p.kind.Traits.Shape {
	case broker.ShapeReplaced:
		p.end(call.ClientID, c.secrets...)
		c.secrets = nil
	case broker.ShapeActivated:
		if c.next != nil {
			p.end(call.ClientID, *c.next)
		}
		c.next = &made
	default:
		if len(c.secrets) >= mostSecrets {
			return broker.CreatedSecret{}, &broker.Error{Reason: broker.ReasonRotatorRefused, Op: "create secret", Detail: "there are two secrets already"}
		}
	}
	if c.next == nil {
		c.secrets = append(c.secrets, made)
	}
	if c.next == nil || p.kind.Traits.WorksBeforeActivation {
		p.begin(call.ClientID, made)
	}
	created := broker.CreatedSecret{Handle: made.handle}
	if !p.kind.Traits.TakesChosen {
		created.Value = secret.NewString(made.value)
	}
	return created, nil
}

// Recover implements [broker.Rotator].
func (p *Provider) Recover(ctx context.Context, call broker.RotatorCall) (found broker.RecoveredCreate, err error) {
	err = p.call(ctx, ProviderRecover, func() error {
		found = p.recover(call)
		return nil
	})
	return found, err
}

func (p *Provider) recover(call broker.RotatorCall) broker.RecoveredCreate {
	c := p.client(call.ClientID)
	made := c.next
	if i := slices.IndexFunc(c.secrets, func(s providerSecret) bool { return s.token == call.Token }); i >= 0 {
		made = &c.secrets[i]
	}
	switch {
	case p.kind.Traits.Shape == broker.ShapeReplaced && !p.kind.ShowsSecret && !p.kind.TellsChange:
		return broker.RecoveredCreate{Outcome: broker.CreateUnknown}
	case made == nil || made.token != call.Token:
		return broker.RecoveredCreate{Outcome: broker.CreateNotDone}
	case p.kind.ShowsSecret:
		return broker.RecoveredCreate{Outcome: broker.CreateDone, Created: broker.CreatedSecret{Value: secret.NewString(made.value), Handle: made.handle}}
	case p.kind.Traits.Shape == broker.ShapeReplaced:
		return broker.RecoveredCreate{Outcome: broker.CreateLost}
	}
	p.remove(call.ClientID, c, *made) // of no use to anybody
	return broker.RecoveredCreate{Outcome: broker.CreateNotDone}
}

// Activate implements [broker.Rotator].
func (p *Provider) Activate(ctx context.Context, call broker.RotatorCall) error {
	return p.call(ctx, ProviderActivate, func() error {
		c := p.client(call.ClientID)
		if c.next == nil || c.next.handle != call.Handle {
			if slices.ContainsFunc(c.secrets, func(s providerSecret) bool { return s.handle == call.Handle }) {
				return nil
			}
			return &broker.Error{Reason: broker.ReasonRotatorRefused, Op: "activate secret", Detail: "there is no such secret"}
		}
		p.end(call.ClientID, c.secrets...)
		c.secrets, c.next = []providerSecret{*c.next}, nil
		if !p.kind.Traits.WorksBeforeActivation {
			p.begin(call.ClientID, c.secrets[0])
		}
		return nil
	})
}

// Revoke implements [broker.Rotator].
func (p *Provider) Revoke(ctx context.Context, call broker.RotatorCall) error {
	return p.call(ctx, ProviderRevoke, func() error {
		p.remove(call.ClientID, p.client(call.ClientID), providerSecret{handle: call.Handle, value: call.New.RevealString()})
		return nil
	})
}

// call lets one call take effect as the script says.
func (p *Provider) call(ctx context.Context, op ProviderOperation, act func() error) error {
	p.mu.Lock()
	p.calls = append(p.calls, op)
	var step ProviderStep
	if steps := p.script[op]; len(steps) > 0 {
		step, p.script[op] = steps[0], steps[1:]
	}
	p.mu.Unlock()
	locked := func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		return act()
	}
	var err error
	if step.Acts {
		err = locked()
	}
	sleep(ctx, step.Delay)
	switch {
	case ctx.Err() != nil:
		return &broker.Error{Reason: broker.ReasonUpstreamTimeout, Op: string(op) + " secret", Err: ctx.Err()}
	case step.Err != nil:
		return step.Err
	case step.Acts:
		return err
	}
	return locked()
}

func (p *Provider) client(clientID string) *providerClient {
	if p.clients[clientID] == nil {
		p.clients[clientID] = &providerClient{}
	}
	return p.clients[clientID]
}

// begin has a secret accepted once it is known everywhere.
func (p *Provider) begin(clientID string, s providerSecret) {
	if p.kind.Traits.Propagation == 0 {
		p.upstream.Register(clientID, s.value)
		return
	}
	time.AfterFunc(p.kind.Traits.Propagation, func() {
		if slices.Contains(p.Secrets(clientID), s.value) {
			p.upstream.Register(clientID, s.value)
		}
	})
}

// end has secrets refused from now on.
func (p *Provider) end(clientID string, ended ...providerSecret) {
	for _, s := range ended {
		p.upstream.Withdraw(clientID, s.value)
	}
}

// remove ends the secret of that handle, or of that value where no handle is known.
func (p *Provider) remove(clientID string, c *providerClient, gone providerSecret) {
	same := func(s providerSecret) bool {
		if gone.handle == "" {
			return s.value == gone.value
		}
		return s.handle == gone.handle
	}
	c.secrets = slices.DeleteFunc(c.secrets, func(s providerSecret) bool {
		if same(s) {
			p.end(clientID, s)
		}
		return same(s)
	})
	if c.next != nil && same(*c.next) {
		p.end(clientID, *c.next)
		c.next = nil
	}
}

// Key reports whether a provider of this kind takes keys rather than secrets.
func (k ProviderKind) Key() bool { return k.Traits.Shape == broker.ShapeKeyPair }

// First is a client's secret of the beginning, as this kind of provider takes it.
func (k ProviderKind) First(text string) string {
	if k.Key() && !strings.HasPrefix(text, "{") {
		return fmt.Sprintf(`{"kty":"oct","k":%q}`, text)
	}
	return text
}
