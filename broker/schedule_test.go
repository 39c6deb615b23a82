package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// almanac is a provider with overlapping secrets that remembers when it made one.
type almanac struct {
	upstream *brokertest.Upstream
	// lifetime is what its secrets live; 0 for ever.
	lifetime time.Duration

	mu sync.Mutex // guards what follows
	// made :: the token of a rotation → the secret made for it
	made map[string]broker.CreatedSecret
	// times are when secrets were made, or refused.
	times  []time.Time
	refuse error
}

func newAlmanac(upstream *brokertest.Upstream) *almanac {
	return &almanac{upstream: upstream, made: map[string]broker.CreatedSecret{}}
}

func (a *almanac) Traits(broker.RotationSettings) broker.RotatorTraits {
	return broker.RotatorTraits{Shape: broker.ShapeOverlapping}
}

func (a *almanac) Create(_ context.Context, call broker.RotatorCall) (broker.CreatedSecret, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if made, ok := a.made[call.Token]; ok {
		made.Value = secret.NewString(made.Handle) // the broker wiped the first one
		return made, nil
	}
	a.times = append(a.times, time.Now())
	text := fmt.Sprintf("made-by-the-provider-%d", len(a.times))
	if a.refuse == nil {
		a.upstream.Register(call.ClientID, text)
	}
	made := broker.CreatedSecret{Value: secret.NewString(text), Handle: text}
	if a.lifetime > 0 {
		made.ExpireTime = time.Now().Add(a.lifetime)
	}
	if a.refuse != nil {
		return made, nil // a secret that the authorization server will not take
	}
	a.made[call.Token] = made
	return made, nil
}

func (a *almanac) Recover(context.Context, broker.RotatorCall) (broker.RecoveredCreate, error) {
	return broker.RecoveredCreate{Outcome: broker.CreateNotDone}, nil
}

func (a *almanac) Activate(context.Context, broker.RotatorCall) error { return nil }

func (a *almanac) Revoke(_ context.Context, call broker.RotatorCall) error {
	a.upstream.Withdraw(call.ClientID, call.Handle)
	return nil
}

func (a *almanac) all() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.times)
}

func (a *almanac) setRefuse(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = err
}

// scheduled returns a running replica whose clients can be rotated by "almanac".
func scheduled(t *testing.T, store broker.Store, memory *brokertest.Memory, a *almanac) *fixture {
	t.Helper()
	f := open(t, memory, brokertest.NewFaulty(memory), a.upstream, func(cfg *broker.Config) {
		cfg.Store, cfg.Rotators = store, map[string]broker.Rotator{"almanac": a}
	})
	f.run(t)
	return f
}

func rotatedEvery(every time.Duration, windows ...broker.RotationWindow) func(*broker.NewClient) {
	return func(n *broker.NewClient) {
		n.Rotation.Rotator, n.Rotation.Every, n.Rotation.Windows = "almanac", every, windows
		n.Rotation.Overlap, n.Rotation.VerifyTokens = time.Minute, 1
	}
}

// late is a store as a replica sees it whose clock is ahead: all times that it reads
// are earlier by its own clock than those that were written, windows too.
type late struct {
	broker.Store
	ahead time.Duration
}

var (
	stamp = regexp.MustCompile(`"[0-9]{4}-[0-9]{2}-[0-9]{2}T[^"]*Z"`)
	clock = regexp.MustCompile(`"(begin|end)":"([0-9]{2}:[0-9]{2})"`)
)

func (l late) shift(data string, by time.Duration) string {
	if by == 0 {
		return data
	}
	data = stamp.ReplaceAllStringFunc(data, func(text string) string {
		at, err := time.Parse(`"`+time.RFC3339Nano+`"`, text)
		if err != nil || at.IsZero() {
			return text
		}
		encoded, _ := json.Marshal(at.Add(by))
		return string(encoded)
	})
	return clock.ReplaceAllStringFunc(data, func(text string) string {
		parts := clock.FindStringSubmatch(text)
		at, err := time.Parse("15:04", parts[2])
		if err != nil {
			return text
		}
		return fmt.Sprintf(`"%s":"%s"`, parts[1], at.Add(by).Format("15:04"))
	})
}

func (l late) Read(ctx context.Context, key string) (broker.Record, error) {
	record, err := l.Store.Read(ctx, key)
	if err == nil {
		record.Data = secret.NewString(l.shift(record.Data.RevealString(), -l.ahead))
	}
	return record, err
}

func (l late) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	return l.Store.Write(ctx, key, secret.NewString(l.shift(data.RevealString(), l.ahead)), version)
}

