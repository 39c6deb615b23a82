package access

import (
	"fmt"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Request is what a table decides about.
type Request struct {
	// Caller must be of the table that is asked.
	Caller     Caller
	Permission Permission
	// Client is the id of the client concerned. A request that is about none, or about
	// all, leaves it empty and is granted by rows for "*" only.
	Client string
	// Labels returns the client's labels, nil if they are not known or there is no such
	// client. It is called at most once, and only if no row grants by the id and one
	// might grant by a label. A nil function has no labels.
	Labels func() map[string]string
}

// Decision is the answer to a [Request]. The zero value denies.
type Decision struct {
	// Allowed reports whether a row grants it.
	Allowed bool
	// Labelled reports that the answer hangs on the client's labels. A denial then must
	// not tell a client that does not exist from one with other labels.
	Labelled bool
	// Row is the row that grants; of several, which then say the same, the most precise
	// one. Its Index is -1 for a denial.
	Row Row
	// Scopes, Audiences and Resources restrict what a token request may name; nil where
	// only the client does, and for other permissions than token.get and token.watch.
	Scopes, Audiences, Resources *Restriction
	// Subjects are those whom the call may name; nil are none.
	Subjects *Subjects
	// Limits bound the caller's use of the row; nil if nothing does. There is one for
	// each caller and row of a table, so that its address can be the key of a count.
	Limits *Limits
}

// noRow is the Row of a denial.
var noRow = Row{Index: -1}

// Decide answers r. It allocates nothing and takes no lock.
func (t *Table) Decide(r Request) Decision {
	denied := Decision{Row: noRow}
	if t == nil || r.Caller.table != t || !r.Permission.known() {
		return denied
	}
	granted := r.Caller.entry.cells[r.Permission]
	if granted == nil {
		return denied
	}
	found := granted.named(r.Client)
	if found == nil {
		if len(granted.labels) == 0 || r.Client == "" {
			return denied
		}
		denied.Labelled = true
		if r.Labels != nil {
			found = granted.labelled(r.Client, r.Labels())
		}
		if found == nil {
			return denied
		}
	}
	d := Decision{Allowed: true, Labelled: denied.Labelled, Row: found.Row}
	if tokenPermissions.has(r.Permission) {
		d.Scopes, d.Audiences, d.Resources = found.scopes, found.audiences, found.resources
	}
	if subjectPermissions.has(r.Permission) {
		d.Subjects = found.subjects
	}
	if found.limits != nil {
		d.Limits = r.Caller.entry.limits[found]
	}
	return d
}

// Err returns nil if d allows, else the error for the caller. It is the same for every
// denial: it tells nothing about the client, not even whether there is one.
func (d *Decision) Err() error {
	if d.Allowed {
		return nil
	}
	return &broker.Error{Reason: broker.ReasonCallerNotAllowed}
}

// Query returns q as the row lets it through: what names no scopes, audience or
// resources gets the row's default, where the row restricts them. The lists of the
// result are shared and must not be changed. CALLER_NOT_ALLOWED, SCOPE_NOT_ALLOWED,
// TARGET_NOT_ALLOWED.
func (d *Decision) Query(q broker.TokenQuery) (broker.TokenQuery, error) {
	if err := d.Err(); err != nil {
		return broker.TokenQuery{}, err
	}
	if err := d.Subject(q.Subject); err != nil {
		return broker.TokenQuery{}, err
	}
	var err error
	if q.Scopes, err = d.values(q, q.Scopes, d.Scopes, "scope", broker.ReasonScopeNotAllowed); err != nil {
		return broker.TokenQuery{}, err
	}
	if q.Resources, err = d.values(q, q.Resources, d.Resources, "resource", broker.ReasonTargetNotAllowed); err != nil {
		return broker.TokenQuery{}, err
	}
	switch r := d.Audiences; {
	case r == nil || q.Audience != "" && r.allows(q.Audience):
	case q.Audience == "" && len(r.Default) > 0:
		q.Audience = r.Default[0]
	default:
		return broker.TokenQuery{}, d.refusal(q, "audience", q.Audience, broker.ReasonTargetNotAllowed)
	}
	return q, nil
}

func (d *Decision) values(q broker.TokenQuery, asked []string, r *Restriction, what string, reason broker.Reason) ([]string, error) {
	if r == nil {
		return asked, nil
	}
	if len(asked) == 0 {
		if len(r.Default) == 0 {
			return nil, d.refusal(q, what, "", reason)
		}
		return r.Default, nil
	}
	for _, value := range asked {
		if !r.allows(value) {
			return nil, d.refusal(q, what, value, reason)
		}
	}
	return asked, nil
}

// Covers returns SCOPE_NOT_ALLOWED for a token with a scope that the row does not let
// the caller have: authorization servers may grant more than they are asked for, and
// some clients share one token of all their scopes.
func (d *Decision) Covers(t *broker.Token) error {
	if d.Scopes == nil {
		return nil
	}
	for _, scope := range t.Scopes {
		if !d.Scopes.allows(scope) {
			return &broker.Error{
				Reason: broker.ReasonScopeNotAllowed,
				Detail: fmt.Sprintf("the token has the scope %.64q, which %v does not allow", scope, d.Row),
			}
		}
	}
	return nil
}

// refusal names the value in a bounded form; it is the peer's own.
func (d *Decision) refusal(q broker.TokenQuery, what, value string, reason broker.Reason) error {
	detail := fmt.Sprintf("%v has no default %s; the request must name one", d.Row, what)
	if value != "" {
		detail = fmt.Sprintf("%v does not allow the %s %.64q", d.Row, what, value)
	}
	return &broker.Error{Reason: reason, Client: q.ClientID, Detail: detail}
}
