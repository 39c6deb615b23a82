package brokertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func testList(t *testing.T, s broker.Store) {
	wantList(t, s, "")
	for _, key := range []string{"meta", "clients/b", "clients/a/one", "clients/a/two/x", "clients/ab/three", "clients/a.b", "clients/10", "clients/9"} {
		mustWrite(t, s, key, object(1), 0)
	}
	mustWrite(t, s, "clients/a", object(1), 0) // a record and a folder of one name are two entries
	wantList(t, s, "", "clients/", "meta")
	wantList(t, s, "clients/", "10", "9", "a", "a.b", "a/", "ab/", "b")
	wantList(t, s, "clients/a/", "one", "two/")
	wantList(t, s, "clients/a/two/", "x")
	wantList(t, s, "clients/b/") // a record is no folder
	wantList(t, s, "clients/absent/")
	wantList(t, s, "absent/")
}

func testListMany(t *testing.T, s broker.Store) {
	const many = 300
	want := make([]string, many)
	var wait sync.WaitGroup
	for worker := range racers {
		wait.Go(func() {
			for n := worker; n < many; n += racers {
				want[n] = fmt.Sprintf("client-%03d", n)
				if _, err := s.Write(t.Context(), "clients/00/"+want[n], object(n), 0); err != nil {
					t.Errorf("Write: %v", err)
				}
			}
		})
	}
	wait.Wait()
	wantList(t, s, "clients/00/", want...)
	wantList(t, s, "clients/", "00/")
}

// testKeys takes what package broker makes: segments of [a-z0-9._-].
func testKeys(t *testing.T, s broker.Store) {
	names := []string{
		"0", "z", "abcdefghijklmnopqrstuvwxyz", "0123456789", "a.b", "a-b", "a_b", "a.-_.b", "a--b", "a__b",
		"data", "metadata", "config", // words that mean something to KV v2's own paths
		strings.Repeat("a", 128), strings.Repeat("a", 127) + "b", strings.Repeat("0.", 63) + "00",
	}
	versions := make([]uint64, len(names))
	for n, name := range names {
		versions[n] = mustWrite(t, s, "secrets/"+name+"/"+name, object(n), 0)
	}
	for n, name := range names {
		wantRecord(t, s, "secrets/"+name+"/"+name, object(n), versions[n])
		wantList(t, s, "secrets/"+name+"/", name)
	}
}

// testData holds what a store that decodes and encodes again might change.
func testData(t *testing.T, s broker.Store) {
	tests := []struct{ name, data string }{
		{"empty object", `{}`},
		{"integer beyond float64", `{"n":9007199254740993,"m":-9223372036854775808,"u":18446744073709551615}`},
		{"number as it is written", `{"n":1.10,"z":0.0,"e":1e2,"big":1e400,"long":0.1000000000000000055511151231257827}`},
		{"unicode", `{"s":"grüße 秘密 🔑","é":"key"}`},
		{"escapes", `{"s":"\u0000\u001f\"\\\/\b\f\n\r\t\u00fc\ud83d\udd11\u2028<>&'"}`},
		{"nested", `{"a":{"b":[{"c":[[],[[]],{}]},null,true,false,""]}}`},
		{"empty things", `{"o":{},"a":[],"s":"","n":null,"":"empty name"}`},
		{"white space", " {\n\t\"a\" : [ 1 , 2 ] \r\n} "},
		{"names that a store might use itself", `{"data":{"data":1},"options":{"cas":0},"metadata":{},"version":9,"errors":["x"]}`},
		{"text that looks like something else", `{"t":"2026-01-01T00:00:00Z","n":"1","b":"true","base64":"AAECAw=="}`},
		{"deep", strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat(`}`, 100)},
	}
	for n, test := range tests {
		key := fmt.Sprintf("clients/00/data-%d", n)
		version := mustWrite(t, s, key, secret.NewString(test.data), 0)
		record, err := s.Read(t.Context(), key)
		if err != nil || record.Version != version {
			t.Fatalf("%s: Read = version %d, %v; want version %d", test.name, record.Version, err, version)
		}
		wantSameJSON(t, test.name, record.Data.Reveal(), []byte(test.data))
	}
}

// testDataIsCopied wipes what it has written and read, as package broker does.
func testDataIsCopied(t *testing.T, s broker.Store) {
	data := object(1)
	version := mustWrite(t, s, "clients/00/a", data, 0)
	data.Wipe()
	for range 2 {
		record, err := s.Read(t.Context(), "clients/00/a")
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		wantSameJSON(t, "after wiping what was written and read before", record.Data.Reveal(), object(1).Reveal())
		record.Data.Wipe()
	}
	wantRecord(t, s, "clients/00/a", object(1), version)
}

