package main

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestWhereItWentOut: who is told that a rotation needs them is told the ways that are
// open, and no other.
func TestWhereItWentOut(t *testing.T) {
	tests := []struct {
		name    string
		edit    func(*pb.Rotation)
		want    []string
		without []string
	}{
		{"before promotion", func(*pb.Rotation) {}, []string{"tokenctl rotate acme-crm --request-id ", "tokenctl rotations abort acme-crm gives it up"}, []string{"secret rollback"}},
		{"after promotion", func(r *pb.Rotation) { r.PromoteTime = timestamppb.Now() }, []string{"tokenctl secret rollback acme-crm leads back"}, []string{"abort"}},
		{"without a request id", func(r *pb.Rotation) { r.RequestId = "" }, []string{"tokenctl rotations abort acme-crm"}, []string{"rotate acme-crm --request-id \n"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			f.begin(func() {
				f.step(needsOperator, "retire", "CLIENT_REJECTED", func(r *pb.Rotation) { r.Automatic = true; test.edit(r) })
			})
			f.operator().run("rotate", "acme-crm").want(exitNeedsOperator, test.want...).without(test.without...)
		})
	}
}

// TestLastUse: the broker knows a quarter of an hour; an exact time before the version
// was staged would only raise questions.
func TestLastUse(t *testing.T) {
	now := time.Date(2026, 11, 21, 9, 7, 0, 0, time.UTC)
	tests := []struct {
		name string
		at   *timestamppb.Timestamp
		want string
	}{
		{"never", nil, ""},
		{"in this quarter", timestamppb.New(now.Truncate(15 * time.Minute)), "in the last 15 min"},
		{"before", timestamppb.New(now.Add(-time.Hour)), "2026-11-21 08:07:00 UTC (1 h ago)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := lastUse(now, test.at); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
