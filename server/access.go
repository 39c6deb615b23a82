package server

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// Role is what a caller may do.
type Role string

// The roles.
const (
	// RoleCaller may get tokens and nothing else.
	RoleCaller Role = "caller"
	// RoleOperator may do everything.
	RoleOperator Role = "operator"
)

// InsecureIdentity is the identity of whoever connects over plaintext on loopback.
const InsecureIdentity = "insecure-loopback"

// Caller gives a verified identity a name and a role.
type Caller struct {
	// Name stands in logs.
	Name string
	// Identity is a URI SAN ("spiffe://example.org/crm"), a DNS SAN ("dns:crm.internal"),
	// or [InsecureIdentity].
	Identity string
	// Role is what this caller may do.
	Role Role
}

// Validate reports what is wrong with c.
func (c Caller) Validate() error {
	switch {
	case c.Name == "" || len(c.Name) > 128:
		return fmt.Errorf("name is required and has at most 128 bytes")
	case c.Role != RoleCaller && c.Role != RoleOperator:
		return fmt.Errorf("role is %q; it must be caller or operator", c.Role)
	case c.Identity == InsecureIdentity:
		return nil
	}
	if name, ok := strings.CutPrefix(c.Identity, "dns:"); ok {
		if name == "" || strings.ContainsAny(name, "*/ ") {
			return fmt.Errorf("identity %q must name one host, such as dns:crm.internal", c.Identity)
		}
		return nil
	}
	if u, err := url.Parse(c.Identity); err != nil || u.Scheme == "" || u.Host == "" {
		return fmt.Errorf("identity %q must be a URI such as spiffe://example.org/crm, dns:NAME, or %s", c.Identity, InsecureIdentity)
	}
	return nil
}

// need is what a method demands of its peer.
type need int

const (
	// needNothing is for health checks: load balancers have no certificate.
	needNothing need = iota
	needAnyCaller
	needOperator
)

// access says what each method demands. A method that is missing is refused; a
// test compares the table with what the server registers.
var access = map[string]need{
	pb.TokenService_GetToken_FullMethodName: needAnyCaller,

	pb.ClientService_CreateClient_FullMethodName:   needOperator,
	pb.ClientService_GetClient_FullMethodName:      needOperator,
	pb.ClientService_ListClients_FullMethodName:    needOperator,
	pb.ClientService_UpdateClient_FullMethodName:   needOperator,
	pb.ClientService_DeleteClient_FullMethodName:   needOperator,
	pb.ClientService_UndeleteClient_FullMethodName: needOperator,
	pb.ClientService_DisableClient_FullMethodName:  needOperator,
	pb.ClientService_EnableClient_FullMethodName:   needOperator,

	pb.RotationService_StageSecret_FullMethodName:        needOperator,
	pb.RotationService_VerifySecret_FullMethodName:       needOperator,
	pb.RotationService_PromoteSecret_FullMethodName:      needOperator,
	pb.RotationService_RetireSecret_FullMethodName:       needOperator,
	pb.RotationService_ListSecretVersions_FullMethodName: needOperator,

	pb.DiagnosticsService_CheckLookup_FullMethodName: needOperator,

	"/grpc.health.v1.Health/Check": needNothing,
	"/grpc.health.v1.Health/List":  needNothing,
	"/grpc.health.v1.Health/Watch": needNothing,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      needAnyCaller,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": needAnyCaller,
}

// authorize decides whether caller, nil if unknown, may call method.
func authorize(method string, caller *Caller) error {
	demanded, ok := access[method]
	switch {
	case ok && demanded == needNothing:
		return nil
	case caller == nil:
		return &broker.Error{Reason: broker.ReasonCallerUnauthenticated}
	case ok && (demanded == needAnyCaller || caller.Role == RoleOperator):
		return nil
	default:
		return &broker.Error{Reason: broker.ReasonCallerNotAllowed, Detail: "the method needs the role operator"}
	}
}

// callers finds a caller by a certificate's names :: identity → caller.
type callers map[string]*Caller

func newCallers(list []Caller) (callers, error) {
	table := make(callers, len(list))
	for i := range list {
		c := list[i]
		if err := c.Validate(); err != nil {
			return nil, fmt.Errorf("callers[%d]: %w", i, err)
		}
		c.Identity = normalIdentity(c.Identity)
		if _, twice := table[c.Identity]; twice {
			return nil, fmt.Errorf("callers[%d]: identity %q is listed twice", i, c.Identity)
		}
		table[c.Identity] = &c
	}
	return table, nil
}

// normalIdentity spells a configured identity as identify spells a certificate's
// names: hosts compare without case (RFC 5280 §7.2), URIs as net/url prints them.
func normalIdentity(identity string) string {
	if strings.HasPrefix(identity, "dns:") {
		return strings.ToLower(identity)
	}
	if u, err := url.Parse(identity); err == nil {
		return u.String()
	}
	return identity
}

// identify returns the caller that a verified certificate names, or nil. A
// certificate with a SPIFFE id and any other URI is nobody's (SPIFFE X.509-SVID
// §2), and so is one whose names belong to different callers: which one speaks is
// unknown. A URI "dns:NAME" (RFC 4501) is not a DNS SAN and names nobody.
func (table callers) identify(leaf *x509.Certificate) *Caller {
	var names []string
	for _, uri := range leaf.URIs {
		if uri.Scheme == "spiffe" && len(leaf.URIs) > 1 {
			return nil
		}
		if uri.Scheme != "dns" {
			names = append(names, uri.String())
		}
	}
	for _, name := range leaf.DNSNames {
		names = append(names, "dns:"+strings.ToLower(name))
	}
	var found []*Caller
	for _, name := range names {
		if c, ok := table[name]; ok && !slices.ContainsFunc(found, func(f *Caller) bool { return *f == *c }) {
			found = append(found, c)
		}
	}
	if len(found) == 0 || slices.ContainsFunc(found, func(f *Caller) bool { return f.Name != found[0].Name || f.Role != found[0].Role }) {
		return nil
	}
	return found[0]
}

// expired reports whether a certificate that was good at the handshake no longer is.
func expired(notAfter, now time.Time) bool { return !notAfter.IsZero() && now.After(notAfter) }