// TestOneRotationPerDueDate on three replicas whose clocks lie 10 min apart.
func TestOneRotationPerDueDate(t *testing.T) {
	night := broker.RotationWindow{Begin: "23:30", End: "01:15"}
	tests := []struct {
		name    string
		every   time.Duration
		windows []broker.RotationWindow
		// within is how long after it is due one may have to wait for a window.
		within time.Duration
	}{
		{"at any time", 6 * time.Hour, nil, 0},
		{"in a window across midnight", 6 * time.Hour, []broker.RotationWindow{night}, day},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const lasts = 74 * time.Hour
				memory, a := brokertest.NewMemory(), newAlmanac(brokertest.NewUpstream())
				var f *fixture
				for _, ahead := range []time.Duration{-10 * time.Minute, 10 * time.Minute, 0} {
					f = scheduled(t, late{memory, ahead}, memory, a)
				}
				f.create(t, "acme", rotatedEvery(test.every, test.windows...))
				last := time.Now()
				time.Sleep(lasts)
				const slack = 30 * time.Minute // of the clocks, and of who looks when
				for _, at := range append(a.all(), time.Time{}) {
					if at.IsZero() {
						at = time.Now()
						if gap := at.Sub(last); gap > test.every*21/20+test.within+slack {
							t.Errorf("no rotation for %v at the end", gap)
						}
						break
					}
					gap := at.Sub(last)
					if gap < test.every*19/20-slack || gap > test.every*21/20+test.within+slack {
						t.Errorf("%v lie between two rotations, want %v, and up to %v for the window", gap, test.every, test.within)
					}
					if len(test.windows) > 0 && !open2330to0115(at, slack) {
						t.Errorf("a rotation began at %v", at)
					}
					last = at
				}
				if got := len(a.all()); got < 3 {
					t.Errorf("%d rotations in %v", got, lasts)
				}
				f.wantTokenWith(t, fmt.Sprintf("made-by-the-provider-%d", len(a.all())))
				wantSound(t, memory, "acme")
			})
		})
	}
}

func open2330to0115(at time.Time, slack time.Duration) bool {
	since := at.UTC().Add(30*time.Minute + slack).Sub(at.UTC().Add(30*time.Minute + slack).Truncate(day))
	return since <= 105*time.Minute+2*slack
}

// TestNextRotation over a year, for schedules at random: it is in a window, not before
// it is due, and none of the openings before was left out.
func TestNextRotation(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	days := []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 300 {
		s := broker.RotationSettings{Rotator: "almanac", Every: time.Hour + time.Duration(random.Int64N(int64(60*day)))}
		for range random.IntN(3) {
			w := broker.RotationWindow{Begin: fmt.Sprintf("%02d:%02d", random.IntN(24), random.IntN(60)), End: fmt.Sprintf("%02d:%02d", random.IntN(24), random.IntN(60))}
			for range random.IntN(3) {
				w.Days = append(w.Days, days[random.IntN(7)])
			}
			if w.Begin != w.End {
				s.Windows = append(s.Windows, w)
			}
		}
		c := &broker.Client{UID: fmt.Sprint("uid", random.Int()), Rotation: s}
		for now, n := begin, 0; now.Before(begin.AddDate(1, 0, 0)) && n < 40; n++ {
			c.Secrets = []broker.SecretVersion{{Number: int64(n + 1), Stage: broker.Current, PromoteTime: now}}
			at := c.NextRotation(now)
			early, most := now.Add(s.Every-min(s.Every/20, day)), now.Add(s.Every+min(s.Every/20, day))
			switch {
			case at.Before(early), len(s.Windows) == 0 && at.After(most):
				t.Fatalf("%+v promoted at %v: next at %v", s, now, at)
			case len(s.Windows) > 0 && !isOpen(s.Windows, at):
				t.Fatalf("%+v: next at %v, which no window has", s, at)
			case len(s.Windows) > 0 && at.After(most):
				for step := most; step.Before(at.Add(-time.Minute)); step = step.Add(7 * time.Minute) {
					if isOpen(s.Windows, step) {
						t.Fatalf("%+v: next at %v, although %v is in a window and after %v", s, at, step, most)
					}
				}
			}
			if again := c.NextRotation(at); !again.Equal(at) {
				t.Fatalf("%+v: at %v it is put off to %v", s, at, again)
			}
			now = at
		}
	}
}

// isOpen says the same as the settings do, minute by minute of the week.
func isOpen(windows []broker.RotationWindow, at time.Time) bool {
	at = at.UTC()
	for _, w := range windows {
		for back := range 2 {
			start := at.AddDate(0, 0, -back)
			if len(w.Days) > 0 && !slices.Contains(w.Days, strings.ToLower(start.Weekday().String()[:3])) {
				continue
			}
			begin, _ := time.Parse("2006-01-02 15:04", start.Format("2006-01-02 ")+w.Begin)
			end, _ := time.Parse("2006-01-02 15:04", start.Format("2006-01-02 ")+w.End)
			if !end.After(begin) {
				end = end.AddDate(0, 0, 1)
			}
			if !at.Before(begin) && at.Before(end) {
				return true
			}
		}
	}
	return false
}

