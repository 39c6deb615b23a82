package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// lockTimeout is how long Open waits for another process to close the file: long
// enough for a predecessor that is just ending, short enough for a person.
const lockTimeout = time.Second

// The buckets, and the keys of the bucket "about".
var (
	bucketAbout  = []byte("about")
	bucketNames  = []byte("names")
	bucketValues = []byte("values")

	aboutFormat = []byte("format")
	aboutHead   = []byte("head")
)

// storeFormat is the value of aboutFormat: a product and the number of a release
// of the format.
const (
	storeProduct = "tokenbroker store v"
	storeFormat  = storeProduct + "1"
)

// Config says where a store is.
type Config struct {
	// File is the path of the store's file. Required.
	File string
	// KeyFile is the path of its key file, which only its owner may read; "" takes
	// File with ".key" appended.
	KeyFile string
	// Create makes what is missing of file, key file and their folders, but never a
	// new key for a file that exists. Without it, a missing file is an error.
	Create bool
}

func (c Config) keyFile() string {
	if c.KeyFile != "" {
		return c.KeyFile
	}
	return c.File + ".key"
}

// Open opens the store for this process alone, until [Store.Close]. Before it
// does, it reads the whole file and refuses one that is damaged; that takes about
// a second for each gigabyte. The file is not changed by opening it.
//
// Its errors are *broker.Error: STORE_KEY_WRONG for a key file that is missing,
// malformed, open to others than its owner, or another store's; STORE_LOCKED while
// another process, or another Store of this one, has the file open;
// STORE_DAMAGED; RECORD_SCHEMA_NEWER for a file of a newer release; STORE_FAILED
// for anything else, such as a missing file (unwraps to fs.ErrNotExist).
func Open(config Config) (*Store, error) {
	if config.File == "" {
		return nil, &broker.Error{Reason: broker.ReasonStoreFailed, Op: "open store", Detail: "no file is configured"}
	}
	if config.Create {
		if err := create(config); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(config.File); err != nil {
		return nil, &broker.Error{Reason: broker.ReasonStoreFailed, Op: "open store", Err: err}
	}
	key, err := readKey(config.keyFile())
	if err != nil {
		return nil, err
	}
	if err := inspectFile(config.File); err != nil {
		return nil, openError(config.File, err)
	}
	db, err := openBolt(config.File, false)
	if err != nil {
		return nil, openError(config.File, err)
	}
	s := newStore(db, newSealer(key))
	if err := shielded(s.load); err != nil {
		_ = db.Close()
		return nil, openError(config.File, err)
	}
	go s.write()
	return s, nil
}

// create makes what is missing. The key comes first: a store without its key
// would be lost, a key without its store is used when Open is called again.
func create(config Config) error {
	failed := func(err error) error {
		return &broker.Error{Reason: broker.ReasonStoreFailed, Op: "create store", Err: err}
	}
	for _, path := range []string{config.File, config.keyFile()} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return failed(err)
		}
	}
	if _, err := os.Stat(config.File); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return nil // Open tells what is wrong with it, if anything is
	}
	key, err := readKey(config.keyFile())
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(config.keyFile()); err != nil {
			return failed(err)
		}
		key, err = readKey(config.keyFile()) // perhaps that of another process
	}
	if err != nil {
		return err
	}
	if err := place(config.File, func(f *os.File) error { return createBolt(f.Name(), key) }); err != nil {
		return failed(err)
	}
	return nil
}

// createBolt makes an empty store of the empty file at path.
func createBolt(path string, key secret.Value) error {
	db, err := bbolt.Open(path, 0o600, boltOptions(false))
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		about, err := tx.CreateBucket(bucketAbout)
		if err != nil {
			return err
		}
		_, errNames := tx.CreateBucket(bucketNames)
		_, errValues := tx.CreateBucket(bucketValues)
		var empty tally
		return errors.Join(errNames, errValues,
			about.Put(aboutFormat, []byte(storeFormat)),
			about.Put(aboutHead, newSealer(key).seal(purposeHead, 0, empty[:])))
	})
	return errors.Join(err, db.Close())
}

