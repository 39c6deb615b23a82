package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/audit"
)

// item does one item of a stream as if it were a call: it is decided about under the
// table that is in force then, counted, recorded before it is done and after, and ended
// by neither the caller's leaving nor the server's stop, but after the longest time that
// a call has. failed is why this item came to nothing, ended why none may follow.
func (b *border) item(s *boundStream, client string, authorize, work func(context.Context, *visit) error) (failed, ended error) {
	of := s.call
	c := &call{
		method: of.method, need: of.need, client: client, requestID: of.requestID, traceID: of.traceID,
		visit: visit{labels: b.labels, peer: of.visit.peer, started: time.Now()},
	}
	c.visit.caller, _ = c.visit.peer.Caller(b.table())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), b.maxDeadline)
	defer cancel()
	if failed = authorize(ctx, &c.visit); failed == nil {
		if ended = b.pace(s.ctx, c); ended != nil {
			return nil, ended
		}
		defer c.leaveBuckets()
		if ended = b.announce(c); ended != nil {
			return nil, ended
		}
		failed = ofContext(work(ctx, &c.visit))
	}
	if failed == nil {
		return nil, b.record(c, audit.Allowed, "")
	}
	reason := broker.ReasonOf(failed)
	b.log.LogAttrs(ctx, levelOf(Code(reason), reason), "import", append(c.attrs(),
		slog.String("code", Code(reason).String()), slog.String("reason", string(reason)), slog.String("cause", failed.Error()))...)
	return failed, b.record(c, outcomeOf(reason), reason)
}

// pace counts an item in where the row of the access table limits it, as soon as there
// is room: who sends many at once is held up and not refused.
func (b *border) pace(ctx context.Context, c *call) error {
	limits := c.visit.decision.Limits
	if limits == nil {
		return nil
	}
	c.visit.quota = b.quotas.of(c.visit.caller.Table(), limits)
	for {
		err := c.visit.quota.enter(c)
		if err == nil {
			return nil
		}
		c.leaveBuckets()
		timer := time.NewTimer(broker.AsError(err).RetryAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// ImportClients implements ClientService. One client is done after the other, and the
// next is received when the answer about the last one is on its way, so that a stream
// holds one of them in memory however many there are.
func (s *clientService) ImportClients(stream grpc.BidiStreamingServer[pb.ImportClientsRequest, pb.ImportClientsResponse]) error {
	ctx := stream.Context()
	v := visitOf(ctx)
	stop := func() {}
	defer func() { stop() }()
	for index := int64(0); ; index++ {
		req, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		case index == 0:
			stop = v.recheck(func(*access.Decision) error { return nil }) // that it may still import anything is all that can be asked
		}
		response, err := s.importOne(v, req)
		if err != nil {
			return err
		}
		response.Index = index
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

// importOutcomes is ImportOutcome :: domain → proto.
var importOutcomes = map[broker.ImportOutcome]pb.ImportOutcome{
	broker.ImportCreated:   pb.ImportOutcome_IMPORT_OUTCOME_CREATED,
	broker.ImportUpdated:   pb.ImportOutcome_IMPORT_OUTCOME_UPDATED,
	broker.ImportUnchanged: pb.ImportOutcome_IMPORT_OUTCOME_UNCHANGED,
}

// importOne imports one client and says what became of it; its error ends the stream.
func (s *clientService) importOne(v *visit, req *pb.ImportClientsRequest) (*pb.ImportClientsResponse, error) {
	name := clientOf(req)
	response := &pb.ImportClientsResponse{Name: name}
	var mayCreate error
	failed, ended := v.item(name, func(ctx context.Context, item *visit) (err error) {
		mayCreate, err = item.mayImport(ctx, req, name)
		return err
	}, func(ctx context.Context, item *visit) error {
		in, err := importFromProto(req)
		if err != nil {
			return err
		}
		if err := item.mayManage(ctx, in.Rotation.ManagementClient); err != nil {
			return err
		}
		in.MayCreate = func() error { return mayCreate }
		in.MayUpdate = func() error { return item.mayUpdate(ctx, req, in.ID) }
		in.Check, in.MayRetarget = item.mayMake(ctx), item.mayRetarget
		outcome, err := s.broker.ImportClient(ctx, in)
		response.Outcome = importOutcomes[outcome]
		return err
	})
	if failed != nil {
		response.Outcome = pb.ImportOutcome_IMPORT_OUTCOME_FAILED
		explain(response, broker.AsError(failed), v.told())
	}
	return response, ended
}

// explain says of one client what an error says of a call.
func explain(response *pb.ImportClientsResponse, e *broker.Error, operator bool) {
	info := e.Reason.Info()
	response.Reason, response.Remedy = string(e.Reason), info.Remedy
	for _, f := range within(e.Fields, mostDetailBytes) {
		response.Problems = append(response.Problems, f.Field+" "+f.Problem)
	}
	if len(response.Problems) > 0 {
		return
	}
	problem := info.Summary
	if operator && e.Detail != "" {
		problem += " (" + e.Detail + ")"
	}
	response.Problems = []string{problem}
}

// importFromProto takes one client of an import off the wire.
func importFromProto(req *pb.ImportClientsRequest) (broker.ImportedClient, error) {
	id, err := clientID("client.name", req.GetClient().GetName())
	if err != nil {
		return broker.ImportedClient{}, err
	}
	set, err := settingsFromProto(req.GetClient())
	if err != nil {
		return broker.ImportedClient{}, err
	}
	in := broker.ImportedClient{Update: req.GetUpdate()}
	in.NewClient = broker.NewClient{
		ID: id, Labels: set.labels, Upstream: set.upstream, TokenPolicy: set.tokenPolicy, Rotation: set.rotation, ValidateOnly: req.GetValidateOnly(),
	}
	if req.GetSecret() != nil {
		in.Secret, err = secretFromProto(req.GetSecret())
	}
	return in, err
}

// mayImport decides about one client of an import: whether the caller may create it, in
// which case it may also turn out to be there, or may change it. mayNotCreate is why it
// may not create it, err why it may do neither.
func (v *visit) mayImport(ctx context.Context, req *pb.ImportClientsRequest, name string) (mayNotCreate, err error) {
	id, named := strings.CutPrefix(name, "clients/")
	if !named || broker.CheckID("", id) != nil {
		v.decision.Allowed = true // what is wrong with the name is said, and nothing done
		return nil, nil
	}
	v.decision = v.caller.Table().Decide(access.Request{Caller: v.caller, Permission: access.ClientWrite, Client: id})
	mayNotCreate = v.decision.Err()
	for _, p := range secretOf(access.SecretStage)(req) {
		if mayNotCreate == nil && !v.mayWith(p, id, nil) {
			mayNotCreate = denied()
		}
	}
	if mayNotCreate != nil {
		err = v.mayUpdate(ctx, req, id)
	}
	return mayNotCreate, err
}

// mayUpdate decides whether the caller may do what UpdateClient would.
func (v *visit) mayUpdate(ctx context.Context, req *pb.ImportClientsRequest, id string) error {
	d, err := v.decide(ctx, access.ClientWrite, id)
	if err != nil {
		return err
	}
	v.decision = d
	for _, p := range secretOf(access.SecretStage, access.SecretPromote)(req) {
		if _, err := v.decide(ctx, p, id); err != nil {
			return err
		}
	}
	return nil
}