// TestNoRotationBySchedule of those that have none, or do not get tokens.
func TestNoRotationBySchedule(t *testing.T) {
	now := time.Now()
	current := []broker.SecretVersion{{Number: 1, Stage: broker.Current, CreateTime: now.Add(-300 * day), ExpireTime: now.Add(day)}}
	base := func(edit func(*broker.Client)) *broker.Client {
		c := &broker.Client{UID: "u", Secrets: current, Rotation: broker.RotationSettings{Rotator: "almanac", Every: day}}
		edit(c)
		return c
	}
	tests := []struct {
		name string
		edit func(*broker.Client)
		want bool
	}{
		{"due", func(*broker.Client) {}, true},
		{"only its expiry", func(c *broker.Client) { c.Rotation.Every = 0 }, true},
		{"no rotator", func(c *broker.Client) { c.Rotation = broker.RotationSettings{} }, false},
		{"no secret", func(c *broker.Client) { c.Secrets = nil }, false},
		{"disabled", func(c *broker.Client) { c.Disabled = true }, false},
		{"deleted", func(c *broker.Client) { c.DeleteTime = now }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := base(test.edit).NextRotation(now); got.Equal(now) != test.want || got.IsZero() == test.want {
				t.Errorf("NextRotation = %v, want it now: %t", got, test.want)
			}
		})
	}
}

// TestExpiryPullsTheDateForward, and a secret that lives shorter than that is not
// replaced all the time.
func TestExpiryPullsTheDateForward(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name             string
		expires          time.Duration
		before           time.Duration
		earliest, latest time.Duration
	}{
		{"by default 14 days before", 90 * day, 0, 75 * day, 76 * day},
		{"as the settings say", 90 * day, 30 * day, 58 * day, 60 * day},
		{"after half of a short life", 7 * day, 0, 3 * day, 7 * day / 2},
		{"too late", -day, 0, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &broker.Client{
				UID: "u", Secrets: []broker.SecretVersion{{Number: 1, Stage: broker.Current, CreateTime: now, ExpireTime: now.Add(test.expires)}},
				Rotation: broker.RotationSettings{Rotator: "almanac", Every: 365 * day, BeforeExpiry: test.before},
			}
			if got := c.NextRotation(now).Sub(now); got < test.earliest || got > test.latest {
				t.Errorf("in %v, want %v to %v", got, test.earliest, test.latest)
			}
		})
	}
}

// TestScheduledRotationsThatFail are tried again, later and later, five times; then a
// person is called, and one who rotates by hand ends that.
func TestScheduledRotationsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, a := brokertest.NewMemory(), newAlmanac(brokertest.NewUpstream())
		a.setRefuse(&broker.Error{Reason: broker.ReasonClientRejected})
		f := scheduled(t, memory, memory, a)
		f.create(t, "acme", rotatedEvery(2*day))
		time.Sleep(4 * day)
		times := a.all()
		if len(times) != 5 {
			t.Fatalf("%d tries at %v, want 5", len(times), times)
		}
		for i, want := range []time.Duration{1, 2, 4, 8} {
			if gap := times[i+1].Sub(times[i]); gap < want*time.Hour || gap > want*time.Hour+10*time.Minute {
				t.Errorf("%v after try %d, want %d h", gap, i+1, want)
			}
		}
		if !strings.Contains(f.log.String(), "scheduled rotations have failed too often") {
			t.Error("nobody is called")
		}
		if got := f.Census(); got.Stuck != 1 {
			t.Errorf("the census counts %d stuck, want 1: %+v", got.Stuck, got)
		}
		if got := f.RotationsEnded(); got[broker.RotationFailed] != 5 || got[broker.RotationCompleted] != 0 {
			t.Errorf("RotationsEnded = %v, want 5 failed", got)
		}
		f.wantTokenWith(t, password)
		a.setRefuse(nil)
		if _, err := f.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * day / 2)
		if got := len(a.all()); got != 7 {
			t.Errorf("%d secrets were asked for, want one by hand and one by schedule after it", got-5)
		}
		f.token(t, "acme")
	})
}

// TestScheduleWaitsForWhatIsUnderWay: a version that somebody has just staged, and a
// window that is open between two visits of a client that is not in memory.
func TestScheduleWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, a := brokertest.NewMemory(), newAlmanac(brokertest.NewUpstream())
		maker := open(t, memory, brokertest.NewFaulty(memory), a.upstream, func(cfg *broker.Config) {
			cfg.Rotators = map[string]broker.Rotator{"almanac": a}
		})
		maker.create(t, "staged", rotatedEvery(day))
		maker.create(t, "narrow", rotatedEvery(day, broker.RotationWindow{Begin: "04:17", End: "04:18"}))
		time.Sleep(23 * time.Hour)
		staged := time.Now()
		maker.stage(t, "staged", "by-hand")
		f := scheduled(t, memory, memory, a)
		time.Sleep(3 * day)
		byClient := map[string][]time.Time{}
		for _, id := range []string{"staged", "narrow"} {
			r, err := f.GetRotation(t.Context(), id)
			if err != nil || !r.Scheduled {
				t.Fatalf("%s: %+v, %v", id, r, err)
			}
			byClient[id] = append(byClient[id], r.CreateTime)
		}
		if at := byClient["narrow"][0]; at.Format("15:04") != "04:17" {
			t.Errorf("a rotation began at %v, which its window has not", at)
		}
		if at := byClient["staged"][0]; at.Sub(staged) < day {
			t.Errorf("a rotation began %v after somebody had staged a secret", at.Sub(staged))
		}
	})
}
