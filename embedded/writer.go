package embedded

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/broker"
)

// maxBatch bounds how many changes one commit takes, and so how long the first of
// them waits for the others to be applied.
const maxBatch = 128

// change is one write or, with sealed nil, one destruction.
type change struct {
	op, key string
	// version must be there for a write to take place.
	version uint64
	sealed  []byte
	// err is the outcome; to be read when done is closed.
	err  error
	done chan struct{}
}

// submit hands the change to the writer and waits for its outcome. Until the
// writer has taken it, an ended context takes it back; afterwards nobody can.
func (s *Store) submit(ctx context.Context, c *change) error {
	c.done = make(chan struct{})
	select {
	case s.changes <- c:
	case <-ctx.Done():
		return unanswered(c.op, c.key, ctx.Err())
	case <-s.closing:
		return named(c.op, c.key, errClosed)
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		// A commit takes milliseconds, but a disk may hang for as long as it likes.
		return &broker.Error{Reason: broker.ReasonStoreAnswerLost, Op: c.op, Detail: c.key, Err: ctx.Err()}
	}
}

// write applies the changes, all that wait at a time, until Close. bbolt's own
// Batch would have a lone writer wait 10 ms for company that does not come; here
// the company is what has arrived during the commit before.
func (s *Store) write() {
	defer close(s.written)
	debug.SetPanicOnFault(true) // see shielded; for this goroutine only
	for {
		select {
		case c := <-s.changes:
			s.commit(s.gather(c))
		case <-s.closing:
			return
		}
	}
}

// gather returns first and what waits beside it.
func (s *Store) gather(first *change) []*change {
	batch := []*change{first}
	for len(batch) < maxBatch {
		select {
		case c := <-s.changes:
			batch = append(batch, c)
		default:
			return batch
		}
	}
	return batch
}

// commit applies the changes in one transaction and tells their callers.
func (s *Store) commit(batch []*change) {
	if err := s.apply(batch); err != nil {
		for _, c := range batch {
			// Also for those that conflicted: they did so with what is void now. To each
			// an error of its own, since errors are completed on their way up.
			own := *broker.AsError(err)
			own.Op, own.Detail = c.op, strings.TrimSuffix(c.key+": "+own.Detail, ": ")
			c.err = &own
		}
	}
	for _, c := range batch {
		close(c.done)
	}
}

// apply sets the outcome of each change, or returns the error of all.
func (s *Store) apply(batch []*change) error {
	const op = "commit"
	if err := s.usable(op); err != nil {
		return err
	}
	var (
		tx        *bbolt.Tx
		id        int
		committed bool
	)
	head := s.head
	err := shielded(func() (err error) {
		if tx, err = s.db.Begin(true); err != nil {
			return err
		}
		id = tx.ID()
		// Without it, a panic would leave the database locked for good.
		defer func() { _ = tx.Rollback() }() // harmless after Commit
		b := &batchTx{tx: tx, tallier: newTallier(s.sealer), head: &head}
		changed := false
		for _, c := range batch {
			did, err := b.apply(c)
			if err != nil {
				return err
			}
			changed = changed || did
		}
		if !changed {
			return nil
		}
		if err := b.tx.Bucket(bucketAbout).Put(aboutHead, s.sealer.seal(purposeHead, 0, head[:])); err != nil {
			return err
		}
		committed = true
		return tx.Commit()
	})
	if err == nil {
		s.head = head
		return nil
	}
	if !committed {
		return named(op, "", err)
	}
	return s.commitFailed(id, err)
}

// commitFailed finds out what a failed commit has done. bbolt writes the pages of
// a transaction first and its head last. If the head that is in effect is older
// than the transaction, then nothing has changed and the next commit may succeed:
// the disk was full. If it is the transaction's, or cannot be told, then the state
// on the disk is unknown: to go on might build on pages that a crash takes away.
func (s *Store) commitFailed(id int, cause error) error {
	var inEffect int
	err := shielded(func() error {
		return s.db.View(func(tx *bbolt.Tx) error { inEffect = tx.ID(); return nil })
	})
	var damaged damageError
	if err == nil && inEffect < id && !errors.As(cause, &damaged) {
		return named("commit", "", cause)
	}
	s.mu.Lock()
	s.broken = cause
	s.mu.Unlock()
	return &broker.Error{Reason: broker.ReasonStoreAnswerLost, Op: "commit", Err: cause}
}

// batchTx applies changes to one transaction.
type batchTx struct {
	tx      *bbolt.Tx
	tallier *tallier
	head    *tally
}

// apply reports whether the change has an effect. A change that must not take
// place gets its outcome before anything is touched; an error voids the batch.
func (b *batchTx) apply(c *change) (bool, error) {
	names, values := b.tx.Bucket(bucketNames), b.tx.Bucket(bucketValues)
	var found entry
	before := names.Get([]byte(c.key))
	if before != nil {
		var err error
		if found, err = decodeEntry(before); err != nil {
			return false, err
		}
	}
	next := found
	if c.sealed == nil {
		if before == nil || !found.destroyed.IsZero() {
			return false, nil
		}
		next.destroyed = time.Now()
		if err := values.Delete(found.valueKey()); err != nil {
			return false, err
		}
	} else {
		if found.version != c.version {
			c.err = &broker.Error{
				Reason: broker.ReasonStoreConflict, Op: c.op,
				Detail: fmt.Sprintf("%s has version %d, not %d", c.key, found.version, c.version),
			}
			return false, nil
		}
		if before == nil {
			number, err := values.NextSequence()
			if err != nil {
				return false, err
			}
			next.number = number
		}
		next.version, next.destroyed = c.version+1, time.Time{}
		if err := values.Put(next.valueKey(), c.sealed); err != nil {
			return false, err
		}
	}
	after := next.encode()
	if before != nil {
		b.tallier.toggle(b.head, []byte(c.key), before)
	}
	b.tallier.toggle(b.head, []byte(c.key), after)
	return true, names.Put([]byte(c.key), after)
}
