package embedded_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
)

// sound is what filled puts into a store :: key → {"n":...}, version.
var sound = map[string][2]int{"meta": {0, 1}, "clients/00/a": {2, 2}, "secrets/a/u-2": {4, 1}}

// probe opens a store whose file is perhaps damaged. Either Open says that it is,
// or each record is the one that was written or says that it is corrupt; none is
// ever missing, older, or another one. The file is as it was in any case.
func probe(t testing.TB, config embedded.Config, what string) (opened bool) {
	t.Helper()
	before := readFile(t, config.File)
	defer func() {
		if !bytes.Equal(readFile(t, config.File), before) {
			t.Errorf("%s: the file was changed", what)
		}
	}()
	s, err := embedded.Open(config)
	if err != nil {
		switch reason := broker.ReasonOf(err); reason {
		case broker.ReasonStoreDamaged, broker.ReasonRecordSchemaNewer, broker.ReasonStoreKeyWrong:
		default:
			t.Errorf("%s: reason %q (%v), want %q", what, reason, err, broker.ReasonStoreDamaged)
		}
		return false
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Errorf("%s: Close: %v", what, err)
		}
	}()
	for key, want := range sound {
		record, err := s.Read(t.Context(), key)
		if err != nil {
			wantReason(t, what+": Read", err, broker.ReasonRecordCorrupt)
			continue
		}
		if got, want := record.Data.RevealString(), fmt.Sprintf(`{"n":%d}`, want[0]); got != want || record.Version != uint64(sound[key][1]) {
			t.Errorf("%s: Read(%q) = %s at version %d, want %s", what, key, got, record.Version, want)
		}
	}
	_, err = s.Read(t.Context(), "secrets/a/u-1")
	wantReason(t, what+": Read of what was destroyed", err, broker.ReasonRecordDestroyed)
	if names, err := s.List(t.Context(), "secrets/a/"); err != nil || !slices.Equal(names, []string{"u-1", "u-2"}) {
		t.Errorf("%s: List = %q, %v", what, names, err)
	}
	return true
}

// settled makes a store whose last two commits leave the same records, so that
// the older of bbolt's two heads is as good as the newer.
func settled(t testing.TB) embedded.Config {
	t.Helper()
	config := filled(t)
	for range 2 {
		editFile(t, config.File, func(*bbolt.Tx) error { return nil })
	}
	return config
}

func TestTruncated(t *testing.T) {
	config := settled(t)
	whole := readFile(t, config.File)
	sizes := []int{0, 1, 16, 79, 80, 1023, 2048, 4095, 4096, 8191, 8192, 12288, 16384}
	for size := 20000; size < len(whole); size += 4096 {
		sizes = append(sizes, size, size-size%4096)
	}
	for _, size := range append(sizes, len(whole)-1) {
		if size < len(whole) {
			writeFile(t, config.File, whole[:size])
			// What was allocated in advance and holds nothing yet is no loss.
			if probe(t, config, fmt.Sprintf("cut to %d of %d bytes", size, len(whole))) && size < lastPage(t, whole) {
				t.Errorf("a store cut to %d of %d bytes was opened", size, len(whole))
			}
		}
	}
}

// lastPage returns where the pages end that bbolt has handed out.
func lastPage(t *testing.T, file []byte) int {
	t.Helper()
	size := int(binary.NativeEndian.Uint32(file[16+8:]))
	pages := max(binary.NativeEndian.Uint64(file[16+40:]), binary.NativeEndian.Uint64(file[size+16+40:]))
	return size * int(pages)
}

// TestFlippedBits changes bytes all over the file; those at the beginning of each
// page, where its structure is, all of them.
func TestFlippedBits(t *testing.T) {
	config := settled(t)
	whole := readFile(t, config.File)
	random := rand.New(rand.NewPCG(1, 2))
	step := 61
	if testing.Short() {
		step = 601
	}
	opened, refused := 0, 0
	for at := range lastPage(t, whole) {
		if at%step != 0 && (at%4096 > 200 || testing.Short()) {
			continue
		}
		if whole[at] == 0 && at%step != 0 && random.IntN(4) != 0 {
			continue
		}
		spoiled := bytes.Clone(whole)
		spoiled[at] ^= byte(1 << random.IntN(8))
		writeFile(t, config.File, spoiled)
		if probe(t, config, fmt.Sprintf("bit flipped in byte %d of page %d", at%4096, at/4096)) {
			opened++
		} else {
			refused++
		}
	}
	if opened == 0 || refused == 0 {
		t.Errorf("opened %d, refused %d: the test hits only one kind of byte", opened, refused)
	}
	t.Logf("opened %d, refused %d", opened, refused)
}

