package access

import (
	"fmt"
	"slices"
	"strings"
)

// Explanation says why a table decides as it does. String is made for people and may
// change; the fields are for programs.
type Explanation struct {
	// Allowed and Row are those of the [Decision].
	Allowed bool
	Row     Row
	// Caller is the name of the caller; "" if the table lists none of that name or
	// identity.
	Caller string
	// Nearest is, for a denial, the row that matches best; its Index is -1 if none
	// matches in anything.
	Nearest Row
	// Mismatches are what keeps Nearest from granting.
	Mismatches []string
	lines      []string
	subjects   *Subjects
}

// String returns the explanation, several lines without a newline at the end.
func (e Explanation) String() string { return strings.Join(e.lines, "\n") }

// For returns e for a call that names a subject besides; "" names none.
func (e Explanation) For(subject string) Explanation {
	if !e.Allowed || e.subjects.Has(subject) {
		return e
	}
	denied := Explanation{
		Row: noRow, Caller: e.Caller, Nearest: e.Row, Mismatches: []string{"its subjects are " + e.subjects.String()},
		lines: append([]string{strings.Replace(e.lines[0], "allowed", "denied", 1) + fmt.Sprintf(", subject %q", subject)}, e.lines[1:]...),
	}
	return denied
}

// Explain says which row decides, or why none does. who is a caller's name or identity;
// labels are those of the client, nil if they are not known.
func (t *Table) Explain(who string, p Permission, client string, labels map[string]string) Explanation {
	found := t.names[who]
	if found == nil {
		normal, err := NormalIdentity(who)
		if found = t.identities[normal]; err != nil || found == nil {
			return Explanation{Row: noRow, Nearest: noRow, lines: []string{
				fmt.Sprintf("denied: no caller has the name or the identity %q", who), "callers: " + t.callerNames(),
			}}
		}
	}
	d := t.Decide(Request{Caller: Caller{table: t, entry: found}, Permission: p, Client: client, Labels: func() map[string]string { return labels }})
	e := Explanation{Allowed: d.Allowed, Row: d.Row, Caller: found.name, Nearest: noRow}
	object := client
	if object == "" {
		object = "no client in particular"
	}
	verdict := "denied"
	if d.Allowed {
		verdict = "allowed"
	}
	e.lines = append(e.lines, fmt.Sprintf("%s: %s, %v, %s", verdict, found.name, p, object))
	if d.Allowed {
		t.explainGrant(&e, p, client, labels)
		return e
	}
	t.explainDenial(&e, found, p, client, labels)
	if d.Labelled && labels == nil {
		for _, by := range found.cells[p].labels {
			if !by.row.excepts(client) {
				e.lines = append(e.lines, fmt.Sprintf("would be allowed by %s, if the client were labelled %s=%s; its labels were not given", t.at(by.row), by.client.key, by.client.value))
			}
		}
	}
	return e
}

func (t *Table) callerNames() string {
	const most = 20
	names := make([]string, 0, len(t.callers))
	for _, c := range t.callers {
		names = append(names, c.name)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return "none"
	}
	if more := len(names) - most; more > 0 {
		names = append(names[:most], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// at names a row and its file, or the role that it stands for.
func (t *Table) at(r *row) string {
	if t.file == "" {
		return strings.Join(r.source.Permissions, ", ")
	}
	return fmt.Sprintf("rules[%d] at %s:%d", r.Index, t.file, r.Line)
}

func (t *Table) explainGrant(e *Explanation, p Permission, client string, labels map[string]string) {
	r := t.rows[e.Row.Index]
	by := slices.IndexFunc(r.clients, func(c pattern) bool { return c.matches(client, labels) })
	e.lines = append(e.lines, fmt.Sprintf("row: %s, by its client %q", t.at(r), r.clients[by].String()))
	if tokenPermissions.has(p) {
		e.lines = append(e.lines, "scopes: "+r.scopes.String(), "audiences: "+r.audiences.String(), "resources: "+r.resources.String())
	}
	e.subjects = r.subjects
	if subjectPermissions.has(p) {
		e.lines = append(e.lines, "subjects: "+r.subjects.String())
	}
	e.lines = append(e.lines, "limits: "+r.limits.String())
}

// explainDenial finds the row that matches most of caller, permission and client. Of
// those that match as much, one for the caller is nearer than one for the permission.
func (t *Table) explainDenial(e *Explanation, c *caller, p Permission, client string, labels map[string]string) {
	var nearest *row
	best := 0
	for _, r := range t.rows {
		score := 0
		if slices.Contains(c.rows, r) {
			score += 12
		}
		if r.permissions.has(p) {
			score += 11
		}
		if len(r.mismatch(client, labels)) == 0 {
			score += 10
		}
		if score > best {
			best, nearest = score, r
		}
	}
	if nearest == nil {
		e.lines = append(e.lines, "nearest: no row matches caller, permission or client")
		return
	}
	e.Nearest = nearest.Row
	if !slices.Contains(c.rows, nearest) {
		e.Mismatches = append(e.Mismatches, fmt.Sprintf("its callers are %s", nearest.describeCallers()))
	}
	if !nearest.permissions.has(p) {
		e.Mismatches = append(e.Mismatches, fmt.Sprintf("its permissions are %s", strings.Join(nearest.source.Permissions, ", ")))
	}
	e.Mismatches = append(e.Mismatches, nearest.mismatch(client, labels)...)
	e.lines = append(e.lines, "nearest: "+t.at(nearest))
	for _, m := range e.Mismatches {
		e.lines = append(e.lines, "  but "+m)
	}
}

func (r *row) describeCallers() string {
	if r.source.Except == nil || len(r.source.Except.Callers) == 0 {
		return short(r.source.Callers)
	}
	return short(r.source.Callers) + " except " + short(r.source.Except.Callers)
}

// mismatch says why r does not match a client; nothing if it does.
func (r *row) mismatch(client string, labels map[string]string) []string {
	if !slices.ContainsFunc(r.clients, func(c pattern) bool { return c.matches(client, labels) }) {
		text := "its clients are " + short(r.source.Clients)
		if client == "" {
			text += `, and what is about no client in particular needs "*"`
		}
		return []string{text}
	}
	if r.excepts(client) {
		text := "its except leaves out " + short(r.source.Except.Clients)
		if client == "" {
			text += ", and what is about no client in particular needs all"
		}
		return []string{text}
	}
	return nil
}

// short lists at most ten.
func short(list []string) string {
	const most = 10
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}
