package embedded

import "go.etcd.io/bbolt"

// What the tests reach for behind the API.
var (
	ParseKey  = parseKey
	FormatKey = formatKey
	Inspect   = inspect
)

// The bytes of a key, and the buckets of a store.
const KeySize = keySize

var (
	BucketAbout  = bucketAbout
	BucketNames  = bucketNames
	BucketValues = bucketValues
	AboutFormat  = aboutFormat
	AboutHead    = aboutHead
)

// HoldCommits keeps the writer from committing what it has taken.
func (s *Store) HoldCommits() (release func(), err error) {
	tx, err := s.db.Begin(true)
	if err != nil {
		return nil, err
	}
	return func() { _ = tx.Rollback() }, nil
}

// DB returns the database.
func (s *Store) DB() *bbolt.DB { return s.db }

// CommitFailed is what the writer does when the commit of transaction id failed.
func (s *Store) CommitFailed(id int, cause error) error { return s.commitFailed(id, cause) }
