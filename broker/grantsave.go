package broker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// saveBegin and saveMost are the pauses between tries to store a change of a grant
	// that exists in this process only.
	saveBegin = 100 * time.Millisecond
	saveMost  = 5 * time.Second
	// savesAtClose is for how long Close goes on trying.
	savesAtClose = 5 * time.Second
	saveTries    = 8
	// saveWait is how long somebody waits for the store where no token depends on it.
	saveWait = time.Second
)

// errSuperseded says that another one has the say about a grant by now.
var errSuperseded = errors.New("the grant was changed by another one meanwhile")

// grantChange is what came of a request that cannot be made again. Until it is stored
// this process alone has it.
type grantChange struct {
	c       *Client
	subject string
	path    string
	// version, record and secrets are the grant as it was last read.
	version uint64
	record  *grantRecord
	secrets *grantSecrets
	// ours reports whether a record that is not that one any more still waits for the
	// change.
	ours  func(*grantRecord) bool
	apply func(*grantRecord, *grantSecrets)
	// saved is called once the change is stored after nobody waited for it any more; nil
	// does nothing.
	saved func(context.Context)
}

// grantSaves are the grants whose changes are on their way into the store. Whoever wants
// to use one waits for them. Safe for concurrent use.
type grantSaves struct {
	mu     sync.Mutex
	byPath map[string]chan struct{} // path → closed when it is stored or given up; guarded by mu
}

func (g *grantSaves) begin(path string) (done chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	done = make(chan struct{})
	g.byPath[path] = done
	return done
}

func (g *grantSaves) end(path string, done chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byPath[path] == done {
		delete(g.byPath, path)
	}
	close(done)
}

// wait waits until nothing is on its way to path.
func (g *grantSaves) wait(ctx context.Context, c *Client, path string) error {
	g.mu.Lock()
	done := g.byPath[path]
	g.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return &Error{Reason: ReasonStoreUnreachable, Op: "store what a refresh brought", Client: c.ID, Detail: path + ": nobody is given its token before it is stored", Err: ctx.Err()}
	}
}

// save stores a change before anybody uses what it brought. It tries until ctx ends;
// then the change goes on being tried in the background for as long as this process
// lives, and a little longer when it is asked to stop. errSuperseded if another one has
// the say by now.
func (b *Broker) save(ctx context.Context, ch *grantChange) error {
	done := b.saves.begin(ch.path)
	err := b.saveUntil(ctx, ch)
	if err == nil || errors.Is(err, errSuperseded) {
		b.saves.end(ch.path, done)
		return err
	}
	b.log.WarnContext(ctx, "what a refresh brought is not stored yet; trying on", "client", ch.c.ID, "reason", ReasonOf(err))
	if !b.tasks.begin() {
		b.saves.end(ch.path, done)
		return err
	}
	go func() {
		defer b.tasks.end()
		defer b.saves.end(ch.path, done)
		_ = b.guarded(b.working, func() error { b.keepSaving(ch); return nil }) // logs what it caught
	}()
	return err
}

// keepSaving tries until the change is stored, or Close has waited long enough.
func (b *Broker) keepSaving(ch *grantChange) {
	err := b.saveUntil(b.working, ch)
	if b.working.Err() != nil && err != nil && !errors.Is(err, errSuperseded) {
		last, cancel := context.WithTimeout(context.WithoutCancel(b.working), savesAtClose)
		defer cancel()
		err = b.saveUntil(last, ch)
	}
	switch {
	case errors.Is(err, errSuperseded):
		b.log.Warn("what a refresh brought was not needed any more", "client", ch.c.ID)
	case err != nil:
		b.log.Error("what a refresh brought is lost: the store was away for as long as this process lived", "client", ch.c.ID, "reason", ReasonOf(err))
	case ch.saved != nil:
		ch.saved(b.working)
	}
}

// saveUntil tries until ctx ends; at least once.
func (b *Broker) saveUntil(ctx context.Context, ch *grantChange) error {
	for pause := saveBegin; ; pause = min(2*pause, saveMost) {
		err := b.saveOnce(context.WithoutCancel(ctx), ch)
		if err == nil || errors.Is(err, errSuperseded) || !sleep(ctx, pause) {
			return err
		}
	}
}

// saveOnce writes the change over the record that it was made for, or over what another
// one made of that meanwhile if it is still waited for.
func (b *Broker) saveOnce(ctx context.Context, ch *grantChange) error {
	var err error
	for range saveTries {
		r, s := ch.record.clone(), *ch.secrets
		ch.apply(r, &s)
		begun := time.Now()
		_, err = b.writeGrant(ctx, ch.path, ch.version, r, &s)
		if err == nil {
			b.noteGrant(ch.c, ch.subject, ch.path, r.Generation, begun)
			return nil
		}
		if reason := ReasonOf(err); reason != ReasonStoreConflict && reason != ReasonStoreAnswerLost {
			return err
		}
		found, secrets, version, readErr := b.readGrant(ctx, ch.c, ch.path)
		switch {
		case readErr != nil:
			return readErr
		case found.WriteID == r.WriteID:
			b.noteGrant(ch.c, ch.subject, ch.path, r.Generation, begun)
			return nil
		case !ch.ours(found):
			return errSuperseded
		}
		ch.record, ch.secrets, ch.version = found, secrets, version
		if !sleep(ctx, pollBegin) {
			break
		}
	}
	return err
}

func (r *grantRecord) clone() *grantRecord {
	d := *r
	d.Scopes, d.Destinations = slices.Clone(r.Scopes), slices.Clone(r.Destinations)
	if r.Lease != nil {
		l := *r.Lease
		d.Lease = &l
	}
	if r.Spending != nil {
		s := *r.Spending
		d.Spending = &s
	}
	if r.Consent != nil {
		c := *r.Consent
		c.Scopes = slices.Clone(c.Scopes)
		d.Consent = &c
	}
	return &d
}
