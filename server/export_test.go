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
