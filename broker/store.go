package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Store keeps small JSON objects under slash-separated keys. It is the only
// durable thing the broker has. All methods are safe for concurrent use, keep no
// reference to what they are given, honour the context, and return *[Error] with a
// STORE_ or RECORD_ reason, DEADLINE_EXCEEDED when the context ended before
// anything was sent, or INVALID_REQUEST for a key or data that no store takes.
//
// Keys are made by this package: segments of [a-z0-9._-], none of them "." or
// "..", so that an adapter may use them as a path.
type Store interface {
	// Read returns the latest record at key. It must see every write that has
	// returned before. A key that holds nothing is an error that unwraps to
	// *[AbsentError]; a value that is not one JSON object is RECORD_CORRUPT.
	Read(ctx context.Context, key string) (Record, error)

	// ReadLatest is Read, except that it returns what was written last also under
	// "secrets/": what a person wrote over a value by hand. It tells nothing about
	// whether that may be used.
	ReadLatest(ctx context.Context, key string) (Record, error)

	// Write puts data, one JSON object of at most [MaxRecordBytes], at key if the
	// record there still has the given version; 0 means that nothing was ever
	// there. It returns the new version, greater than the old one.
	//
	// Numbers in data survive to the digit. A key under "secrets/" is written once;
	// a store may go on returning its first value whatever is written after.
	//
	// STORE_CONFLICT: somebody else wrote; nothing has changed by this call.
	// STORE_STANDBY: the node lags behind; nothing has changed either.
	// STORE_ANSWER_LOST: the write may or may not have taken effect. A store never
	// repeats a write by itself; this package finds out by the record's write_id.
	Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error)

	// Destroy removes the values at key for good and leaves a mark, so that a
	// later Read says AbsentDestroyed and a later Write with version 0 conflicts.
	// It is not check-and-set: callers fence it by a write to another record.
	// Destroying what is destroyed or absent succeeds. STORE_ANSWER_LOST as with
	// Write; repeating it is harmless.
	Destroy(ctx context.Context, key string) error

	// List returns the names directly under prefix ("" or ending in "/"), sorted;
	// a name that ends in "/" has more below it. A prefix that holds nothing is an
	// empty list. Marks left by Destroy may be listed.
	List(ctx context.Context, prefix string) ([]string, error)
}

// Record is what a [Store] holds under one key.
type Record struct {
	// Data is one JSON object. It is a secret.Value because some records hold secrets.
	Data secret.Value
	// Version grows with each write of this key, starting at 1.
	Version uint64
}

// Bounds on what the broker stores, checked before anything is sent to a store:
// Vault answers a value over 1 MiB with a bare 500.
const (
	// MaxRecordBytes bounds one record, encoded.
	MaxRecordBytes = 256 << 10
	// MaxSecretBytes bounds one client secret or private key.
	MaxSecretBytes = 64 << 10
	// MaxTokenBytes bounds one access token.
	MaxTokenBytes = 64 << 10
)

// Absence says why a key holds nothing.
type Absence int

// The ways in which a record can be absent.
const (
	// AbsentNeverExisted: nothing was ever written there, or all trace of it is gone.
	AbsentNeverExisted Absence = iota
	// AbsentDeleted: somebody soft-deleted it; the store can bring it back.
	AbsentDeleted
	// AbsentDestroyed: its value is gone for good.
	AbsentDestroyed
	// AbsentPruned: later versions, written behind our back, pushed it out.
	AbsentPruned
)

// String returns "never existed", "deleted", "destroyed" or "pruned".
func (a Absence) String() string {
	return [...]string{"never existed", "deleted", "destroyed", "pruned"}[a]
}

// AbsentError is what an [Error] of [Store].Read wraps when a key holds nothing.
type AbsentError struct {
	// Key is the store's key.
	Key string
	// How says why there is nothing.
	How Absence
	// Time is when it was deleted; zero where the store does not say.
	Time time.Time
	// Version is the version that a Write must name to put something here again; 0
	// if nothing was ever there, and above 0 for everything else.
	Version uint64
}

// Error names the key and how it came to be absent.
func (e *AbsentError) Error() string {
	if e.Time.IsZero() {
		return fmt.Sprintf("%s: %s", e.Key, e.How)
	}
	return fmt.Sprintf("%s: %s at %s", e.Key, e.How, e.Time.UTC().Format(time.RFC3339))
}

// Absent returns the error with which a [Store] says that key holds nothing.
func Absent(key string, how Absence, at time.Time, version uint64) error {
	reason := [...]Reason{ReasonRecordAbsent, ReasonRecordDeleted, ReasonRecordDestroyed, ReasonRecordPruned}[how]
	return &Error{Reason: reason, Op: "read record", Err: &AbsentError{Key: key, How: how, Time: at, Version: version}}
}
