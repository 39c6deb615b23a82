package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	activeKey = "active-rotations"
	// maxActiveRotations keeps the record far below MaxRecordBytes.
	maxActiveRotations = 1000
	activeEvery        = 5 * time.Second
	// drivesAtOnce bounds the rotations that one replica is at work on.
	drivesAtOnce = 16
	activeTries  = 20
)

// activeRecord names the rotations that the broker goes on with by itself, so that a
// replica finds those of another one that is gone without reading all journals.
type activeRecord struct {
	header
	Rotations []activeRotation `json:"rotations"`
}

type activeRotation struct {
	ID  string `json:"id"`
	UID string `json:"uid"`
	// Rotation is the one that it is about; Begun says that its journal was written.
	Rotation string `json:"rotation"`
	Begun    bool   `json:"begun,omitempty"`
	// Account is the provider account that has room for one rotation at a time, until
	// Promoted.
	Account  string `json:"account,omitempty"`
	Promoted bool   `json:"promoted,omitempty"`
}

// rotations are those that this replica is at work on. Safe for concurrent use.
type rotations struct {
	mu sync.Mutex // guards what follows
	// due :: client id → when to look at it again
	due     map[string]time.Time
	driving map[string]bool
	// stuck :: rotation id → that somebody was told that it does not go on
	stuck map[string]bool
	// listing lets one caller of this replica at a time change the record of active
	// rotations, so that they do not race with each other.
	listing *semaphore.Weighted
}

func (b *Broker) readActive(ctx context.Context) (*activeRecord, uint64, error) {
	record, err := b.read(ctx, activeKey)
	if absent, ok := absence(err); ok {
		return &activeRecord{}, absent.Version, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the active rotations: %w", err)
	}
	r := &activeRecord{}
	if err := decode(activeKey, record, r); ReasonOf(err) == ReasonRecordCorrupt || ReasonOf(err) == ReasonRecordFieldMissing {
		// The journals are what holds: each is found again when somebody looks at it.
		b.log.ErrorContext(ctx, "the list of active rotations is damaged and made anew", "reason", ReasonOf(err), "cause", err)
		return &activeRecord{}, record.Version, nil
	} else if err != nil {
		return nil, 0, fmt.Errorf("read the active rotations: %w", err)
	}
	return r, record.Version, nil
}

// changeActive lets edit change the list, and writes it if edit says that it has.
func (b *Broker) changeActive(ctx context.Context, edit func(*activeRecord) (bool, error)) error {
	meta, err := b.meta(ctx)
	if err != nil {
		return err
	}
	if err := acquire(ctx, b.rotations.listing); err != nil {
		return err
	}
	defer b.rotations.listing.Release(1)
	for range activeTries {
		var r *activeRecord
		var version uint64
		if r, version, err = b.readActive(ctx); err != nil {
			return err
		}
		changed, editErr := edit(r)
		if editErr != nil || !changed {
			return editErr
		}
		r.UID = meta.UID
		if _, err = b.write(ctx, activeKey, version, &r.header, r); ReasonOf(err) != ReasonStoreConflict || !sleep(ctx, rand.N(2*pollBegin)) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("write the active rotations: %w", err)
	}
	return nil
}

// enlist makes a rotation one that all replicas look after: once before its journal is
// written, since a crash in between must leave no journal that nobody finds, and once
// after, since a replica may have found the journal of the one before and have taken
// it from the list.
func (b *Broker) enlist(ctx context.Context, c *Client, rotation string, begun bool) error {
	return b.changeActive(ctx, func(r *activeRecord) (bool, error) {
		i := slices.IndexFunc(r.Rotations, func(a activeRotation) bool { return a.UID == c.UID })
		if i >= 0 && r.Rotations[i].Rotation == rotation {
			changed := begun && !r.Rotations[i].Begun
			r.Rotations[i].Begun = r.Rotations[i].Begun || begun
			return changed, nil
		}
		if i >= 0 {
			r.Rotations = slices.Delete(r.Rotations, i, i+1)
		}
		if len(r.Rotations) >= maxActiveRotations {
			return false, newError(ReasonTooManyRequests, c.ID, "%d rotations are under way", len(r.Rotations))
		}
		r.Rotations = append(r.Rotations, activeRotation{ID: c.ID, UID: c.UID, Rotation: rotation, Begun: begun, Account: c.Rotation.Account})
		return true, nil
	})
}

