package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/internal/checkup"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// doctorCommand looks at a set-up from the operator's side.
type doctorCommand struct {
	AfterRestore bool `help:"List what a store that was restored from a backup may have wrong; reads all clients and changes nothing."`
}

// Help implements kong.HelpProvider.
func (c *doctorCommand) Help() string {
	return `It looks at the context and its files, the way to the broker (name, address, TLS), whom the broker takes you for, its health, its clock and its store, and says what mends each. Status 13 says that something is broken. On the broker's own machine, "tokenbroker doctor --config FILE" looks at the rest.

Examples:

    tokenctl doctor
    tokenctl doctor --context prod -o json
    tokenctl doctor --after-restore`
}

// Run implements the command.
func (c *doctorCommand) Run(ctx context.Context, s *session) error {
	d := &doctor{session: s, screen: newScreen(s)}
	if s.Output == outputText {
		d.Tell = d.draw
	}
	if d.chosen() {
		d.look(ctx, c.AfterRestore)
	}
	d.end()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.conclude()
}

// doctor goes from one look to the next. It belongs to one command.
type doctor struct {
	checkup.Sheet
	screen
	session *session
	context contextConfig
	refused bool   // the broker ended our handshake
	drew    string // the part that was drawn last
	// listed is how many of each kind a restore may have wrong; nil if that was not asked.
	listed map[string]int
}

// chosen looks at the configuration and the context's own files.
func (d *doctor) chosen() bool {
	d.Part = "context"
	chosen, name, err := d.session.chosen()
	if err != nil {
		d.Bad("configuration", "`tokenctl context set NAME --address HOST:PORT …` makes a context", err.Error())
		return false
	}
	d.context = chosen
	d.Good("context", name+": "+orElse(chosen.Address, chosen.UnixSocket))
	d.credentials(time.Now())
	return true
}

// look goes the way to the broker and asks it.
func (d *doctor) look(ctx context.Context, afterRestore bool) {
	d.Part = "way"
	d.way(ctx)
	d.Part = "broker"
	if d.refused {
		d.Skipped("everything", "the broker does not take the connection")
		return
	}
	otherwise := callsWithin
	if afterRestore {
		otherwise = withoutEnd
	}
	err := d.session.call(ctx, otherwise, func(ctx context.Context, b *services) error {
		if !d.alive(ctx, b) {
			return nil
		}
		known := d.known(ctx, b)
		d.store(ctx, b, known)
		if afterRestore && known {
			d.Part, d.listed = "restore", map[string]int{}
			d.restored(ctx, b)
		}
		return nil
	})
	if err != nil {
		d.Bad("connection", "mend what the looks above say", problemOf(ctx, err).Message)
	}
}

// health services: the process, and whether it can give tokens.
const tokenServiceName = "tokenbroker.v1.TokenService"

// alive asks for the broker's health, which needs no permission.
func (d *doctor) alive(ctx context.Context, b *services) bool {
	d.transient("asking the broker")
	answer, err := b.health.Check(ctx, &healthpb.HealthCheckRequest{})
	text := status.Convert(err).Message()
	if err != nil {
		d.Bad("health", "look at the broker's log; on its machine, `tokenbroker doctor --config FILE` looks at the rest", text)
		return false
	}
	d.servingWord("health", "the process lives", answer.GetStatus())
	answer, err = b.health.Check(ctx, &healthpb.HealthCheckRequest{Service: tokenServiceName})
	if err != nil {
		d.Doubtful("ready", "look at the broker's log", status.Convert(err).Message())
		return true
	}
	d.servingWord("ready", "the broker gives tokens", answer.GetStatus())
	return true
}

func (d *doctor) servingWord(name, good string, answer healthpb.HealthCheckResponse_ServingStatus) {
	if answer == healthpb.HealthCheckResponse_SERVING {
		d.Good(name, good)
		return
	}
	d.Bad(name, "it has lost its store, or is stopping: the looks at the store below and its log say more", strings.ToLower(answer.String()))
}

