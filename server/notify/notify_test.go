package notify_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/notify"
)

// TestBody is what docs/notify.md promises, to the letter.
func TestBody(t *testing.T) {
	tests := []struct {
		name  string
		event broker.Event
		want  string
	}{
		{"all of a rotation", event("e1"), `{"id":"e1","type":"rotation_failed","time":"2026-03-01T09:00:00Z","client":"clients/acme","rotation":"r-1","state":"FAILED","reason":"CLIENT_REJECTED","remedy":"mend it","secret_version":3}`},
		{"expiry", broker.Event{
			ID: "e2", Type: broker.EventSecretExpiresSoon, Time: time.Unix(0, 0), ClientID: "acme", SecretVersion: 1,
			ExpireTime: time.Unix(60, 0), DaysLeft: 0,
		}, `{"id":"e2","type":"secret_expires_soon","time":"1970-01-01T00:00:00Z","client":"clients/acme","secret_version":1,"expire_time":"1970-01-01T00:01:00Z","days_left":0}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{}
				n := virtual(t, r)
				n.Notify(test.event)
				synctest.Wait()
				all := r.all()
				if len(all) != 1 || all[0].body != test.want {
					t.Fatalf("received %+v, want %s", all, test.want)
				}
				h := all[0].header
				if h.Get(notify.EventIDHeader) != test.event.ID || h.Get("Content-Type") != "application/json" || !strings.HasPrefix(h.Get(notify.SignatureHeader), "t=") {
					t.Errorf("header %v", h)
				}
				n.stop()
			})
		})
	}
}

// TestWhoIsToldOfWhat: without a list all but the quiet ones.
func TestWhoIsToldOfWhat(t *testing.T) {
	tests := []struct {
		name   string
		events []string
		want   int
	}{
		{"default", nil, len(broker.EventTypes()) - 1},
		{"one that is off by default", []string{"rotation_completed"}, 1},
		{"two", []string{"rotation_failed", "secret_expires_soon"}, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{}
				n := virtual(t, r, func(w *notify.Webhook) { w.Events = test.events })
				for _, eventType := range broker.EventTypes() {
					n.Notify(broker.Event{ID: string(eventType), Type: eventType})
				}
				synctest.Wait()
				if got := len(r.all()); got != test.want {
					t.Errorf("%d requests, want %d", got, test.want)
				}
				n.stop()
			})
		})
	}
}

// TestFailuresAreRetried with growing pauses until an answer is 2xx, and each try is
// signed anew.
func TestFailuresAreRetried(t *testing.T) {
	for _, code := range []int{301, 302, 307, 400, 404, 410, 429, 500, 503} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: status(code)}
				n := virtual(t, r)
				n.Notify(event("e1"))
				time.Sleep(30 * time.Second)
				r.set(status(202))
				time.Sleep(time.Minute)
				all := r.all()
				if len(all) < 5 || len(all) > 9 {
					t.Fatalf("%d requests, want some 6", len(all))
				}
				for i := 2; i < len(all); i++ {
					if before, after := all[i-1].at.Sub(all[i-2].at), all[i].at.Sub(all[i-1].at); after < before {
						t.Errorf("pause %v after one of %v", after, before)
					}
				}
				first, last := all[0].header.Get(notify.SignatureHeader), all[len(all)-1].header.Get(notify.SignatureHeader)
				if first == last || all[0].body != all[len(all)-1].body {
					t.Errorf("signatures %q and %q of one body", first, last)
				}
				if got := n.counts(); got[notify.Delivered] != 1 || got[notify.Failed] != int64(len(all)-1) || n.Status()[0].Queued != 0 {
					t.Errorf("counts %v", got)
				}
				n.stop()
				wantNothingTold(t, n)
				if got := strings.Count(n.log.String(), "level=WARN"); got != 1 {
					t.Errorf("%d warnings, want 1 of an event that fails several times", got)
				}
			})
		})
	}
}

// wantNothingTold checks that the log has no key, no URL and no answer.
func wantNothingTold(t *testing.T, n *running) {
	t.Helper()
	if text := n.log.String(); strings.Contains(text, "canary") || strings.Contains(text, "elsewhere") {
		t.Errorf("the log tells too much: %s", text)
	}
}

// TestOneBadEventHoldsUpNoOther: a receiver that chokes on one gets the rest.
func TestOneBadEventHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		r.set(func(w http.ResponseWriter, request *http.Request) {
			if request.Header.Get(notify.EventIDHeader) == "bad" {
				w.WriteHeader(http.StatusBadRequest)
			}
		})
		n := virtual(t, r)
		for _, id := range []string{"bad", "e1", "e2"} {
			n.Notify(event(id))
		}
		synctest.Wait()
		if got := n.counts()[notify.Delivered]; got != 2 {
			t.Errorf("%d delivered, want 2", got)
		}
		n.stop()
	})
}

// TestGivenUp after a day, with some 30 tries.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: status(500)}
		n := virtual(t, r)
		n.Notify(event("e1"))
		time.Sleep(23 * time.Hour)
		if got := n.counts(); got[notify.GivenUp] != 0 {
			t.Errorf("counts %v before a day has gone", got)
		}
		time.Sleep(2 * time.Hour)
		if got := n.counts(); got[notify.GivenUp] != 1 || n.Status()[0].Queued != 0 {
			t.Errorf("counts %v", got)
		}
		if got := len(r.all()); got < 25 || got > 60 {
			t.Errorf("%d tries in a day", got)
		}
		n.stop()
		wantNothingTold(t, n)
	})
}

// TestTheOldestGoes when too many events wait.
func TestTheOldestGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: hanging}
		n := virtual(t, r)
		n.Notify(event("under way"))
		synctest.Wait()
		for i := range 1010 {
			n.Notify(event(fmt.Sprint("e", i)))
		}
		if got, queued := n.counts()[notify.Dropped], n.Status()[0].Queued; got != 10 || queued != 1000 {
			t.Errorf("%d dropped and %d queued, want 10 and 1000", got, queued)
		}
		r.set(nil)
		time.Sleep(15 * time.Second)
		if got := n.counts(); got[notify.Delivered] != 1000 || got[notify.Dropped] != 11 {
			t.Errorf("counts %v, want 1000 delivered; what was under way came back to a full queue", got)
		}
		if slices.ContainsFunc(r.all(), func(r received) bool { return r.header.Get(notify.EventIDHeader) == "e9" }) {
			t.Error("one of the oldest was delivered")
		}
		n.stop()
	})
}

// TestASlowReceiver that answers at once but never ends its answer costs no more than
// one timeout, and one that never answers is tried again.
func TestASlowReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: hanging}
		n := virtual(t, r)
		begun := time.Now()
		n.Notify(event("e1"))
		if took := time.Since(begun); took != 0 {
			t.Errorf("Notify took %v", took)
		}
		time.Sleep(9 * time.Second)
		r.set(nil)
		time.Sleep(4 * time.Second)
		if got := n.counts(); got[notify.Delivered] != 1 || got[notify.Failed] != 1 {
			t.Errorf("counts %v, want a failure and then a success", got)
		}
		n.stop()
		if !strings.Contains(n.log.String(), "did not answer in time") {
			t.Errorf("the log does not say why: %s", n.log)
		}
	})
}

// TestTheEnd delivers what waits, and takes some seconds at most.
func TestTheEnd(t *testing.T) {
	t.Run("what waits is tried once more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := &receiver{answer: status(500)}
			n := virtual(t, r)
			for i := range 5 {
				n.Notify(event(fmt.Sprint("e", i)))
			}
			time.Sleep(time.Hour)
			r.set(nil)
			begun := time.Now()
			n.stop()
			if got := n.counts()[notify.Delivered]; got != 5 || time.Since(begun) > 0 {
				t.Errorf("%d delivered in %v, want 5 at once", got, time.Since(begun))
			}
			n.Notify(event("late"))
			if got := n.counts()[notify.Dropped]; got != 1 {
				t.Errorf("%d dropped, want the one after the end", got)
			}
		})
	})
	t.Run("a receiver that hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := &receiver{answer: hanging}
			n := virtual(t, r)
			for i := range 50 {
				n.Notify(event(fmt.Sprint("e", i)))
			}
			synctest.Wait()
			begun := time.Now()
			n.stop()
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("the end took %v", took)
			}
			if got := n.counts(); got[notify.Dropped] != 50 || strings.Count(n.log.String(), "event dropped") != 50 {
				t.Errorf("counts %v, want each event dropped and named in the log", got)
			}
		})
	})
}

// TestNobodyIsTold by a nil Notifier.
func TestNobodyIsTold(t *testing.T) {
	var n *notify.Notifier
	n.Notify(event("e1"))
	if err := n.Run(t.Context()); err != nil || n.Status() != nil {
		t.Errorf("Run = %v, Status = %v", err, n.Status())
	}
}

// TestAnEndlessAnswer is not read to its end.
func TestAnEndlessAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &endless{}
		n := run(t, notify.Config{
			Webhooks:  []notify.Webhook{{Name: "a", URL: "https://hooks.example/", SecretFile: secretFile(t, key)}},
			Transport: answering{body},
		})
		n.Notify(event("e1"))
		synctest.Wait()
		if got := n.counts()[notify.Delivered]; got != 1 || !body.closed || body.read > 64<<10 {
			t.Errorf("%d delivered, %d bytes read, closed %v", got, body.read, body.closed)
		}
		n.stop()
	})
}

type answering struct{ body io.ReadCloser }

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: a.body}, nil
}

type endless struct {
	read   int
	closed bool
}

func (e *endless) Read(p []byte) (int, error) { e.read += len(p); return len(p), nil }
func (e *endless) Close() error               { e.closed = true; return nil }
