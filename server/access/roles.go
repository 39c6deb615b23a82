package access

import (
	"fmt"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

// RoleCaller is a caller as the configuration's simple list has it, for those who need
// no table of their own.
type RoleCaller struct {
	// Name stands in logs. Several entries of one name are one caller with several
	// identities, and must have one role.
	Name string
	// Identity is one of the forms of [NormalIdentity].
	Identity string
	// Role is "caller" (token.get and token.watch, not of users) or "operator" (all but
	// client.retarget, and for all users), each for all clients.
	Role string
}

// FromRoles returns the table that such a list means; an empty list is a table in which
// nobody may do anything. The error is a *[strictyaml.Error] whose keys are paths in
// the configuration, "callers[0].role", without lines.
func FromRoles(list []RoleCaller) (*Table, error) {
	p := &parser{names: make(map[string]int)}
	identities, roles := make(map[string]string), make(map[string]string)
	members := map[string][]string{}
	for i, entry := range list {
		key := fmt.Sprintf("callers[%d]", i)
		if permissionsNamed("role:"+entry.Role) == 0 {
			p.add(key+".role", "is %q; it must be caller or operator", entry.Role)
		}
		role, known := roles[entry.Name]
		switch {
		case !known:
			roles[entry.Name] = entry.Role
			if entry.Name != "" { // else p.named says so
				members[entry.Role] = append(members[entry.Role], entry.Name)
			}
			p.identity(key+".identity", entry.Identity, p.named(key, entry.Name), identities)
		case role != entry.Role:
			p.add(key+".role", "%q has the role %s already; one caller has one role", entry.Name, role)
		default:
			p.identity(key+".identity", entry.Identity, p.callers[p.names[entry.Name]], identities)
		}
	}
	for _, role := range []string{"caller", "operator"} {
		if len(members[role]) > 0 {
			rule := &Rule{Callers: members[role], Permissions: []string{"role:" + role}, Clients: []string{everything}}
			if role == "operator" {
				rule.Subjects = []string{everything}
			}
			p.rule(len(p.rows), rule)
		}
	}
	if len(p.findings) > 0 {
		return nil, strictyaml.NewError("", p.located())
	}
	return newTable("", p.callers, p.rows), nil
}
