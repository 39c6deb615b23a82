package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Store is a [broker.Store] in one file. It is safe for concurrent use; make one
// with [Open] and end it with [Store.Close].
//
// Reads do not wait for writes. Writes that arrive together are committed
// together, so that one writer waits for one fsync and sixteen do not wait for
// sixteen. Every write is on the disk when it returns.
//
// Besides the reasons that broker.Store names: a context that has ended is
// DEADLINE_EXCEEDED before the write is taken up, and STORE_ANSWER_LOST while it
// is being committed; a value that does not open is RECORD_CORRUPT; a page that
// cannot be read is STORE_DAMAGED; STORE_FAILED means that nothing was changed,
// except after a commit of unknown outcome, which fails all further calls until
// the store is opened again.
type Store struct {
	db     *bbolt.DB
	sealer *sealer

	changes chan *change
	closing chan struct{} // closed by Close
	written chan struct{} // closed when the writer has ended
	close   sync.Once

	// head is the tally of the last commit; the writer's own.
	head tally

	mu sync.Mutex
	// broken guards against a database in an unknown state; see commitFailed.
	broken error
}

var _ broker.Store = (*Store)(nil)

func newStore(db *bbolt.DB, s *sealer) *Store {
	return &Store{
		db: db, sealer: s,
		changes: make(chan *change), closing: make(chan struct{}), written: make(chan struct{}),
	}
}

// Close waits for the calls in progress and releases the file. Later calls fail.
// Closing twice is harmless.
func (s *Store) Close() error {
	var err error
	s.close.Do(func() {
		close(s.closing)
		<-s.written
		err = s.db.Close()
	})
	return err
}

// Read implements [broker.Store].
func (s *Store) Read(ctx context.Context, key string) (record broker.Record, err error) {
	const op = "read record"
	if err := ready(ctx, op, key); err != nil {
		return broker.Record{}, err
	}
	err = s.view(op, key, func(tx *bbolt.Tx) error {
		encoded := tx.Bucket(bucketNames).Get([]byte(key))
		if encoded == nil {
			return broker.Absent(key, broker.AbsentNeverExisted, time.Time{}, 0)
		}
		found, err := decodeEntry(encoded)
		if err != nil {
			return err
		}
		if !found.destroyed.IsZero() {
			return broker.Absent(key, broker.AbsentDestroyed, found.destroyed, found.version)
		}
		plain, err := s.sealer.open(purposeRecord+key, found.version, tx.Bucket(bucketValues).Get(found.valueKey()))
		if err != nil {
			return &broker.Error{Reason: broker.ReasonRecordCorrupt, Op: op, Detail: key, Err: err}
		}
		record = broker.Record{Data: secret.New(plain), Version: found.version}
		clear(plain)
		return nil
	})
	return record, err
}

// ReadLatest implements [broker.Store]. There is only one value at a key.
func (s *Store) ReadLatest(ctx context.Context, key string) (broker.Record, error) {
	return s.Read(ctx, key)
}

// Write implements [broker.Store].
func (s *Store) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	const op = "write record"
	if err := ready(ctx, op, key); err != nil {
		return 0, err
	}
	if err := checkRecord(data.Reveal()); err != nil {
		return 0, err
	}
	// Sealed here and not by the writer: callers seal side by side, and nothing
	// of data is used after this call has returned.
	next := version + 1
	sealed := s.sealer.seal(purposeRecord+key, next, data.Reveal())
	if err := s.submit(ctx, &change{op: op, key: key, version: version, sealed: sealed}); err != nil {
		return 0, err
	}
	return next, nil
}

// Destroy implements [broker.Store]. The package documentation says what remains
// in the file.
func (s *Store) Destroy(ctx context.Context, key string) error {
	const op = "destroy record"
	if err := ready(ctx, op, key); err != nil {
		return err
	}
	return s.submit(ctx, &change{op: op, key: key})
}

