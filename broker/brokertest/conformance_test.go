package brokertest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// broken is a store with one method replaced by a wrong one.
type broken struct {
	*brokertest.Memory
	read    func(ctx context.Context, key string) (broker.Record, error)
	latest  func(ctx context.Context, key string) (broker.Record, error)
	write   func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error)
	destroy func(ctx context.Context, key string) error
	list    func(ctx context.Context, prefix string) ([]string, error)
}

func (b *broken) Read(ctx context.Context, key string) (broker.Record, error) {
	if b.read != nil {
		return b.read(ctx, key)
	}
	return b.Memory.Read(ctx, key)
}

func (b *broken) ReadLatest(ctx context.Context, key string) (broker.Record, error) {
	if b.latest != nil {
		return b.latest(ctx, key)
	}
	return b.Memory.ReadLatest(ctx, key)
}

func (b *broken) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	if b.write != nil {
		return b.write(ctx, key, data, version)
	}
	return b.Memory.Write(ctx, key, data, version)
}

func (b *broken) Destroy(ctx context.Context, key string) error {
	if b.destroy != nil {
		return b.destroy(ctx, key)
	}
	return b.Memory.Destroy(ctx, key)
}

func (b *broken) List(ctx context.Context, prefix string) ([]string, error) {
	if b.list != nil {
		return b.list(ctx, prefix)
	}
	return b.Memory.List(ctx, prefix)
}

