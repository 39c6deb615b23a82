package main

import (
	"context"
	"strings"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokenbroker/tokenbroker/client"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// How long calls may take where --timeout does not say. To verify may be 20 tokens, a
// minute apart at most.
const (
	callsWithin  = time.Minute
	verifyWithin = 20 * time.Minute
	withoutEnd   = 0
)

// services are those of one broker, on one connection.
type services struct {
	rotations   pb.RotationServiceClient
	tokens      pb.TokenServiceClient
	clients     pb.ClientServiceClient
	access      pb.AccessServiceClient
	diagnostics pb.DiagnosticsServiceClient
	consents    pb.AuthorizationServiceClient
	health      healthpb.HealthClient
}

// call runs work with the services of the chosen context, for at most --timeout, else
// otherwise; 0 is no bound.
func (s *session) call(ctx context.Context, otherwise time.Duration, work func(context.Context, *services) error) error {
	chosen, _, err := s.chosen()
	if err != nil {
		return err
	}
	target, options, err := chosen.target()
	if err != nil {
		return err
	}
	conn, err := client.Dial(target, options...)
	if err != nil {
		return usage("%w", err)
	}
	defer func() { _ = conn.Close() }()
	most := s.Timeout
	if most == 0 {
		most = otherwise
	}
	within := ctx
	if most > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeout(ctx, most)
		defer cancel()
	}
	err = work(within, &services{
		rotations: pb.NewRotationServiceClient(conn), tokens: pb.NewTokenServiceClient(conn),
		clients: pb.NewClientServiceClient(conn), access: pb.NewAccessServiceClient(conn), diagnostics: pb.NewDiagnosticsServiceClient(conn),
		consents: pb.NewAuthorizationServiceClient(conn), health: healthpb.NewHealthClient(conn),
	})
	if err != nil {
		return problemOf(ctx, err)
	}
	return nil
}

// clientPrefix begins the names of clients in the API.
const clientPrefix = "clients/"

// clientArg is the client that a command is about.
type clientArg struct {
	Client string `arg:"" help:"Name of the client: acme-crm, or clients/acme-crm." complete:"client"`
}

// name is what the API calls the client.
func (c clientArg) name() string { return clientPrefix + c.id() }

// id is the name without what all names begin with.
func (c clientArg) id() string { return strings.TrimPrefix(c.Client, clientPrefix) }

// again is a command of this tool with the context that this one was given.
func (s *session) again(command string) string {
	if s.Context != "" && s.Context != s.getenv(contextVariable) {
		command += " --context " + s.Context
	}
	return "tokenctl " + command
}
