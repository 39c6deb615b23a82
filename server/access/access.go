// Package access decides who may do what: it reads the access table, one strict YAML
// file, and answers whether a caller has a permission for a client, and with which
// scopes, targets and limits.
//
// The rules of the table:
//
//   - What no row grants is denied. Rows only grant; none takes away.
//   - A row means what it says, wherever it stands: order has no meaning. Where two
//     rows can match the same call, they must say the same about it; a file in which
//     they do not is refused, and so is one with a row that adds nothing.
//   - A file is taken as a whole or not at all. Unknown keys, names and permissions,
//     empty lists and keys without a value are errors, and the file ends with the line
//     "...", so that one that is half written is never taken for a whole one.
//
// There are no regular expressions and no conditions: a row can be read, tested by
// itself, and explained. The package is pure logic: who a peer is and what a client's
// labels are it is told. It does not count what [Limits] allow.
package access

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Permission is something that a caller may be allowed to do. Its zero value is none
// that a table could grant.
type Permission uint8

// The permissions. docs/access.md says which call needs which.
const (
	TokenGet Permission = iota + 1
	TokenWatch
	TokenRevoke
	ClientRead
	ClientWrite
	ClientDelete
	// ClientRetarget lets the secrets that a client has be sent to other origins.
	ClientRetarget
	SecretStage
	// SecretReference points a client at a secret that is kept elsewhere in Vault.
	SecretReference
	SecretVerify
	SecretPromote
	SecretRollback
	SecretRetire
	LookupCheck
	// LookupProbe lets a check go as far as the authorization server and the API.
	LookupProbe
	AuditRead
	// AuthorizationStart and AuthorizationComplete ask a user for consent.
	AuthorizationStart
	AuthorizationComplete
	AuthorizationRead
	// AuthorizationImport brings grants that were had elsewhere.
	AuthorizationImport
	AuthorizationRevoke

	lastPermission = AuthorizationRevoke
)

// permissionNames is Permission :: constant → its name in a table.
var permissionNames = [lastPermission + 1]string{
	TokenGet: "token.get", TokenWatch: "token.watch", TokenRevoke: "token.revoke",
	ClientRead: "client.read", ClientWrite: "client.write", ClientDelete: "client.delete", ClientRetarget: "client.retarget",
	SecretStage: "secret.stage", SecretReference: "secret.reference", SecretVerify: "secret.verify",
	SecretPromote: "secret.promote", SecretRollback: "secret.rollback", SecretRetire: "secret.retire",
	LookupCheck: "lookup.check", LookupProbe: "lookup.probe", AuditRead: "audit.read",
	AuthorizationStart: "authorization.start", AuthorizationComplete: "authorization.complete", AuthorizationRead: "authorization.read",
	AuthorizationImport: "authorization.import", AuthorizationRevoke: "authorization.revoke",
}

// Permissions lists all permissions in the order in which they are documented.
func Permissions() []Permission {
	list := make([]Permission, 0, lastPermission)
	for p := TokenGet; p <= lastPermission; p++ {
		list = append(list, p)
	}
	return list
}

// String returns the name that a table has for p.
func (p Permission) String() string {
	if p.known() {
		return permissionNames[p]
	}
	return fmt.Sprintf("permission(%d)", uint8(p))
}

func (p Permission) known() bool { return p >= TokenGet && p <= lastPermission }

// ParsePermission returns the permission of that name.
func ParsePermission(name string) (Permission, bool) {
	i := slices.Index(permissionNames[:], name)
	if i < int(TokenGet) {
		return 0, false
	}
	return Permission(i), true
}

// The names for sets of permissions that a row may use.
const (
	roleCaller   = "role:caller"
	roleOperator = "role:operator"
)

// permissionSet has a bit for each permission.
type permissionSet uint32

const (
	// tokenPermissions are those whose calls name scopes and targets.
	tokenPermissions permissionSet = 1<<TokenGet | 1<<TokenWatch
	allPermissions   permissionSet = 1<<(lastPermission+1) - 1<<TokenGet
)

// permissionsNamed returns what a name in a row stands for; 0 for an unknown one.
func permissionsNamed(name string) permissionSet {
	switch name {
	case roleCaller:
		return tokenPermissions
	case roleOperator:
		// Sending a stored secret elsewhere must be granted by name.
		return allPermissions &^ setOf(ClientRetarget)
	}
	if p, ok := ParsePermission(name); ok {
		return setOf(p)
	}
	return 0
}

func setOf(p Permission) permissionSet {
	if !p.known() {
		return 0
	}
	return 1 << p
}

func (s permissionSet) has(p Permission) bool { return s&setOf(p) != 0 }

// first returns the first permission of a set that is not empty.
func (s permissionSet) first() Permission { return Permission(bits.TrailingZeros32(uint32(s))) }

func (s permissionSet) list() []Permission {
	return slices.DeleteFunc(Permissions(), func(p Permission) bool { return !s.has(p) })
}

func (s permissionSet) String() string {
	var names []string
	for _, p := range s.list() {
		names = append(names, p.String())
	}
	return strings.Join(names, ", ")
}
