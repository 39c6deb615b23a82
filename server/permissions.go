package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/answer"
	"github.com/tokenbroker/tokenbroker/server/bearer"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// Role is what a caller of the configuration's simple list may do.
type Role string

// The roles.
const (
	// RoleCaller may get tokens that are not users', and nothing else.
	RoleCaller Role = "caller"
	// RoleOperator may do everything but send a stored secret to another origin.
	RoleOperator Role = "operator"
)

// InsecureIdentity is the identity of whoever connects over plaintext on loopback.
const InsecureIdentity = access.InsecureIdentity

// Caller gives a verified identity a name and a role. A list of callers is the
// simple form of an access table: roles for all clients.
type Caller struct {
	// Name stands in logs.
	Name string
	// Identity is who that is as [access.NormalIdentity] takes it, such as a URI SAN
	// ("spiffe://example.org/crm") or a DNS SAN ("dns:crm.internal").
	Identity string
	// Role is what this caller may do.
	Role Role
}

// Callers returns the access table that a list of callers means. Its error names
// everything that is wrong, by keys such as "callers[0].role".
func Callers(list []Caller) (*access.Table, error) {
	roles := make([]access.RoleCaller, 0, len(list))
	for _, c := range list {
		roles = append(roles, access.RoleCaller{Name: c.Name, Identity: c.Identity, Role: string(c.Role)})
	}
	return access.FromRoles(roles)
}

// need is what a method demands of its peer.
type need struct {
	// permission for the client that the request names; 0 where kind says otherwise.
	permission access.Permission
	// kind is what the permission is asked for.
	kind needKind
	// also returns further permissions that this very request needs; nil for none.
	also func(req any) []access.Permission
	// lasts says that the call is a watch, which counts among those and not among calls.
	lasts bool
	// observes says that the method changes nothing, so that one entry in the audit
	// log, written before it is answered, tells all.
	observes bool
}

func (n need) alsoFor(req any) []access.Permission {
	if n.also == nil {
		return nil
	}
	return n.also(req)
}

type needKind int

const (
	// The zero value: the client that the request names.
	_ needKind = iota
	// forNewClient: the same, which has no labels yet. Labels are not asked for, or
	// ALREADY_EXISTS would tell which names are taken.
	forNewClient
	// forAny: at least one client; the handler leaves out the others.
	forAny
	// forAll: all clients at once.
	forAll
	// forNobody is for health checks: load balancers have no certificate.
	forNobody
	// forListed: any caller that the table lists.
	forListed
	// forIdentified: whoever shows an identity, listed or not.
	forIdentified
)