// known asks who we are there, and what time it is; it reports whether the access table
// lists us.
func (d *doctor) known(ctx context.Context, b *services) bool {
	sent := time.Now()
	me, err := b.access.WhoAmI(ctx, &pb.WhoAmIRequest{})
	took := time.Since(sent)
	if err != nil {
		p := problemOf(ctx, err)
		d.Bad("identity", "show a certificate or a token that the broker knows: its listen.client_ca_file, or jwt.issuers", p.Message)
		return false
	}
	if me.GetCaller() == "" {
		d.Bad("identity", "add one of the identities to the access table", append([]string{"the access table lists none of what you are:"}, me.GetIdentities()...)...)
		return false
	}
	seen := append([]string{"you are " + me.GetCaller()}, me.GetIdentities()...)
	if end := me.GetExpireTime(); end != nil && time.Until(end.AsTime()) < 24*time.Hour {
		d.Doubtful("identity", "renew it; connections end with it", append(seen, "it ends "+when(time.Now(), end))...)
	} else {
		d.Good("identity", seen...)
	}
	may := map[string]bool{}
	for _, g := range me.GetGrants() {
		for _, p := range g.GetPermissions() {
			may[p] = true
		}
	}
	if len(may) == 0 {
		d.Doubtful("permissions", "add a rule to the access table", "the access table gives you nothing")
	} else {
		d.Good("permissions", strings.Join(sortedKeys(may), ", "))
	}
	if me.GetServerTime() == nil {
		d.Skipped("clock", "the broker is older than tokenctl and does not tell its time")
	} else {
		d.clock(me.GetServerTime().AsTime().Sub(sent.Add(took/2)), took/2)
	}
	d.version(me.GetServerVersion())
	return true
}

func sortedKeys(set map[string]bool) []string {
	var keys []string
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// How far two clocks may be apart.
const (
	skewSeen = 2 * time.Second
	skewBad  = 30 * time.Second
)

// clock compares the broker's clock with ours; it may be off by unsure more or less.
func (d *doctor) clock(ahead, unsure time.Duration) {
	way := "ahead of"
	if ahead < 0 {
		way = "behind"
	}
	seen := fmt.Sprintf("the broker's clock is %s %s this machine's, give or take %s", ahead.Abs().Round(time.Millisecond), way, unsure.Round(time.Millisecond))
	const mend = "run a time service on both machines: certificates and tokens seem expired, or not yet valid, by the wrong clock"
	switch off := ahead.Abs() - unsure; {
	case off > skewBad:
		d.Bad("clock", mend, seen)
	case off > skewSeen:
		d.Doubtful("clock", mend, seen)
	default:
		d.Good("clock", "the broker's and this machine's agree to "+max(ahead.Abs(), unsure, time.Millisecond).Round(time.Millisecond).String())
	}
}

func (d *doctor) version(broker string) {
	switch {
	case broker == "":
		d.Skipped("version", "the broker does not tell; tokenctl is "+version)
	case broker != version:
		d.Good("version", "the broker is "+broker+", tokenctl "+version)
	default:
		d.Good("version", "both are "+version)
	}
}

// nobody is a client that is not registered: a check of it sees the store and no more.
const nobody = "tokenctl-doctor-asks-for-nobody"

// store sees the store through the broker.
func (d *doctor) store(ctx context.Context, b *services, known bool) {
	if !known {
		d.Skipped("store", "the broker tells only those whom its access table lists")
		return
	}
	report, err := b.diagnostics.CheckLookup(ctx, &pb.CheckLookupRequest{Client: clientPrefix + nobody, Depth: pb.LookupDepth_LOOKUP_DEPTH_INDEX})
	if err != nil {
		if code := status.Code(err); code == codes.PermissionDenied || code == codes.Unimplemented {
			d.Skipped("store", problemOf(ctx, err).Message+"; lookup.check for all clients is needed")
		} else {
			d.Bad("store", "look at the broker's log", problemOf(ctx, err).Message)
		}
		return
	}
	for _, s := range report.GetStages() {
		if !strings.HasPrefix(s.GetName(), "STORE_") {
			continue
		}
		seen := slices.DeleteFunc(append([]string{s.GetTitle(), s.GetReason()}, s.GetEvidence()...), func(text string) bool { return text == "" })
		switch s.GetOutcome() {
		case pb.StageOutcome_STAGE_OUTCOME_PASSED:
			d.Good("store", s.GetTitle())
		case pb.StageOutcome_STAGE_OUTCOME_WARNED:
			d.Doubtful("store", s.GetRemedy(), seen...)
		case pb.StageOutcome_STAGE_OUTCOME_FAILED:
			d.Bad("store", s.GetRemedy(), seen...)
		default:
			d.Skipped("store", s.GetTitle())
		}
	}
}
