package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	"github.com/tokenbroker/tokenbroker/broker"
)

// bbolt trusts its pages: a damaged one makes it panic, read outside of its
// mapping, or, worse, take a page that is in use for a free one and write over
// it. Therefore each page is inspected here, through bounds-checked slices, before
// bbolt sees the file. The layout is that of bbolt's format version 2.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf's element

	pageHeader   = 16 // id uint64, flags uint16, count uint16, overflow uint32
	elementSize  = 16 // branch: pos, ksize uint32, page uint64; leaf: flags, pos, ksize, vsize uint32
	bucketHeader = 16 // root page uint64, sequence uint64
	metaSize     = 64

	minPageSize, maxPageSize = 1 << 10, 1 << 16
	// maxDepth is far above what 2^48 bytes of pages could need.
	maxDepth = 64
	// maxNode is above what bbolt puts on one page of a tree: up to four records
	// of the largest size. It keeps a damaged length from being read into memory.
	maxNode = 8 * broker.MaxRecordBytes
)

// bolt writes in the byte order of the machine.
var order = binary.NativeEndian

// damageError says what is wrong with a file. It quotes nothing of the content.
type damageError string

func (e damageError) Error() string { return string(e) }

func damage(format string, args ...any) error { return damageError(fmt.Sprintf(format, args...)) }

// boltMeta is one of the two heads of a bbolt file.
type boltMeta struct {
	pageSize                    int
	root, freelist, pages, txid uint64
}

// inspector walks through a file and notes which pages are in use.
type inspector struct {
	file io.ReaderAt
	meta boltMeta
	used []uint64 // a bit for each page
	// room is for how many elements there still can be. Buckets within values
	// could be laid over each other so that they never end.
	room uint64
}

// inspect returns what is wrong with the bbolt file of that size. It changes
// nothing. The file must not be written meanwhile.
func inspect(file io.ReaderAt, size int64) error {
	meta, err := newestMeta(file, size)
	if err != nil {
		return err
	}
	if meta.pages < 4 || meta.pages > uint64(size)/uint64(meta.pageSize) {
		return damage("it has %d bytes but should have %d pages of %d: it is truncated", size, meta.pages, meta.pageSize)
	}
	in := &inspector{file: file, meta: meta, used: make([]uint64, meta.pages/64+1)}
	in.room = meta.pages * uint64(meta.pageSize) / elementSize
	in.used[0] = 0b11 // the metas
	if err := in.tree(meta.root, nil, nil, 0); err != nil {
		return err
	}
	if err := in.freelist(); err != nil {
		return err
	}
	for id := range meta.pages {
		if !in.isUsed(id) {
			return damage("page %d is neither in use nor free", id)
		}
	}
	return nil
}

// newestMeta returns the head that bbolt would use.
func newestMeta(file io.ReaderAt, size int64) (boltMeta, error) {
	if size < 2*minPageSize {
		return boltMeta{}, damage("it has %d bytes, fewer than any store", size)
	}
	var (
		found boltMeta
		known bool
	)
	take := func(at int64) error {
		b := make([]byte, pageHeader+metaSize)
		if _, err := file.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		meta, ok := parseMeta(b[pageHeader:])
		// The second head lies one page behind the first.
		if ok && (at == 0 || at == int64(meta.pageSize)) && (!known || meta.txid > found.txid) {
			found, known = meta, true
		}
		return nil
	}
	if err := take(0); err != nil {
		return boltMeta{}, err
	}
	first := int64(found.pageSize)
	for at := int64(minPageSize); at <= maxPageSize && at < size; at *= 2 {
		if first != 0 && at != first {
			continue
		}
		if err := take(at); err != nil {
			return boltMeta{}, err
		}
	}
	if !known {
		return boltMeta{}, damage("it does not begin like a store")
	}
	if size < 2*int64(found.pageSize) {
		return boltMeta{}, damage("it has %d bytes, fewer than two pages of %d: it is truncated", size, found.pageSize)
	}
	return found, nil
}

func parseMeta(b []byte) (boltMeta, bool) {
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	if order.Uint32(b) != boltMagic || order.Uint32(b[4:]) != boltVersion || order.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return boltMeta{}, false
	}
	pageSize := order.Uint32(b[8:])
	if pageSize < minPageSize || pageSize > maxPageSize || pageSize&(pageSize-1) != 0 {
		return boltMeta{}, false
	}
	return boltMeta{
		pageSize: int(pageSize), root: order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]), pages: order.Uint64(b[40:]), txid: order.Uint64(b[48:]),
	}, true
}

func (in *inspector) isUsed(id uint64) bool { return in.used[id/64]&(1<<(id%64)) != 0 }

// claim notes that pages are in use, which no page may be twice.
func (in *inspector) claim(id, count uint64) error {
	if id < 2 || id >= in.meta.pages || count > in.meta.pages-id {
		return damage("page %d (and %d behind it) is outside of the file's %d pages", id, count-1, in.meta.pages)
	}
	for ; count > 0; count-- {
		if in.isUsed(id) {
			return damage("page %d is in use twice", id)
		}
		in.used[id/64] |= 1 << (id % 64)
		id++
	}
	return nil
}

