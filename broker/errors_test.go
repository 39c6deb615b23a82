package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestError(t *testing.T) {
	cause := errors.New("the cause")
	tests := []struct {
		name string
		err  *broker.Error
		want string
	}{
		{"reason only", &broker.Error{Reason: broker.ReasonInternal}, "INTERNAL"},
		{"all", &broker.Error{
			Reason: broker.ReasonInvalidRequest, Op: "do it", Client: "acme", Detail: "the detail", Err: cause,
			Fields: []broker.FieldViolation{{Field: "a", Problem: "is bad"}, {Field: "b", Problem: "is worse"}},
		}, "do it: client acme: INVALID_REQUEST: the detail; a: is bad; b: is worse: the cause"},
		{"invalid", broker.Invalid("a.b", "has %d", 3), "INVALID_REQUEST; a.b: has 3"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.err.Error(); got != test.want {
				t.Errorf("Error() = %q, want %q", got, test.want)
			}
			if got, want := errors.Is(test.err, cause), test.err.Err != nil; got != want {
				t.Errorf("errors.Is the cause = %t, want %t", got, want)
			}
		})
	}
}

func TestReasonOf(t *testing.T) {
	e := &broker.Error{Reason: broker.ReasonStoreSealed}
	tests := []struct {
		name string
		err  error
		want broker.Reason
	}{
		{"nil", nil, ""},
		{"error", e, broker.ReasonStoreSealed},
		{"wrapped", fmt.Errorf("read: %w", e), broker.ReasonStoreSealed},
		{"outermost counts", &broker.Error{Reason: broker.ReasonSecretAbsent, Err: e}, broker.ReasonSecretAbsent},
		{"foreign", context.Canceled, broker.ReasonInternal},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := broker.ReasonOf(test.err); got != test.want {
				t.Errorf("ReasonOf = %q, want %q", got, test.want)
			}
			if test.err == nil {
				return
			}
			if got := broker.AsError(test.err); got.Reason != test.want || !errors.Is(got, test.err) && !errors.Is(test.err, got) {
				t.Errorf("AsError = %+v, want reason %q and the chain kept", got, test.want)
			}
		})
	}
}

func TestAbsent(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600))
	tests := []struct {
		how  broker.Absence
		want broker.Reason
		text string
	}{
		{broker.AbsentNeverExisted, broker.ReasonRecordAbsent, "k: never existed at 2026-01-02T02:04:05Z"},
		{broker.AbsentDeleted, broker.ReasonRecordDeleted, "k: deleted at 2026-01-02T02:04:05Z"},
		{broker.AbsentDestroyed, broker.ReasonRecordDestroyed, "k: destroyed at 2026-01-02T02:04:05Z"},
		{broker.AbsentPruned, broker.ReasonRecordPruned, "k: pruned at 2026-01-02T02:04:05Z"},
	}
	for _, test := range tests {
		err := broker.Absent("k", test.how, at, 3)
		wantReason(t, "Absent", err, test.want)
		var absent *broker.AbsentError
		if !errors.As(err, &absent) || absent.How != test.how || absent.Version != 3 {
			t.Fatalf("Absent = %+v, want an AbsentError: %v", err, test.how)
		}
		if got := absent.Error(); got != test.text {
			t.Errorf("Error() = %q, want %q", got, test.text)
		}
		if got, want := broker.Absent("k", test.how, time.Time{}, 0).Error(), "k: "+test.how.String(); !strings.HasSuffix(got, want) {
			t.Errorf("without a time: %q, want %q at its end", got, want)
		}
	}
}
