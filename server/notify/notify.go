package notify

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// drainFor bounds what the end takes.
const drainFor = 3 * time.Second

// Outcome is what becomes of events.
type Outcome string

// The outcomes.
const (
	// Delivered: the receiver answered with 2xx.
	Delivered Outcome = "delivered"
	// Failed: a try failed, and there will be another one.
	Failed Outcome = "failed"
	// GivenUp: the last try failed.
	GivenUp Outcome = "given_up"
	// Dropped: too many events waited, or the process ended.
	Dropped Outcome = "dropped"
)

// Outcomes lists the outcomes in the order in which they are documented.
func Outcomes() []Outcome { return []Outcome{Delivered, Failed, GivenUp, Dropped} }

// Status is how one webhook fares.
type Status struct {
	// Webhook is its name.
	Webhook string
	// Counts are how often each outcome came up, tries and not events for [Failed].
	Counts map[Outcome]int64
	// Queued are the events that wait.
	Queued int
}

// Notifier tells webhooks of events. It is safe for concurrent use; [Notifier.Run]
// delivers. A nil *Notifier tells nobody.
type Notifier struct {
	hooks []*hook
	log   *slog.Logger
}

// New returns a Notifier. It makes no connection, but reads the files. Its error is that
// of [Config.Validate].
func New(cfg Config) (*Notifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("notify: %w", err)
	}
	n := &Notifier{log: cfg.Logger}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	for _, w := range cfg.Webhooks {
		h := &hook{webhook: w, transport: cfg.Transport, log: n.log, counts: map[Outcome]*atomic.Int64{}}
		for _, outcome := range Outcomes() {
			h.counts[outcome] = new(atomic.Int64)
		}
		roots, err := w.roots()
		if err != nil {
			return nil, fmt.Errorf("notify: webhook %s: %w", w.Name, err)
		}
		h.door = w.door(roots)
		if h.url, err = h.door.Parse("URL", w.URL); err != nil {
			return nil, fmt.Errorf("notify: webhook %s: %w", w.Name, err)
		}
		if h.key, err = readSecret(w.SecretFile); err != nil {
			return nil, fmt.Errorf("notify: webhook %s: %w", w.Name, err)
		}
		h.queue.signal = make(chan struct{}, 1)
		n.hooks = append(n.hooks, h)
	}
	return n, nil
}

// Notify has webhooks that want it told of an event. It does not block. Where too many
// events wait the oldest one goes.
func (n *Notifier) Notify(e broker.Event) {
	if n == nil {
		return
	}
	var body []byte
	for _, h := range n.hooks {
		if !h.webhook.wants(e.Type) {
			continue
		}
		if body == nil {
			var err error
			if body, err = encode(e); err != nil {
				n.log.Error("event not told", "event_id", e.ID, "cause", err)
				return
			}
		}
		now := time.Now()
		h.dropped(h.queue.add(&waiting{id: e.ID, body: body, made: now, next: now}))
	}
}

// Run delivers until ctx ends, and then for a few seconds more what waits. Whoever
// notifies should have ended before. It is called once, and returns nil.
func (n *Notifier) Run(ctx context.Context) error {
	if n == nil {
		return nil
	}
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var owned sync.WaitGroup
	for _, h := range n.hooks {
		owned.Go(func() { h.run(ctx, sending) })
	}
	<-ctx.Done()
	end := time.AfterFunc(drainFor, cancel)
	defer end.Stop()
	owned.Wait()
	for _, h := range n.hooks {
		h.door.Close()
	}
	return nil
}

// Status returns how the webhooks fare, in the order of the configuration.
func (n *Notifier) Status() []Status {
	if n == nil {
		return nil
	}
	list := make([]Status, 0, len(n.hooks))
	for _, h := range n.hooks {
		s := Status{Webhook: h.webhook.Name, Counts: map[Outcome]int64{}, Queued: h.queue.length()}
		for outcome, count := range h.counts {
			s.Counts[outcome] = count.Load()
		}
		list = append(list, s)
	}
	return list
}