func testNotAnObject(t *testing.T, s broker.Store) {
	version := mustWrite(t, s, "clients/00/a", object(1), 0)
	for _, data := range []string{
		``, ` `, `null`, `true`, `1`, `"text"`, `[]`, `[{"a":1}]`, `garbage`, `{`, `}`, `{"a":1`, `{"a":1}}`, `{"a":1}{"b":2}`,
		`{"a":1} x`, `{"a":1,}`, `{a:1}`, `{'a':1}`, `{"a":01}`, `{"a":NaN}`, "{\"a\":\"\n\"}", "\ufeff{}", "{\"a\":\"\xff\"}",
	} {
		_, err := s.Write(t.Context(), "clients/00/a", secret.NewString(data), version)
		wantRefused(t, fmt.Sprintf("Write of %q", data), err)
		_, err = s.Write(t.Context(), "clients/00/b", secret.NewString(data), 0)
		wantRefused(t, fmt.Sprintf("create of %q", data), err)
	}
	wantRecord(t, s, "clients/00/a", object(1), version)
	wantNever(t, s, "clients/00/b")
}

// wantRefused checks that err is INVALID_REQUEST and says what is wrong.
func wantRefused(t *testing.T, what string, err error) {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) || e.Reason != broker.ReasonInvalidRequest {
		t.Errorf("%s: error = %v, want reason %s", what, err, broker.ReasonInvalidRequest)
		return
	}
	if len(e.Fields) == 0 {
		t.Errorf("%s: error = %v, which names no field", what, err)
	}
}

func testDeadContext(t *testing.T, s broker.Store) {
	version := mustWrite(t, s, "clients/00/a", object(1), 0)
	past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Hour))
	defer cancel()
	contexts := []struct {
		name string
		ctx  context.Context
		want error
	}{{"cancelled", cancelled(t), context.Canceled}, {"deadline passed", past, context.DeadlineExceeded}}
	calls := []struct {
		name string
		call func(ctx context.Context) error
	}{
		{"Read", func(ctx context.Context) error { _, err := s.Read(ctx, "clients/00/a"); return err }},
		{"ReadLatest", func(ctx context.Context) error { _, err := s.ReadLatest(ctx, "clients/00/a"); return err }},
		{"create", func(ctx context.Context) error { _, err := s.Write(ctx, "clients/00/b", object(2), 0); return err }},
		{"update", func(ctx context.Context) error {
			_, err := s.Write(ctx, "clients/00/a", object(2), version)
			return err
		}},
		{"Destroy", func(ctx context.Context) error { return s.Destroy(ctx, "clients/00/a") }},
		{"List", func(ctx context.Context) error { _, err := s.List(ctx, "clients/"); return err }},
	}
	for _, c := range contexts {
		for _, call := range calls {
			what := call.name + " with a context that is " + c.name
			start := time.Now()
			err := call.call(c.ctx)
			if took := time.Since(start); took > promptly {
				t.Errorf("%s took %v", what, took)
			}
			var e *broker.Error
			if !errors.As(err, &e) || !errors.Is(err, c.want) {
				t.Errorf("%s: error = %v, want a *broker.Error around %v", what, err, c.want)
			} else if e.Reason == broker.ReasonStoreAnswerLost || e.Reason == broker.ReasonStoreConflict || e.Reason == broker.ReasonInternal {
				t.Errorf("%s: reason = %s: nothing was sent, so nothing is unknown", what, e.Reason)
			}
		}
	}
	wantRecord(t, s, "clients/00/a", object(1), version)
	wantNever(t, s, "clients/00/b")
}

// testErrorsHoldNoData makes writes fail in each way that a test can.
func testErrorsHoldNoData(t *testing.T, s broker.Store) {
	fine := secret.NewString(`{"value":"` + canary + `"}`)
	version := mustWrite(t, s, "clients/00/a", fine, 0)
	tests := []struct {
		name    string
		ctx     context.Context
		data    string
		version uint64
	}{
		{"conflict", t.Context(), fine.RevealString(), version + 1},
		{"create conflict", t.Context(), fine.RevealString(), 0},
		{"dead context", cancelled(t), fine.RevealString(), version},
		{"no object", t.Context(), `"` + canary + `"`, version},
		{"bad JSON", t.Context(), `{"value":"` + canary + `" ` + canary + `}`, version},
		{"bad UTF-8", t.Context(), `{"value":"` + canary + "\xff" + `"}`, version},
		{"too large", t.Context(), `{"value":"` + strings.Repeat(canary, broker.MaxRecordBytes/len(canary)) + `"}`, version},
	}
	for _, test := range tests {
		_, err := s.Write(test.ctx, "clients/00/a", secret.NewString(test.data), test.version)
		if err == nil {
			t.Errorf("%s: Write succeeded", test.name)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
				if printed := fmt.Sprintf(verb, e); strings.Contains(printed, canary) {
					t.Errorf("%s: the error shows the data: %.300s", test.name, printed)
				}
			}
		}
	}
	wantRecord(t, s, "clients/00/a", fine, version)
}
