package server

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// keptFailures is how many failed calls are remembered for ExplainError.
const keptFailures = 10_000

// failedCall is what is remembered of a call that failed: what the log has of it.
type failedCall struct {
	time                      time.Time
	took                      time.Duration
	requestID, method, caller string
	client                    string // "clients/…"; "" if none is concerned
	reason                    broker.Reason
	detail                    string
}

// failures are the last calls that failed, oldest overwritten first. Safe for concurrent
// use.
type failures struct {
	mu    sync.Mutex
	calls []failedCall   // guarded by mu
	next  int            // guarded by mu
	byID  map[string]int // request id → place in calls; guarded by mu
}

func newFailures() *failures { return &failures{byID: map[string]int{}} }

func (f *failures) note(call failedCall) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.calls) < keptFailures {
		f.calls = append(f.calls, call)
	} else {
		if old := f.calls[f.next]; f.byID[old.requestID] == f.next {
			delete(f.byID, old.requestID)
		}
		f.calls[f.next] = call
	}
	f.byID[call.requestID] = f.next
	f.next = (f.next + 1) % keptFailures
}

func (f *failures) find(requestID string) (failedCall, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, ok := f.byID[requestID]
	if !ok {
		return failedCall{}, false
	}
	return f.calls[i], true
}

// ExplainError implements DiagnosticsService. A failure of a client that the caller may
// not check is one that was not seen.
func (s *diagnosticsService) ExplainError(ctx context.Context, req *pb.ExplainErrorRequest) (*pb.ExplainErrorResponse, error) {
	id := req.GetRequestId()
	if id == "" || len(id) > 64 {
		return nil, broker.Invalid("request_id", "is required: request_id of the error's metadata, at most 64 characters")
	}
	unseen := &broker.Error{Reason: broker.ReasonFailureNotSeen, Detail: "the calls of other replicas are in their own memories and logs"}
	call, ok := s.failures.find(id)
	if !ok {
		return nil, unseen
	}
	clientName := call.client
	bare, named := cutClient(clientName)
	v := visitOf(ctx)
	// A failure of no client is of all: bare is empty then.
	if _, err := v.decide(ctx, access.LookupCheck, bare); err != nil && (named || call.caller != v.name()) {
		return nil, unseen
	}
	info := call.reason.Info()
	response := &pb.ExplainErrorResponse{
		Time: timeToProto(call.time), Method: call.method, Caller: call.caller, Client: clientName, Reason: string(call.reason),
		Summary: info.Summary, Detail: call.detail, Remedy: info.Remedy, Duration: durationpb.New(call.took),
	}
	if !named {
		return response, nil
	}
	response.NextCheck = "tokenctl check " + bare
	if usage, err := s.broker.Usage(ctx, bare); err == nil {
		for _, f := range usage.Failures {
			if f.Reason == call.reason {
				response.Recently = failureToProto(f)
				break
			}
		}
	}
	return response, nil
}

// cutClient returns the id of "clients/{client}"; false for anything else.
func cutClient(name string) (string, bool) {
	id, err := clientID("client", name)
	if err != nil || broker.CheckID("client", id) != nil {
		return "", false
	}
	return id, true
}
