package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

func TestTimesForPeople(t *testing.T) {
	now := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	for away, want := range map[time.Duration]string{
		0: "2026-05-01 10:00:00 UTC (in 0 s)", 59 * time.Second: "2026-05-01 10:00:59 UTC (in 59 s)", -time.Minute: "2026-05-01 09:59:00 UTC (1 min ago)",
		90 * time.Minute: "2026-05-01 11:30:00 UTC (in 1 h)", -47 * time.Hour: "2026-04-29 11:00:00 UTC (47 h ago)", 48 * time.Hour: "2026-05-03 10:00:00 UTC (in 2 days)",
	} {
		if got := when(now, timestamppb.New(now.Add(away))); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := when(now, nil); got != "" {
		t.Errorf("got %q for no time", got)
	}
}

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"plain äß 漢": "plain äß 漢", "a\tb\nc\r": "a b c ", "\x1b[2J": "\ufffd[2J", "\u009b2J": "\ufffd2J", "a\u202eb": "a\ufffdb", "\xff": "\ufffd", "a\x00": "a\ufffd",
	} {
		if got := clean(text); got != want {
			t.Errorf("clean(%q) = %q, want %q", text, got, want)
		}
	}
}

// TestStatuses: each code has one status, and each status one row.
func TestStatuses(t *testing.T) {
	seen := map[int]bool{}
	rows := map[codes.Code]int{}
	for _, cause := range exitStatuses() {
		if seen[cause.status] || cause.meaning == "" {
			t.Errorf("status %d has two rows or no meaning", cause.status)
		}
		seen[cause.status] = true
		for _, code := range cause.codes {
			rows[code]++
		}
	}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		if rows[code] != 1 {
			t.Errorf("%v stands in %d rows, want 1", code, rows[code])
		}
	}
}

// TestEventsAreShownOnce: only what came after the last that was shown, also when the
// oldest are not sent any more.
func TestEventsAreShownOnce(t *testing.T) {
	event := func(step string) *pb.RotationEvent { return &pb.RotationEvent{Step: step} }
	tests := []struct{ name, events, shown, want string }{
		{"first", "a b", "", "a b"},
		{"nothing new", "a b", "b", ""},
		{"one more", "a b c", "b", "c"},
		{"the oldest gone", "b c d", "b", "c d"},
		{"all new", "x y", "b", "x y"},
		{"repeated", "a b a c", "a", "c"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var events []*pb.RotationEvent
			for _, step := range strings.Fields(test.events) {
				events = append(events, event(step))
			}
			var shown *pb.RotationEvent
			if test.shown != "" {
				shown = event(test.shown)
			}
			var got []string
			for _, e := range sinceEvent(events, shown) {
				got = append(got, e.GetStep())
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("got %v, want %q", got, test.want)
			}
		})
	}
}

func TestStages(t *testing.T) {
	for want, v := range map[string]*pb.SecretVersion{
		"": {}, "current": {Stage: pb.SecretStage_SECRET_STAGE_CURRENT}, "destroying": {Destroying: true},
		"previous, destroying": {Stage: pb.SecretStage_SECRET_STAGE_PREVIOUS, Destroying: true},
	} {
		if got := stageOf(v); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestEveryValueHasAWord: what a newer broker adds is shown somehow, what is there well.
func TestEveryValueHasAWord(t *testing.T) {
	for n := range pb.RotationState_name {
		if w := stateWord(pb.RotationState(n)); w == "" || strings.ContainsAny(w, "_ABC") {
			t.Errorf("%v is called %q", pb.RotationState(n), w)
		}
	}
	if w := stateWord(pb.RotationState(99)); w != "99" {
		t.Errorf("an unknown state is called %q", w)
	}
	states := listedStates(t)
	for _, state := range states {
		name := "ROTATION_STATE_" + strings.ToUpper(strings.ReplaceAll(state, "-", "_"))
		if _, known := pb.RotationState_value[name]; !known {
			t.Errorf("--state takes %s, which is none", state)
		}
	}
	if got, want := len(states), len(pb.RotationState_name)-1; got != want {
		t.Errorf("--state takes %d states, want %d", got, want)
	}
}

// listedStates are those that --state takes.
func listedStates(t *testing.T) []string {
	for _, leaf := range model(t).Leaves(true) {
		for _, flag := range leaf.Flags {
			if flag.Name == "state" {
				return flag.EnumSlice()
			}
		}
	}
	t.Fatal("there is no flag --state")
	return nil
}

// TestVocabulary: each word is one of the API, and what it is called here exists.
func TestVocabulary(t *testing.T) {
	methods := map[string]bool{}
	for _, service := range []grpc.ServiceDesc{pb.RotationService_ServiceDesc, pb.TokenService_ServiceDesc, pb.AccessService_ServiceDesc, pb.ClientService_ServiceDesc, pb.DiagnosticsService_ServiceDesc} {
		for _, m := range service.Methods {
			methods[m.MethodName] = true
		}
		for _, m := range service.Streams {
			methods[m.StreamName] = true
		}
	}
	words := vocabulary()
	for _, m := range pb.RotationService_ServiceDesc.Methods {
		if words[m.MethodName] == "" {
			t.Errorf("%s is called nothing here", m.MethodName)
		}
	}
	for word, here := range words {
		if strings.HasPrefix(here, "--") {
			if flag := strings.TrimPrefix(here, "--"); flag != strings.ReplaceAll(word, "_", "-") {
				t.Errorf("%s is called %s", word, here)
			}
			continue
		}
		if !methods[word] {
			t.Errorf("%s is no method", word)
		}
		parseExample(t, word, strings.ReplaceAll(strings.ReplaceAll(here, "CLIENT", "acme-crm"), " N", " 4"))
	}
	got := translated("Call VerifySecret first, or set allow_unverified; VerifySecret again.")
	if want := []string{"VerifySecret is `tokenctl secret verify`", "allow_unverified is `--allow-unverified`"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