// mutants are stores with one mistake each, and the subtest that must notice.
var mutants = []struct {
	name    string
	noticed string
	mistake func(m *brokertest.Memory, b *broken)
}{
	{"ignores versions", "stale version", func(m *brokertest.Memory, b *broken) {
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			if record, err := m.Read(ctx, key); err == nil {
				version = record.Version
			}
			return m.Write(ctx, key, data, version)
		}
	}},
	{"checks versions without a lock", "one winner of sixteen updaters", func(m *brokertest.Memory, b *broken) {
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			if record, _ := m.Read(ctx, key); record.Version == version && !data.IsZero() && bytes.HasPrefix(data.Reveal(), []byte("{")) {
				runtime.Gosched() // lets the others look as well
				m.Put(key, data.RevealString())
				return version + 1, nil
			}
			return m.Write(ctx, key, data, version)
		}
	}},
	{"shows the first value of a secret as the latest", "latest of a secret", func(m *brokertest.Memory, b *broken) {
		var first sync.Map // key → what it held first
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			written, err := m.Write(ctx, key, data, version)
			first.LoadOrStore(key, broker.Record{Data: secret.New(data.Reveal()), Version: written})
			return written, err
		}
		b.latest = func(ctx context.Context, key string) (broker.Record, error) {
			if record, ok := first.Load(key); ok && strings.HasPrefix(key, "secrets/") {
				return record.(broker.Record), nil
			}
			return m.ReadLatest(ctx, key)
		}
	}},
	{"forgets what was destroyed", "destroy", func(m *brokertest.Memory, b *broken) {
		b.destroy = func(_ context.Context, key string) error { m.Remove(key, broker.AbsentNeverExisted); return nil }
	}},
	{"only deletes", "destroy", func(m *brokertest.Memory, b *broken) {
		b.destroy = func(_ context.Context, key string) error { m.Remove(key, broker.AbsentDeleted); return nil }
	}},
	{"fails to destroy what is absent", "destroy again, and what is absent", func(m *brokertest.Memory, b *broken) {
		b.destroy = func(ctx context.Context, key string) error {
			if _, err := m.Read(ctx, key); err != nil {
				return err
			}
			return m.Destroy(ctx, key)
		}
	}},
	{"lists by string prefix", "list", func(m *brokertest.Memory, b *broken) {
		b.list = func(ctx context.Context, prefix string) ([]string, error) {
			names := []string{}
			for _, key := range m.Keys() {
				if rest, ok := strings.CutPrefix(key, strings.TrimSuffix(prefix, "/")); ok {
					names = append(names, rest)
				}
			}
			return names, ctx.Err()
		}
	}},
	{"lists unsorted", "list many", func(m *brokertest.Memory, b *broken) {
		b.list = func(ctx context.Context, prefix string) ([]string, error) {
			names, err := m.List(ctx, prefix)
			slices.Reverse(names)
			return names, err
		}
	}},
	{"decodes numbers as float64", "data comes back the same", func(m *brokertest.Memory, b *broken) {
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			text := strings.ReplaceAll(data.RevealString(), "9007199254740993", "9007199254740992")
			return m.Write(ctx, key, secret.NewString(text), version)
		}
	}},
	{"drops trailing zeros", "data comes back the same", func(m *brokertest.Memory, b *broken) {
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			return m.Write(ctx, key, secret.NewString(strings.ReplaceAll(data.RevealString(), "1.10", "1.1")), version)
		}
	}},
	{"takes everything", "what is no JSON object is refused", func(m *brokertest.Memory, b *broken) {
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			written, err := m.Write(ctx, key, data, version)
			if broker.ReasonOf(err) == broker.ReasonInvalidRequest {
				m.Put(key, data.RevealString())
				return version + 1, nil
			}
			return written, err
		}
	}},
	{"ignores the context", "dead context", func(m *brokertest.Memory, b *broken) {
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			return m.Write(context.WithoutCancel(ctx), key, data, version)
		}
	}},
	{"writes, then looks at the context", "dead context", func(m *brokertest.Memory, b *broken) {
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			written, err := m.Write(context.WithoutCancel(ctx), key, data, version)
			if ctx.Err() != nil {
				return 0, &broker.Error{Reason: broker.ReasonStoreUnreachable, Err: ctx.Err()}
			}
			return written, err
		}
	}},
	{"quotes the data", "errors hold no data", func(m *brokertest.Memory, b *broken) {
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			written, err := m.Write(ctx, key, data, version)
			if err != nil {
				e := broker.AsError(err)
				e.Detail = fmt.Sprintf("cannot write %.100q", data.Reveal())
				return 0, e
			}
			return written, nil
		}
	}},
	{"keeps the caller's bytes", "data is copied", func(m *brokertest.Memory, b *broken) {
		var mu sync.Mutex
		held := map[string]secret.Value{}
		b.write = func(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
			mu.Lock()
			defer mu.Unlock()
			written, err := m.Write(ctx, key, data, version)
			if err == nil {
				held[key] = data
			}
			return written, err
		}
		b.read = func(ctx context.Context, key string) (broker.Record, error) {
			mu.Lock()
			defer mu.Unlock()
			record, err := m.Read(ctx, key)
			if data, ok := held[key]; ok && err == nil {
				record.Data = data
			}
			return record, err
		}
	}},
}

const mutantVariable = "BROKERTEST_MUTANT"

// TestMutant is the child of TestSuiteNoticesMistakes.
func TestMutant(t *testing.T) {
	name := os.Getenv(mutantVariable)
	if name == "" {
		t.Skip("runs in a process of its own, started by TestSuiteNoticesMistakes")
	}
	for _, mutant := range mutants {
		if mutant.name == name {
			brokertest.TestStore(t, func(*testing.T) broker.Store {
				m := brokertest.NewMemory()
				b := &broken{Memory: m}
				mutant.mistake(m, b)
				return b
			})
		}
	}
}

func TestSuiteNoticesMistakes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process for each mistake")
	}
	for _, mutant := range mutants {
		t.Run(mutant.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMutant$", "-test.v")
			cmd.Env = append(os.Environ(), mutantVariable+"="+mutant.name)
			output, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("the suite passes a store that %s", mutant.name)
			}
			want := "--- FAIL: TestMutant/" + strings.ReplaceAll(mutant.noticed, " ", "_") + " "
			if !bytes.Contains(output, []byte(want)) {
				t.Errorf("the suite did not fail where it should, in %q:\n%.2000s", mutant.noticed, output)
			}
		})
	}
}
