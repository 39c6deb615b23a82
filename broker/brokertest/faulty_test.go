package brokertest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func TestFaults(t *testing.T) {
	tests := []struct {
		name        string
		fault       brokertest.Fault
		wantReason  broker.Reason
		wantWritten bool
		wantDead    bool // the next call fails as well
	}{
		{"fail", brokertest.Fail(broker.ReasonStoreSealed), broker.ReasonStoreSealed, false, false},
		{"lose before", brokertest.LoseBefore(), broker.ReasonStoreAnswerLost, false, false},
		{"lose after", brokertest.LoseAfter(), broker.ReasonStoreAnswerLost, true, false},
		{"crash before", brokertest.CrashBefore(), broker.ReasonStoreAnswerLost, false, true},
		{"crash after", brokertest.CrashAfter(), broker.ReasonStoreAnswerLost, true, true},
		{"delay", brokertest.Delay(time.Millisecond), "", true, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			memory := brokertest.NewMemory()
			f := brokertest.NewFaulty(memory)
			f.Once(test.fault, brokertest.Writing)
			if _, err := f.List(t.Context(), ""); err != nil {
				t.Errorf("List, which the rule does not match: %v", err)
			}
			_, err := f.Write(t.Context(), "k", secret.NewString(`{}`), 0)
			if got := broker.ReasonOf(err); got != test.wantReason {
				t.Errorf("Write: reason %q, want %q", got, test.wantReason)
			}
			if got := len(memory.Keys()) == 1; got != test.wantWritten {
				t.Errorf("written = %t, want %t", got, test.wantWritten)
			}
			_, err = f.List(t.Context(), "")
			if got := broker.ReasonOf(err) == broker.ReasonStoreUnreachable; got != test.wantDead {
				t.Errorf("dead afterwards = %t (%v), want %t", got, err, test.wantDead)
			}
			f.Heal()
			if _, err := f.List(t.Context(), ""); err != nil {
				t.Errorf("List after Heal: %v", err)
			}
			if got, want := fmt.Sprint(f.Struck()), "[2 write k]"; got != want {
				t.Errorf("Struck = %s, want %s", got, want)
			}
		})
	}
}

func TestHooks(t *testing.T) {
	memory := brokertest.NewMemory()
	f := brokertest.NewFaulty(memory)
	var seen []string
	note := func(c brokertest.Call) { seen = append(seen, fmt.Sprintf("%s with %d keys", c, len(memory.Keys()))) }
	f.Once(brokertest.Before(note), brokertest.On(brokertest.OpWrite, "a"))
	f.Once(brokertest.After(note), brokertest.On(brokertest.OpWrite, "b"))
	write(t, f, "a")
	write(t, f, "b")
	want := []string{"1 write a with 0 keys", "2 write b with 2 keys"}
	if !slices.Equal(seen, want) {
		t.Errorf("hooks saw %q, want %q", seen, want)
	}
}

func TestAlwaysUntilHealed(t *testing.T) {
	f := brokertest.NewFaulty(brokertest.NewMemory())
	f.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
	for range 3 {
		if _, err := f.Read(t.Context(), "k"); broker.ReasonOf(err) != broker.ReasonStoreUnreachable {
			t.Errorf("Read during the outage: %v", err)
		}
	}
	f.Heal()
	write(t, f, "k")
	if got, want := f.Count(brokertest.On(brokertest.OpRead, "")), 3; got != want {
		t.Errorf("Count of reads = %d, want %d", got, want)
	}
	f.Reset()
	if got := f.Calls(); len(got) != 0 {
		t.Errorf("Calls after Reset = %v", got)
	}
}

func TestHangEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := brokertest.NewMemory()
		f := brokertest.NewFaulty(memory)
		f.Once(brokertest.Hang(), brokertest.Writing)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := f.Write(ctx, "k", secret.NewString(`{}`), 0)
		if broker.ReasonOf(err) != broker.ReasonStoreAnswerLost || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Write = %v, want %s", err, broker.ReasonStoreAnswerLost)
		}
		if got, want := time.Since(start), time.Minute; got != want {
			t.Errorf("Write took %v, want %v", got, want)
		}
		if len(memory.Keys()) != 1 {
			t.Error("the write that hung took no effect")
		}
	})
}

func TestFaultyConcurrently(t *testing.T) {
	f := brokertest.NewFaulty(brokertest.NewMemory())
	f.Once(brokertest.LoseAfter(), brokertest.Nth(10))
	var wait sync.WaitGroup
	for n := range 32 {
		wait.Go(func() { _, _ = f.Write(t.Context(), fmt.Sprint("k", n), secret.NewString(`{}`), 0) })
	}
	wait.Wait()
	if got, want := f.Count(brokertest.Any), 32; got != want {
		t.Errorf("Count = %d, want %d", got, want)
	}
	if got := f.Struck(); len(got) != 1 || got[0].N != 10 {
		t.Errorf("Struck = %v, want call 10", got)
	}
}

// TestEachFault runs a flow of three calls and looks at what it was put through.
func TestEachFault(t *testing.T) {
	var runs []string
	brokertest.EachFault(t, func(t *testing.T, run *brokertest.Run) {
		write(t, run.Store, "set-up") // never fails
		run.Start()
		_, err := run.Store.Read(t.Context(), "set-up")
		if err == nil {
			_, err = run.Store.Write(t.Context(), "k", secret.NewString(`{}`), 0)
		}
		if err == nil {
			err = run.Store.Destroy(t.Context(), "k")
		}
		run.Stop()
		if failed := err != nil; failed == run.Clean() {
			t.Errorf("clean = %t, error = %v", run.Clean(), err)
		}
		_, err = run.Store.Read(t.Context(), "k")
		runs = append(runs, fmt.Sprintf("%s|%s|%s", run.Target, run.Fault.Name, broker.ReasonOf(err)))
	})
	want := []string{
		"0  ||RECORD_DESTROYED",
		"1 read set-up|fails with STORE_UNREACHABLE|RECORD_ABSENT",
		"1 read set-up|crash before|RECORD_ABSENT",
		"2 write k|fails with STORE_UNREACHABLE|RECORD_ABSENT",
		"2 write k|crash before|RECORD_ABSENT",
		"2 write k|lost before|RECORD_ABSENT",
		"2 write k|lost after|",
		"2 write k|crash after|",
		"3 destroy k|fails with STORE_UNREACHABLE|",
		"3 destroy k|crash before|",
		"3 destroy k|lost before|",
		"3 destroy k|lost after|RECORD_DESTROYED",
		"3 destroy k|crash after|RECORD_DESTROYED",
	}
	if !slices.Equal(runs, want) {
		t.Errorf("runs:\n%q\nwant:\n%q", runs, want)
	}
}

func TestEachFaultInABubble(t *testing.T) {
	brokertest.EachFault(t, func(t *testing.T, run *brokertest.Run) {
		synctest.Test(t, func(t *testing.T) {
			run.Start()
			time.Sleep(time.Hour)
			_, _ = run.Store.List(t.Context(), "")
		})
	})
}
