package server

import (
	"maps"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Codes returns the table of codes.
func Codes() map[broker.Reason]codes.Code { return maps.Clone(codeOf) }

// ServiceInfo returns what the server has registered.
func (s *Server) ServiceInfo() map[string]grpc.ServiceInfo { return s.grpc.GetServiceInfo() }

// AccessRows returns the methods that the access table has a row for.
func AccessRows() []string {
	rows := make([]string, 0, len(needs))
	for method := range needs {
		rows = append(rows, method)
	}
	return rows
}

// WithoutAccessRow runs work while the access table lacks method. No server may
// have calls under way when it begins or ends.
func WithoutAccessRow(method string, work func()) {
	demanded := needs[method]
	delete(needs, method)
	defer func() { needs[method] = demanded }()
	work()
}

// KeptFailures is how many failed calls are remembered.
const KeptFailures = keptFailures

// Failures are the last failed calls.
type Failures struct{ kept *failures }

// NewFailures returns none.
func NewFailures() Failures { return Failures{newFailures()} }

// Note remembers a call by its request id.
func (f Failures) Note(requestID, client string) {
	f.kept.note(failedCall{requestID: requestID, client: client})
}

// Find returns the client of a call; false if it is not remembered.
func (f Failures) Find(requestID string) (client string, ok bool) {
	call, ok := f.kept.find(requestID)
	return call.client, ok
}

// CheckLine is the line of tokenctl that tells more about a failure.
func CheckLine(reason broker.Reason, id string) string { return checkLine(reason, id) }
