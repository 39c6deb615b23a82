package access

// Grant is what one row grants to one caller. Its lists are shared and must not be
// changed.
type Grant struct {
	Row         Row
	Permissions []Permission
	// Clients and Except are patterns as the file has them.
	Clients, Except []string
	// Subjects are patterns of those whom calls may name; empty for none.
	Subjects []string
	// Scopes, Audiences, Resources and Limits are nil where the row has none.
	Scopes, Audiences, Resources *Restriction
	Limits                       *Limits
}

// Grants returns all that the caller may do, row by row.
func (c Caller) Grants() []Grant {
	if c.entry == nil {
		return nil
	}
	var grants []Grant
	for _, r := range c.entry.rows {
		g := Grant{
			Row: r.Row, Permissions: r.permissions.list(), Clients: r.source.Clients,
			Scopes: r.scopes, Audiences: r.audiences, Resources: r.resources, Limits: c.entry.limits[r], Subjects: r.subjects.Patterns(),
		}
		if r.source.Except != nil {
			g.Except = r.source.Except.Clients
		}
		grants = append(grants, g)
	}
	return grants
}

// Gains returns the permissions that a caller would get for a client, or get on other
// terms, if the client's labels changed. Whoever may write labels must not be able to
// grant himself more by it: a change of labels that gains the one who asks for it
// anything is to be refused.
func (t *Table) Gains(c Caller, client string, before, after map[string]string) []Permission {
	var gained []Permission
	decide := func(p Permission, labels map[string]string) Decision {
		return t.Decide(Request{Caller: c, Permission: p, Client: client, Labels: func() map[string]string { return labels }})
	}
	for _, p := range Permissions() {
		old, changed := decide(p, before), decide(p, after)
		same := old.Allowed && old.Scopes.equal(changed.Scopes) && old.Audiences.equal(changed.Audiences) && old.Resources.equal(changed.Resources) && old.Subjects.equal(changed.Subjects)
		if changed.Allowed && !same {
			gained = append(gained, p)
		}
	}
	return gained
}