// page reads and claims a page with all that overflows from it, at most limit bytes.
func (in *inspector) page(id, limit uint64) ([]byte, error) {
	if id < 2 || id >= in.meta.pages {
		return nil, damage("page %d is outside of the file's %d pages", id, in.meta.pages)
	}
	b := make([]byte, in.meta.pageSize)
	at := int64(id) * int64(in.meta.pageSize)
	if _, err := in.file.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	if order.Uint64(b) != id {
		return nil, damage("page %d calls itself %d", id, order.Uint64(b))
	}
	count := 1 + uint64(order.Uint32(b[12:]))
	if err := in.claim(id, count); err != nil {
		return nil, err
	}
	if count*uint64(in.meta.pageSize) > limit {
		return nil, damage("page %d has %d pages behind it, more than it could need", id, count-1)
	}
	if count > 1 {
		rest := make([]byte, (count-1)*uint64(in.meta.pageSize))
		if _, err := in.file.ReadAt(rest, at+int64(in.meta.pageSize)); err != nil {
			return nil, fmt.Errorf("read page %d: %w", id, err)
		}
		b = append(b, rest...)
	}
	return b, nil
}

// tree inspects the page and all below it. Its keys must be ascending, not below
// low, and below high unless that is nil.
func (in *inspector) tree(id uint64, low, high []byte, depth int) error {
	if depth > maxDepth {
		return damage("page %d lies %d levels deep", id, depth)
	}
	b, err := in.page(id, maxNode)
	if err != nil {
		return err
	}
	switch flags := order.Uint16(b[8:]); flags {
	case flagBranch:
		return in.branch(id, b, low, high, depth)
	case flagLeaf:
		return in.leaf(id, b, low, high, depth)
	default:
		return damage("page %d has flags %#x where a branch or leaf should be", id, flags)
	}
}

func (in *inspector) branch(id uint64, b, low, high []byte, depth int) error {
	count := int(order.Uint16(b[10:]))
	if count == 0 || pageHeader+count*elementSize > len(b) {
		return damage("page %d cannot have %d branches", id, count)
	}
	keys := make([][]byte, count+1)
	children := make([]uint64, count)
	for i := range count {
		at := pageHeader + i*elementSize
		element := b[at : at+elementSize]
		key, _, err := span(b, at, order.Uint32(element), order.Uint32(element[4:]), 0)
		if err != nil || !ascending(i, low, key, high) {
			return damage("branch %d of page %d has no key in its place", i, id)
		}
		keys[i], children[i], low = key, order.Uint64(element[8:]), key
	}
	keys[count] = high
	for i, child := range children {
		if err := in.tree(child, keys[i], keys[i+1], depth+1); err != nil {
			return err
		}
	}
	return nil
}

// leaf also inspects the small buckets that lie within a value: id is then the
// page around them.
func (in *inspector) leaf(id uint64, b, low, high []byte, depth int) error {
	if len(b) < pageHeader || order.Uint16(b[8:]) != flagLeaf {
		return damage("a bucket within page %d is not a leaf", id)
	}
	count := int(order.Uint16(b[10:]))
	if pageHeader+count*elementSize > len(b) || uint64(count) > in.room {
		return damage("page %d cannot have %d elements", id, count)
	}
	in.room -= uint64(count)
	for i := range count {
		at := pageHeader + i*elementSize
		element := b[at : at+elementSize]
		key, value, err := span(b, at, order.Uint32(element[4:]), order.Uint32(element[8:]), order.Uint32(element[12:]))
		if err != nil || !ascending(i, low, key, high) {
			return damage("element %d of page %d has no key in its place", i, id)
		}
		low = key
		switch order.Uint32(element) {
		case 0:
		case flagBucket:
			if err := in.bucket(id, value, depth); err != nil {
				return err
			}
		default:
			return damage("element %d of page %d is of an unknown kind", i, id)
		}
	}
	return nil
}

func (in *inspector) bucket(id uint64, value []byte, depth int) error {
	if len(value) < bucketHeader || depth >= maxDepth {
		return damage("a bucket in page %d is not whole", id)
	}
	if root := order.Uint64(value); root != 0 {
		return in.tree(root, nil, nil, depth+1)
	}
	return in.leaf(id, value[bucketHeader:], nil, nil, depth+1)
}

// freelist claims the pages of the list and those on it.
func (in *inspector) freelist() error {
	id := in.meta.freelist
	b, err := in.page(id, 8*in.meta.pages+2*uint64(in.meta.pageSize))
	if err != nil {
		return err
	}
	if order.Uint16(b[8:]) != flagFreelist {
		return damage("page %d is not the list of free pages that it should be", id)
	}
	count, ids := uint64(order.Uint16(b[10:])), b[pageHeader:]
	if count == 0xFFFF { // then the first element is the count
		count, ids = order.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return damage("the list of free pages cannot have %d", count)
	}
	for i := range count {
		if err := in.claim(order.Uint64(ids[i*8:]), 1); err != nil {
			return err
		}
	}
	return nil
}

// span returns the key and value that begin pos behind the element at at.
func span(b []byte, at int, pos, keyLength, valueLength uint32) (key, value []byte, err error) {
	start := uint64(at) + uint64(pos)
	middle := start + uint64(keyLength)
	end := middle + uint64(valueLength)
	if end > uint64(len(b)) {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return b[start:middle], b[middle:end], nil
}

// ascending reports whether the i-th key of a page may follow previous: the first
// one may equal it, since it is then the key in the branch above.
func ascending(i int, previous, key, high []byte) bool {
	if high != nil && bytes.Compare(key, high) >= 0 {
		return false
	}
	c := bytes.Compare(previous, key)
	return c < 0 || c == 0 && i == 0
}