// needs says what each method demands. A method that is missing is refused; a test
// compares the table with what the server registers.
var needs = map[string]need{
	pb.TokenService_GetToken_FullMethodName:     {permission: access.TokenGet, observes: true},
	pb.TokenService_WatchToken_FullMethodName:   {permission: access.TokenWatch, lasts: true, observes: true},
	pb.TokenService_RevokeTokens_FullMethodName: {permission: access.TokenRevoke},

	pb.ClientService_CreateClient_FullMethodName:   {permission: access.ClientWrite, kind: forNewClient, also: secretOf(access.SecretStage)},
	pb.ClientService_GetClient_FullMethodName:      {permission: access.ClientRead, observes: true},
	pb.ClientService_ListClients_FullMethodName:    {permission: access.ClientRead, kind: forAny, observes: true},
	pb.ClientService_UpdateClient_FullMethodName:   {permission: access.ClientWrite, also: secretOf(access.SecretStage, access.SecretPromote)},
	pb.ClientService_DeleteClient_FullMethodName:   {permission: access.ClientDelete},
	pb.ClientService_UndeleteClient_FullMethodName: {permission: access.ClientDelete},
	pb.ClientService_PurgeClient_FullMethodName:    {permission: access.ClientDelete, also: always(access.SecretRetire)},
	pb.ClientService_DisableClient_FullMethodName:  {permission: access.ClientWrite},
	pb.ClientService_EnableClient_FullMethodName:   {permission: access.ClientWrite},
	pb.ClientService_ResetUpstream_FullMethodName:  {permission: access.ClientWrite},
	// Each client of an import is decided about by itself.
	pb.ClientService_ImportClients_FullMethodName: {permission: access.ClientWrite, kind: forAny},
	// Profiles are no secret, and of no client: who may read some client may read them.
	pb.ClientService_ListProviders_FullMethodName: {permission: access.ClientRead, kind: forAny, observes: true},
	pb.ClientService_GetProvider_FullMethodName:   {permission: access.ClientRead, kind: forAny, observes: true},

	pb.RotationService_StageSecret_FullMethodName:        {permission: access.SecretStage, also: secretOf()},
	pb.RotationService_VerifySecret_FullMethodName:       {permission: access.SecretVerify},
	pb.RotationService_PromoteSecret_FullMethodName:      {permission: access.SecretPromote},
	pb.RotationService_RetireSecret_FullMethodName:       {permission: access.SecretRetire},
	pb.RotationService_RollbackSecret_FullMethodName:     {permission: access.SecretRollback},
	pb.RotationService_RotateSecret_FullMethodName:       {permission: access.SecretPromote, also: rotating},
	pb.RotationService_AbortRotation_FullMethodName:      {permission: access.SecretRollback},
	pb.RotationService_AdoptSecret_FullMethodName:        {permission: access.SecretStage},
	pb.RotationService_GetRotation_FullMethodName:        {permission: access.ClientRead, observes: true},
	pb.RotationService_ListRotations_FullMethodName:      {permission: access.ClientRead, kind: forAny, observes: true},
	pb.RotationService_WatchRotation_FullMethodName:      {permission: access.ClientRead, lasts: true, observes: true},
	pb.RotationService_ListSecretVersions_FullMethodName: {permission: access.ClientRead, observes: true},

	pb.AuthorizationService_StartAuthorization_FullMethodName:    {permission: access.AuthorizationStart},
	pb.AuthorizationService_CompleteAuthorization_FullMethodName: {permission: access.AuthorizationComplete},
	pb.AuthorizationService_ImportAuthorization_FullMethodName:   {permission: access.AuthorizationImport},
	pb.AuthorizationService_GetAuthorization_FullMethodName:      {permission: access.AuthorizationRead, observes: true},
	pb.AuthorizationService_ListAuthorizations_FullMethodName:    {permission: access.AuthorizationRead, observes: true},
	pb.AuthorizationService_RevokeAuthorization_FullMethodName:   {permission: access.AuthorizationRevoke},
	pb.AuthorizationService_DeleteSubject_FullMethodName:         {permission: access.AuthorizationRevoke, kind: forAll},

	pb.DiagnosticsService_CheckLookup_FullMethodName:  {permission: access.LookupCheck, observes: true},
	pb.DiagnosticsService_StreamCheck_FullMethodName:  {permission: access.LookupCheck, observes: true},
	pb.DiagnosticsService_SweepLookups_FullMethodName: {permission: access.LookupCheck, kind: forAny, also: probing, observes: true},
	pb.DiagnosticsService_ExplainError_FullMethodName: {permission: access.LookupCheck, kind: forAny, observes: true},

	pb.AccessService_WhoAmI_FullMethodName: {kind: forIdentified, observes: true},

	"/grpc.health.v1.Health/Check": {kind: forNobody, observes: true},
	"/grpc.health.v1.Health/List":  {kind: forNobody, observes: true},
	"/grpc.health.v1.Health/Watch": {kind: forNobody, observes: true},

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {kind: forListed, observes: true},
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {kind: forListed, observes: true},
}

// rotating asks for the permissions of all steps, whatever brings the secret.
func rotating(req any) []access.Permission {
	steps := []access.Permission{access.SecretStage, access.SecretVerify, access.SecretRetire}
	return append(steps, secretOf()(req)...)
}

// secretOf asks for permissions where a request brings a secret, and for one more
// where that is a reference to another's.
func secretOf(permissions ...access.Permission) func(any) []access.Permission {
	referring := slices.Clip(append(slices.Clip(permissions), access.SecretReference))
	return func(req any) []access.Permission {
		r, ok := req.(interface{ GetSecret() *pb.SecretInput })
		switch {
		case !ok || r.GetSecret() == nil:
			return nil
		case r.GetSecret().GetReference() != nil:
			return referring
		}
		return permissions
	}
}

// probing asks for the permission of checks that ask authorization servers.
func probing(req any) []access.Permission {
	if r, ok := req.(*pb.SweepLookupsRequest); ok && depths[r.GetDepth()] > broker.DepthSecret {
		return []access.Permission{access.LookupProbe}
	}
	return nil
}

// always asks for permissions whatever the request brings.
func always(permissions ...access.Permission) func(any) []access.Permission {
	return func(any) []access.Permission { return permissions }
}

// visit is one call, under one generation of the table.
type visit struct {
	// caller is who the table in force says it is; the zero value for nobody.
	caller access.Caller
	// peer is who the peer was verified to be, listed or not; nil if it was not.
	peer *access.Peer
	// stranger is why the caller is nobody; nil for somebody.
	stranger error
	// decision is the one about the method's own permission.
	decision access.Decision
	// quota counts against the limits of the row that decided; nil if it has none.
	quota  *quota
	labels func(context.Context, string) (map[string]string, error)
	// bearer is who the call's token was verified to stand for; nil without one.
	bearer *bearer.Identity
	// recheck has check called with the decision of each later table, until stop is
	// called or the stream ends with check's error; nil outside of streams.
	recheck func(check func(*access.Decision) error) (stop func())
	// item does one item of a stream as a call of its own: see [border.item]; nil outside
	// of streams.
	item func(client string, authorize, work func(context.Context, *visit) error) (failed, ended error)
	// problem is why a credential that was shown does not hold; nil if all do.
	problem error
	// notAfter is when the first of the peer's credentials expire; zero if they do not.
	notAfter time.Time
	// subject is whom the call names, or turned out to be about; "" for nobody.
	subject string
	// token is what is handed out, and from where; nil for none.
	token      *broker.Token
	servedFrom telemetry.ServedFrom
	// answer, if not nil, is sent instead of the handler's response.
	answer *answer.Sent
	// started is when the call began.
	started time.Time
}