// TestZeroedPages has what a disk or a crash of another file system leaves.
func TestZeroedPages(t *testing.T) {
	config := settled(t)
	whole := readFile(t, config.File)
	for page := 0; page*4096 < lastPage(t, whole); page++ {
		for from := range lastPage(t, whole) / 4096 {
			spoiled := bytes.Clone(whole)
			copy(spoiled[page*4096:(page+1)*4096], whole[from*4096:])
			if page == from {
				clear(spoiled[page*4096 : (page+1)*4096])
			}
			writeFile(t, config.File, spoiled)
			probe(t, config, fmt.Sprintf("page %d overwritten with page %d (itself: zeros)", page, from))
		}
	}
}

// TestTornHead has the head of the last commit half written, as a loss of power
// during its write leaves it: the commit before is what counts.
func TestTornHead(t *testing.T) {
	config := filled(t)
	s := open(t, config)
	write(t, s, "last", 1, 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole := readFile(t, config.File)
	newest := 0
	if binary.NativeEndian.Uint64(whole[4096+16+48:]) > binary.NativeEndian.Uint64(whole[16+48:]) {
		newest = 4096
	}
	clear(whole[newest+16+48 : newest+16+64])
	writeFile(t, config.File, whole)
	s = open(t, config)
	_, err := s.Read(t.Context(), "last")
	wantReason(t, "Read of what was not committed", err, broker.ReasonRecordAbsent)
	wantRecord(t, s, "clients/00/a", 2, 2)
	write(t, s, "last", 2, 0)
}

// TestCraftedHead has heads whose sum is right and that lead astray.
func TestCraftedHead(t *testing.T) {
	config := settled(t)
	whole := readFile(t, config.File)
	tests := []struct {
		name   string
		offset int // in bbolt's meta
		size   int
		value  uint64
	}{
		{"page size 0", 8, 4, 0},
		{"page size 1", 8, 4, 1},
		{"page size odd", 8, 4, 4097},
		{"page size 16 MiB", 8, 4, 16 << 20},
		{"page size halved", 8, 4, 2048},
		{"root on a head", 16, 8, 0},
		{"root outside", 16, 8, 1 << 40},
		{"root at the edge of an integer", 16, 8, 1<<63 - 1},
		{"list of free pages outside", 32, 8, 1 << 40},
		{"no list of free pages", 32, 8, 1<<64 - 1},
		{"list of free pages is the root", 32, 8, binary.NativeEndian.Uint64(whole[16+16:])},
		{"no pages", 40, 8, 0},
		{"more pages than bytes", 40, 8, 1 << 40},
		{"all pages", 40, 8, 1<<64 - 1},
	}
	for _, test := range tests {
		spoiled := bytes.Clone(whole)
		for _, meta := range [][]byte{spoiled[16:80], spoiled[4096+16 : 4096+80]} {
			if test.size == 4 {
				binary.NativeEndian.PutUint32(meta[test.offset:], uint32(test.value))
			} else {
				binary.NativeEndian.PutUint64(meta[test.offset:], test.value)
			}
			sum := fnv.New64a()
			_, _ = sum.Write(meta[:56])
			binary.NativeEndian.PutUint64(meta[56:], sum.Sum64())
		}
		writeFile(t, config.File, spoiled)
		if probe(t, config, test.name) {
			t.Errorf("%s: the store was opened", test.name)
		}
	}
}

// TestTruncatedWhileOpen must not end the process: bbolt reads through a mapping.
func TestTruncatedWhileOpen(t *testing.T) {
	config := newConfig(t)
	s := open(t, config)
	var version uint64
	for n := range 50 {
		write(t, s, fmt.Sprint("k", n), n, 0)
	}
	if err := os.Truncate(config.File, 8192); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(t.Context(), "k7")
	wantReason(t, "Read", err, broker.ReasonStoreDamaged)
	_, err = s.List(t.Context(), "")
	wantReason(t, "List", err, broker.ReasonStoreDamaged)
	if _, err = s.Write(t.Context(), "k7", object(1), version); err == nil {
		t.Error("Write succeeded")
	}
}

// TestInspectAgreesWithBolt has stores of all sizes, made by many commits, pass.
func TestInspectAgreesWithBolt(t *testing.T) {
	config := newConfig(t)
	s := open(t, config)
	random := rand.New(rand.NewPCG(3, 4))
	versions := map[string]uint64{}
	for n := range 400 {
		key := fmt.Sprintf("clients/%02d/c%d", random.IntN(7), random.IntN(90))
		if random.IntN(5) == 0 {
			if err := s.Destroy(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		} else {
			size := random.IntN(600)
			if random.IntN(20) == 0 {
				size = random.IntN(broker.MaxRecordBytes - 20)
			}
			var err error
			if versions[key], err = s.Write(t.Context(), key, sized(size), versions[key]); err != nil {
				t.Fatal(err)
			}
		}
		if n%40 == 0 {
			inspectNow(t, s, config.File)
		}
	}
	inspectNow(t, s, config.File)
}

func inspectNow(t *testing.T, s *embedded.Store, path string) {
	t.Helper()
	b := readFile(t, path)
	if err := embedded.Inspect(bytes.NewReader(b), int64(len(b))); err != nil {
		t.Errorf("Inspect: %v", err)
	}
	err := s.DB().View(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		t.Errorf("bbolt's own check: %v", err)
	}
}

// TestLostBranch has pages that are in order, one of which lacks its last branch.
func TestLostBranch(t *testing.T) {
	config := newConfig(t)
	s := open(t, config)
	for n := range 100 {
		if _, err := s.Write(t.Context(), fmt.Sprint("k", n), sized(200), 0); err != nil {
			t.Fatal(err)
		}
	}
	file := readFile(t, config.File)
	found := 0
	for page := 2 * 4096; page < len(file); page += 4096 {
		flags, count := binary.NativeEndian.Uint16(file[page+8:]), binary.NativeEndian.Uint16(file[page+10:])
		if flags != 0x01 || count < 2 {
			continue
		}
		spoiled := bytes.Clone(file)
		binary.NativeEndian.PutUint16(spoiled[page+10:], count-1)
		if err := embedded.Inspect(bytes.NewReader(spoiled), int64(len(spoiled))); err != nil {
			found++ // free pages may be branches of the past
			if !strings.Contains(err.Error(), "neither in use nor free") {
				t.Errorf("Inspect: %v", err)
			}
		}
	}
	if found == 0 {
		t.Error("no lost branch was found")
	}
}

// TestBucketsLaidOverEachOther has a page whose buckets all lie in one place and
// contain each other: without a bound, inspecting it would never end.
func TestBucketsLaidOverEachOther(t *testing.T) {
	const pageSize = 4096
	file := make([]byte, 5*pageSize)
	order := binary.NativeEndian
	for id := range uint64(2) {
		meta := file[id*pageSize+16:]
		order.PutUint32(meta, 0xED0CDAED)
		order.PutUint32(meta[4:], 2)
		order.PutUint32(meta[8:], pageSize)
		order.PutUint64(meta[16:], 3) // root
		order.PutUint64(meta[32:], 2) // free pages
		order.PutUint64(meta[40:], 5)
		order.PutUint64(meta[48:], id)
		sum := fnv.New64a()
		_, _ = sum.Write(meta[:56])
		order.PutUint64(meta[56:], sum.Sum64())
	}
	page := func(id uint64, flags, count uint16) []byte {
		b := file[id*pageSize : (id+1)*pageSize]
		order.PutUint64(b, id)
		order.PutUint16(b[8:], flags)
		order.PutUint16(b[10:], count)
		return b
	}
	order.PutUint64(page(2, 0x10, 1)[16:], 4)
	root := page(3, 0x02, 2)
	// The keys "a" and "ba" end in one place, where the bucket of both begins.
	const levels = 50
	for at, level := 16, 1; level <= levels; level++ {
		next := at + 2*16 + len("ba")
		copy(root[next-2:], "ba")
		for i := range 2 {
			element := root[at+16*i:]
			order.PutUint32(element, 1) // a bucket
			order.PutUint32(element[4:], uint32(next-1-i-(at+16*i)))
			order.PutUint32(element[8:], uint32(1+i))
			order.PutUint32(element[12:], uint32(pageSize-next))
		}
		inline := root[next+16:] // behind the bucket's header: no page of its own
		order.PutUint16(inline[8:], 0x02)
		if level < levels {
			order.PutUint16(inline[10:], 2)
		}
		at = next + 16 + 16
	}
	err := embedded.Inspect(bytes.NewReader(file), int64(len(file)))
	if err == nil || !strings.Contains(err.Error(), "cannot have 2 elements") {
		t.Errorf("Inspect: %v, want it to give up on the elements", err)
	}
}