// List implements [broker.Store]. Marks left by Destroy are listed.
func (s *Store) List(ctx context.Context, prefix string) (names []string, err error) {
	const op = "list records"
	if folder, ok := strings.CutSuffix(prefix, "/"); prefix != "" && (!ok || !validKey(folder)) {
		return nil, malformed(op, prefix)
	}
	if err := ctx.Err(); err != nil {
		return nil, unanswered(op, prefix, err)
	}
	err = s.view(op, prefix, func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketNames).Cursor()
		name, _ := cursor.Seek([]byte(prefix))
		for name != nil && bytes.HasPrefix(name, []byte(prefix)) {
			if err := ctx.Err(); err != nil {
				return unanswered(op, prefix, err)
			}
			rest := string(name[len(prefix):])
			if folder, _, below := strings.Cut(rest, "/"); below {
				names = append(names, folder+"/")
				const afterSlash = string('/' + 1)
				name, _ = cursor.Seek([]byte(prefix + folder + afterSlash)) // past all that is in it
				continue
			}
			names = append(names, rest)
			name, _ = cursor.Next()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return names, nil // sorted, as the keys are: "a/" stands where "a/..." does
}

// ready returns the error of a call that must not begin.
func ready(ctx context.Context, op, key string) error {
	if !validKey(key) {
		return malformed(op, key)
	}
	if err := ctx.Err(); err != nil {
		return unanswered(op, key, err)
	}
	return nil
}

// view runs do in a read transaction and names the cause of its failure.
func (s *Store) view(op, key string, do func(*bbolt.Tx) error) error {
	if err := s.usable(op); err != nil {
		return err
	}
	return named(op, key, shielded(func() error { return s.db.View(do) }))
}

// usable returns the error of a store whose state is unknown.
func (s *Store) usable(op string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		return nil
	}
	return &broker.Error{Reason: broker.ReasonStoreFailed, Op: op, Detail: "a commit failed halfway; start again", Err: s.broken}
}

// named makes a *broker.Error of err, unless it is one.
func named(op, key string, err error) error {
	if err == nil {
		return nil
	}
	e := &broker.Error{Reason: broker.ReasonStoreFailed, Op: op, Detail: key, Err: err}
	var already *broker.Error
	var damaged damageError
	switch {
	case errors.As(err, &already):
		return err
	case errors.As(err, &damaged), errors.Is(err, errEntry):
		e.Reason = broker.ReasonStoreDamaged
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		e.Err = errClosed
	}
	return e
}

// errClosed is what calls after Close fail with.
var errClosed = fmt.Errorf("the store is closed: %w", fs.ErrClosed)

// unanswered is the error of a call whose context ended before it took effect.
func unanswered(op, key string, cause error) error {
	return &broker.Error{Reason: broker.ReasonDeadlineExceeded, Op: op, Detail: key, Err: cause}
}

// malformed is the error of a key that package broker would never make.
func malformed(op, key string) error {
	return &broker.Error{Reason: broker.ReasonInternal, Op: op, Detail: fmt.Sprintf("malformed key %.200q", key)}
}

// maxKey is far below bbolt's bound of 32 KiB and above every key of package broker.
const maxKey = 1024

// validKey reports whether key is what [broker.Store] says of keys.
func validKey(key string) bool {
	if len(key) > maxKey {
		return false
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
		if strings.Trim(segment, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			return false
		}
	}
	return true
}

// checkRecord refuses what the broker must not have made. Its errors never quote
// the data.
func checkRecord(data []byte) error {
	start := bytes.TrimLeft(data, " \t\r\n")
	switch {
	case len(data) > broker.MaxRecordBytes:
		return broker.Invalid("record", "has %d bytes; at most %d are stored", len(data), broker.MaxRecordBytes)
	case len(start) == 0 || start[0] != '{' || !json.Valid(data):
		return broker.Invalid("record", "is not one JSON object")
	case !utf8.Valid(data):
		return broker.Invalid("record", "is not UTF-8")
	default:
		return nil
	}
}