// nobody is the visit of a peer that is not known.
var nobody = &visit{}

func (v *visit) name() string { return v.caller.Name() }

// identity returns how the peer was identified; "" if it was not.
func (v *visit) identity() string {
	if identity := v.caller.Identity(); identity != "" {
		return identity
	}
	return strings.Join(v.peer.Identities(), " ")
}

// told reports whether the peer is told details, which name paths and settings:
// those may know who may look into what is wrong.
func (v *visit) told() bool { return v.caller.May(access.LookupCheck) }

type visitKey struct{}

// visitOf returns the visit of a call that the border has let in.
func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		return v
	}
	return nobody
}

// decide asks the table about one permission for one client. Rows by name are asked
// first: only where they do not grant are labels looked at, and a store that is away
// is then the answer whether there is such a client or not.
func (v *visit) decide(ctx context.Context, p access.Permission, id string) (access.Decision, error) {
	table := v.caller.Table()
	request := access.Request{Caller: v.caller, Permission: p, Client: id}
	d := table.Decide(request)
	if d.Allowed || !d.Labelled {
		return d, d.Err()
	}
	labels, err := v.labels(ctx, id)
	if err != nil {
		return d, err
	}
	request.Labels = func() map[string]string { return labels }
	d = table.Decide(request)
	return d, d.Err()
}

// may reports whether the caller has a permission for a client whose record is at hand.
func (v *visit) may(p access.Permission, c *broker.Client) bool {
	return v.mayWith(p, c.ID, c.Labels)
}

func (v *visit) mayWith(p access.Permission, id string, labels map[string]string) bool {
	d := v.caller.Table().Decide(access.Request{
		Caller: v.caller, Permission: p, Client: id, Labels: func() map[string]string { return labels },
	})
	return d.Allowed
}

// authorize decides whether a peer may make this call. Permission comes before
// existence: who has none for a client is told so, whether there is one or not, and
// a name that is no client's is judged only for those who could name one.
func (v *visit) authorize(ctx context.Context, method string, req any) error {
	demanded, ok := needs[method]
	switch {
	case ok && demanded.kind == forNobody:
		return nil
	case v.problem != nil:
		return v.problem
	case ok && demanded.kind == forIdentified && len(v.peer.Identities()) > 0:
		v.decision.Allowed = true
		return nil
	case v.caller.Table() == nil:
		return &broker.Error{Reason: broker.ReasonCallerUnauthenticated, Err: v.stranger}
	case !ok:
		return denied()
	case demanded.kind == forListed:
		return nil
	case !v.caller.May(demanded.permission):
		return denied()
	case demanded.kind == forAny:
		for _, p := range demanded.alsoFor(req) {
			if !v.caller.May(p) {
				return denied()
			}
		}
		return nil
	case demanded.kind == forAll:
		var err error
		v.decision, err = v.decide(ctx, demanded.permission, "")
		return err
	}
	id, named := strings.CutPrefix(clientOf(req), "clients/")
	if !named || broker.CheckID("", id) != nil {
		v.decision.Allowed = true // the handler says what is wrong with the name, and does nothing else
		return nil
	}
	also := demanded.alsoFor(req)
	if demanded.kind == forNewClient {
		for _, p := range append(also, demanded.permission) {
			if !v.mayWith(p, id, nil) {
				return denied()
			}
		}
		return nil
	}
	var err error
	if v.decision, err = v.decide(ctx, demanded.permission, id); err != nil {
		return err
	}
	for _, p := range also {
		if _, err := v.decide(ctx, p, id); err != nil {
			return err
		}
	}
	return nil
}

func denied() error { return &broker.Error{Reason: broker.ReasonCallerNotAllowed} }

// gained refuses a change of labels by which the caller would let itself in.
func (v *visit) gained(present, changed *broker.Client) error {
	gains := v.caller.Table().Gains(v.caller, present.ID, present.Labels, changed.Labels)
	if len(gains) == 0 {
		return nil
	}
	return &broker.Error{
		Reason: broker.ReasonCallerNotAllowed, Client: present.ID,
		Detail: fmt.Sprintf("with these labels the caller would gain %v for the client", gains),
	}
}