// freeAccount lets the next rotation of c's provider account begin.
func (b *Broker) freeAccount(ctx context.Context, c *Client) error {
	return b.changeActive(ctx, func(r *activeRecord) (bool, error) {
		i := slices.IndexFunc(r.Rotations, func(a activeRotation) bool { return a.UID == c.UID && !a.Promoted })
		if i >= 0 {
			r.Rotations[i].Promoted = true
		}
		return i >= 0, nil
	})
}

// delistIfOver takes a client from the list whose rotation does not go on. The journal
// is read after the list and the list is written over what was read, so that a
// rotation that begins at this moment stays on it.
func (b *Broker) delistIfOver(ctx context.Context, a activeRotation) error {
	return b.changeActive(ctx, func(r *activeRecord) (bool, error) {
		i := slices.IndexFunc(r.Rotations, func(other activeRotation) bool { return other.UID == a.UID })
		if i < 0 {
			return false, nil
		}
		c, err := b.GetClient(ctx, a.ID)
		if err != nil && ReasonOf(err) != ReasonClientNotFound {
			return false, err
		}
		if err == nil && c.UID == a.UID {
			if journal, _, err := b.journal(ctx, c); err != nil || journal != nil && journal.goesOn() {
				return false, err
			}
		}
		r.Rotations = slices.Delete(r.Rotations, i, i+1)
		return true, nil
	})
}

// accountBusy returns how long a rotation waits because another one of its provider
// account runs, which was there first; 0 if none does.
func (run *rotationRun) accountBusy(ctx context.Context) time.Duration {
	account := run.c.Rotation.Account
	if account == "" {
		return 0
	}
	r, _, err := run.readActive(ctx)
	if err != nil {
		return activeEvery
	}
	for _, a := range r.Rotations {
		if a.Account == account && !a.Promoted {
			if a.UID == run.c.UID {
				return 0
			}
			return activeEvery
		}
	}
	return 0
}

// rotate goes on with all active rotations, until ctx ends. Steps that were begun by then
// belong to the Broker: Drain and Close wait for them.
func (b *Broker) rotate(ctx context.Context) {
	slots := make(chan struct{}, drivesAtOnce)
	for ; ctx.Err() == nil; sleep(ctx, activeEvery*9/10+rand.N(activeEvery/5)) {
		record, _, err := b.readActive(ctx)
		if err != nil {
			continue
		}
		for _, a := range record.Rotations {
			if !b.rotations.begin(a.ID, time.Now()) {
				continue
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				b.rotations.end(a.ID, time.Time{})
				return
			}
			begun := b.beside(func() {
				defer func() { <-slots }()
				b.driveOne(a)
			})
			if !begun {
				b.rotations.end(a.ID, time.Time{})
				return
			}
		}
	}
}

// kick goes on with a rotation at once; Run takes it up where this replica leaves it.
func (b *Broker) kick(c *Client) {
	if !b.rotations.begin(c.ID, time.Time{}) {
		return
	}
	if !b.beside(func() { b.driveOne(activeRotation{ID: c.ID, UID: c.UID}) }) {
		b.rotations.end(c.ID, time.Time{})
	}
}

// driveOne goes on with a rotation on a context that outlives the wish to stop: what is
// begun at a provider must come to its end. Steps after that are another replica's.
func (b *Broker) driveOne(a activeRotation) {
	ctx := b.working
	var next time.Time
	defer func() { b.rotations.end(a.ID, next) }()
	_ = b.guarded(ctx, func() error {
		next = time.Now().Add(activeEvery) // unless it says better
		var err error
		next, err = b.drive(ctx, a.ID)
		if err != nil && b.stopping.Err() == nil {
			b.log.WarnContext(ctx, "rotation does not go on", "client", a.ID, "reason", ReasonOf(err), "cause", err)
		}
		if next.IsZero() {
			return b.delistIfOver(ctx, a)
		}
		return nil
	}) // guarded logs a panic; what delisting says is found again
}

// takenUp reports whether this replica knows when to go on with a client's rotation.
func (r *rotations) takenUp(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.driving[id] || !r.due[id].IsZero()
}

// begin reports whether the caller is the one to go on with a client's rotation at now;
// a zero now means whenever it is due.
func (r *rotations) begin(id string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.driving[id] || !now.IsZero() && now.Before(r.due[id]) {
		return false
	}
	if r.driving == nil {
		r.driving, r.due = map[string]bool{}, map[string]time.Time{}
	}
	r.driving[id] = true
	return true
}

func (r *rotations) end(id string, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.driving, id)
	if next.IsZero() {
		delete(r.due, id)
	} else {
		r.due[id] = next
	}
}