func boltOptions(readOnly bool) *bbolt.Options {
	return &bbolt.Options{
		Timeout:      lockTimeout,
		ReadOnly:     readOnly,
		FreelistType: bbolt.FreelistMapType, // constant time where many pages are free
		NoStatistics: true,
		// Another bbolt option would make a missing or empty file a new store.
		OpenFile: func(path string, flag int, mode os.FileMode) (*os.File, error) {
			return os.OpenFile(path, flag&^os.O_CREATE, mode)
		},
	}
}

// inspectFile holds off writers and inspects the file before bbolt reads it.
func inspectFile(path string) error {
	f, info, err := openRegular(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	// bbolt reads the heads before it has an error type for what is wrong with them.
	// Nothing is locked yet; but of two heads a writer changes one.
	if _, err := newestMeta(f, info.Size()); err != nil {
		return err
	}
	lock, err := openBolt(path, true)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if info, err = f.Stat(); err != nil { // it may have grown until the lock was had
		return err
	}
	return inspect(f, info.Size())
}

// openBolt opens the file of a database; when only for reading, it reads no more
// of it than the two heads.
func openBolt(path string, readOnly bool) (db *bbolt.DB, err error) {
	err = shielded(func() error {
		db, err = bbolt.Open(path, 0o600, boltOptions(readOnly))
		return err
	})
	return db, err
}

// openError names the cause of a failure to open the file.
func openError(path string, err error) error {
	e := &broker.Error{Reason: broker.ReasonStoreFailed, Op: "open store", Detail: path, Err: err}
	var damaged damageError
	var named *broker.Error
	switch {
	case errors.As(err, &named):
		return err
	case errors.As(err, &damaged),
		errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		e.Reason = broker.ReasonStoreDamaged
	case errors.Is(err, errOtherKey):
		e.Reason = broker.ReasonStoreKeyWrong
	case errors.Is(err, bolterrors.ErrTimeout):
		e.Reason = broker.ReasonStoreLocked
	}
	return e
}

// load checks that the file is a store of this release and key, and that its
// names are those of the last commit.
func (s *Store) load() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		about, names, values := tx.Bucket(bucketAbout), tx.Bucket(bucketNames), tx.Bucket(bucketValues)
		if about == nil || names == nil || values == nil {
			return damage("it is a bbolt file, but not a store of the broker")
		}
		if err := checkFormat(string(about.Get(aboutFormat))); err != nil {
			return err
		}
		head, err := s.sealer.open(purposeHead, 0, about.Get(aboutHead))
		if errors.Is(err, errOtherKey) {
			return fmt.Errorf("the key file has key %s: %w", s.sealer.id, err)
		}
		if err != nil || len(head) != len(tally{}) {
			return damage("its head does not open with the right key")
		}
		var sum tally
		tallier := newTallier(s.sealer)
		err = names.ForEach(func(name, encoded []byte) error {
			if _, err := decodeEntry(encoded); err != nil {
				return damage("%v", err)
			}
			tallier.toggle(&sum, name, encoded)
			return nil
		})
		if err != nil {
			return err
		}
		if sum != tally(head) {
			return damage("its names are not those of the last commit")
		}
		s.head = sum
		return nil
	})
}

// checkFormat tells a newer release's format from none at all.
func checkFormat(format string) error {
	if format == storeFormat {
		return nil
	}
	number, ok := strings.CutPrefix(format, storeProduct)
	if _, err := strconv.ParseUint(number, 10, 16); !ok || err != nil {
		return damage("it does not say which format it has")
	}
	return &broker.Error{
		Reason: broker.ReasonRecordSchemaNewer, Op: "open store",
		Detail: fmt.Sprintf("its format is %q, this release knows %q", format, storeFormat),
	}
}

// shielded turns a panic of do into an error, also that of a page that cannot be
// read: bbolt maps the file, and a disk that fails would end the process.
func shielded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damage("reading it failed: %v", p)
		}
	}()
	return do()
}
