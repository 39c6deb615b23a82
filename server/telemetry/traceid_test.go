package telemetry_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// TestTraceIDOfTheCaller has tracing off; the header alone decides.
func TestTraceIDOfTheCaller(t *testing.T) {
	const sound = "00-" + callersTrace + "-" + callersParent + "-01"
	tests := []struct {
		name    string
		headers []string
		want    string
	}{
		{"none", nil, ""},
		{"sampled", []string{sound}, callersTrace},
		{"not sampled", []string{"00-" + callersTrace + "-" + callersParent + "-00"}, callersTrace},
		{"unknown flags", []string{"00-" + callersTrace + "-" + callersParent + "-ff"}, callersTrace},
		{"a later version", []string{"cc-" + callersTrace + "-" + callersParent + "-01"}, callersTrace},
		{"a later version with more", []string{"cc-" + callersTrace + "-" + callersParent + "-01-what"}, callersTrace},
		{"a later version that runs on", []string{"cc-" + callersTrace + "-" + callersParent + "-01what"}, ""},
		{"the forbidden version", []string{"ff-" + callersTrace + "-" + callersParent + "-01"}, ""},
		{"more than version 00 has", []string{sound + "-00"}, ""},
		{"two", []string{sound, sound}, ""},
		{"no trace", []string{"00-00000000000000000000000000000000-" + callersParent + "-01"}, ""},
		{"no parent", []string{"00-" + callersTrace + "-0000000000000000-01"}, ""},
		{"upper case", []string{"00-4BF92F3577B34DA6A3CE929D0E0E4736-" + callersParent + "-01"}, ""},
		{"no hex", []string{"00-4bf92f3577b34da6a3ce929d0e0e473g-" + callersParent + "-01"}, ""},
		{"no hex in the version", []string{"0x-" + callersTrace + "-" + callersParent + "-01"}, ""},
		{"short", []string{"00-" + callersTrace + "-" + callersParent + "-1"}, ""},
		{"empty", []string{""}, ""},
		{"spaces", []string{" " + sound}, ""},
		{"other separators", []string{"00_" + callersTrace + "_" + callersParent + "_01"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"traceparent": test.headers})
			if got := telemetry.TraceID(ctx); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestTraceIDCostsNothingWithoutHeader(t *testing.T) {
	incoming := metadata.NewIncomingContext(t.Context(), metadata.MD{"user-agent": {"x"}, ":authority": {"y"}})
	for name, ctx := range map[string]context.Context{"a call": incoming, "no call": t.Context()} {
		if n := testing.AllocsPerRun(100, func() { _ = telemetry.TraceID(ctx) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

func FuzzTraceID(f *testing.F) {
	f.Add("00-" + callersTrace + "-" + callersParent + "-01")
	f.Add("cc-" + callersTrace + "-" + callersParent + "-01-more")
	f.Fuzz(func(t *testing.T, header string) {
		got := telemetry.TraceID(metadata.NewIncomingContext(t.Context(), metadata.MD{"traceparent": {header}}))
		if got != "" && (len(got) != 32 || header[3:35] != got) {
			t.Errorf("%q: got %q", header, got)
		}
	})
}
