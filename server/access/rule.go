package access

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
)

// Row says where in the file a row stands.
type Row struct {
	// Index counts the rules from 0; -1 is no row.
	Index int
	// Line is where it begins; 0 if it stands in no file.
	Line int
}

// String names the row for people.
func (r Row) String() string {
	switch {
	case r.Index < 0:
		return "no row"
	case r.Line == 0:
		return fmt.Sprintf("rules[%d]", r.Index)
	default:
		return fmt.Sprintf("rules[%d] (line %d)", r.Index, r.Line)
	}
}

// row is a rule that was found to be sound.
type row struct {
	Row
	source      Rule
	callers     callerSet
	permissions permissionSet
	clients     []pattern
	except      []pattern
	excepted    nameSet // the same as except
	scopes      *Restriction
	audiences   *Restriction
	resources   *Restriction
	limits      *Limits
	subjects    *Subjects
}

// rule validates one.
func (p *parser) rule(index int, r *Rule) {
	key := fmt.Sprintf("rules[%d]", index)
	made := &row{
		Row: Row{Index: index, Line: p.line(key)}, source: *r, callers: newCallerSet(len(p.callers)),
		scopes: r.Scopes, audiences: r.Audiences, resources: r.Resources, limits: r.Limits,
	}
	p.rows = append(p.rows, made)
	p.ruleCallers(key, r, made)
	p.rulePermissions(key, r, made)
	p.ruleClients(key, r, made)
	if r.Except != nil && len(r.Except.Callers)+len(r.Except.Clients) == 0 {
		p.add(key+".except", "is empty; leave it out, or name callers or clients")
	}
	p.restriction(key+".scopes", r.Scopes, made, scopeRule)
	p.restriction(key+".audiences", r.Audiences, made, audienceRule)
	p.restriction(key+".resources", r.Resources, made, resourceRule)
	p.subjects(key+".subjects", r.Subjects, made)
	if r.Limits != nil {
		p.limits(key+".limits", r.Limits)
		if r.Limits.ScopeSets > 0 && made.permissions != 0 && made.permissions&tokenPermissions == 0 {
			p.add(key+".limits.scope_sets", "bounds token.get and token.watch, which the row does not grant")
		}
	}
}

func (p *parser) ruleCallers(key string, r *Rule, made *row) {
	if p.listed(key+".callers", len(r.Callers), r.Callers == nil, maxCallers) {
		if slices.Contains(r.Callers, everything) {
			made.callers.fill()
		}
		p.callerNames(key+".callers", r.Callers, func(i int) { made.callers.add(i) })
	}
	if r.Except == nil || r.Except.Callers == nil {
		return
	}
	if !slices.Contains(r.Callers, everything) {
		p.add(key+".except.callers", `is for rows whose callers are "*"; leave the name out of callers instead`)
		return
	}
	if p.listed(key+".except.callers", len(r.Except.Callers), false, maxCallers) {
		p.callerNames(key+".except.callers", r.Except.Callers, func(i int) { made.callers.remove(i) })
	}
}

// callerNames calls found with the index of each caller that is named.
func (p *parser) callerNames(key string, names []string, found func(int)) {
	seen := make(map[string]bool, len(names))
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", key, i)
		index, known := p.names[name]
		switch {
		case seen[name]:
			p.add(at, "%q is there twice", name)
		case name == everything && strings.HasSuffix(key, "except.callers"):
			p.add(at, `"*" would leave nobody`)
		case name == everything && len(names) > 1:
			p.add(at, `"*" is every caller; the other names add nothing`)
		case name == everything:
		case !known:
			p.add(at, "no caller is named %.140q; callers are listed at the head of the file", name)
		default:
			found(index)
		}
		seen[name] = true
	}
}

func (p *parser) rulePermissions(key string, r *Rule, made *row) {
	if !p.listed(key+".permissions", len(r.Permissions), r.Permissions == nil, int(lastPermission)+2) {
		return
	}
	for i, name := range r.Permissions {
		at, set := fmt.Sprintf("%s.permissions[%d]", key, i), permissionsNamed(name)
		switch {
		case set == 0:
			p.add(at, "%.80q is no permission; there are %v, %s and %s", name, allPermissions, roleCaller, roleOperator)
		case made.permissions&set == set:
			p.add(at, "%q is granted by the entries before it already", name)
		}
		made.permissions |= set
	}
}

func (p *parser) ruleClients(key string, r *Rule, made *row) {
	if p.listed(key+".clients", len(r.Clients), r.Clients == nil, maxPatterns) {
		made.clients = p.patterns(key+".clients", r.Clients)
	}
	if r.Except == nil || r.Except.Clients == nil || !p.listed(key+".except.clients", len(r.Except.Clients), false, maxPatterns) {
		return
	}
	except := p.patterns(key+".except.clients", r.Except.Clients)
	made.excepted = newNameSet(except)
	for i, e := range except {
		at := fmt.Sprintf("%s.except.clients[%d]", key, i)
		switch e.kind {
		case labelClient:
			p.add(at, "labels cannot take away, because removing one would then widen what is granted; name clients or prefixes")
		case anyClient:
			p.add(at, `"*" would leave nothing`)
		default:
			if !slices.ContainsFunc(made.clients, func(c pattern) bool { _, ok := c.meet(e); return ok }) {
				p.add(at, "%q takes away nothing that clients names", e)
			}
		}
	}
	made.except = except
	for i, c := range made.clients {
		if slices.ContainsFunc(except, func(e pattern) bool { return c.kind != labelClient && e.covers(c) }) {
			p.add(fmt.Sprintf("%s.clients[%d]", key, i), "%q is taken away by except", c)
		}
	}
}

// patterns parses a list of which no entry may be covered by another.
func (p *parser) patterns(key string, texts []string) []pattern {
	list, index := make([]pattern, len(texts)), newPatternIndex()
	for i, text := range texts {
		parsed, err := parsePattern(text)
		if err != nil {
			p.add(fmt.Sprintf("%s[%d]", key, i), "%v", err)
			continue
		}
		list[i] = parsed
		index.add(parsed, i)
	}
	for i, parsed := range list {
		for _, other := range index.covering(parsed) {
			if other != i && (list[other] != parsed || other < i) {
				p.add(fmt.Sprintf("%s[%d]", key, i), "%q is covered by %q (line %d)", texts[i], texts[other], p.line(fmt.Sprintf("%s[%d]", key, other)))
				break
			}
		}
	}
	return list
}

// valueRule is what holds for the values of one kind of restriction.
type valueRule struct {
	most, mostDefault int
	problem           func(string) string
}

var (
	scopeRule    = valueRule{maxScopes, maxScopes, scopeProblem}
	audienceRule = valueRule{maxTargets, 1, targetProblem} // a request has one audience
	resourceRule = valueRule{maxTargets, maxTargets, resourceProblem}
)

func (p *parser) restriction(key string, r *Restriction, made *row, rule valueRule) {
	if r == nil {
		return
	}
	if made.permissions != 0 && made.permissions&tokenPermissions == 0 {
		p.add(key, "restricts token.get and token.watch, which the row does not grant")
	}
	if r.Default == nil && r.Allowed == nil {
		p.missing(key, "needs default, allowed, or both")
	}
	p.values(key+".default", r.Default, rule.mostDefault, rule.problem)
	p.values(key+".allowed", r.Allowed, rule.most, rule.problem)
}

func (p *parser) values(key string, list []string, most int, problem func(string) string) {
	if list == nil || !p.listed(key, len(list), false, most) {
		return
	}
	for i, value := range list {
		at := fmt.Sprintf("%s[%d]", key, i)
		if text := problem(value); text != "" {
			p.add(at, "%.140q %s", value, text)
		}
		if slices.Contains(list[:i], value) {
			p.add(at, "%.140q is there twice", value)
		}
	}
}

// scopeProblem checks against RFC 6749 §3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ).
func scopeProblem(s string) string {
	if s == "" || len(s) > maxScopeLength || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return fmt.Sprintf("is no scope: 1 to %d printable ASCII characters without space, quote and backslash", maxScopeLength)
	}
	return ""
}

func targetProblem(s string) string {
	if s == "" || len(s) > maxTargetLength || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }) {
		return fmt.Sprintf("is empty, longer than %d bytes, or has a control character", maxTargetLength)
	}
	return ""
}

func resourceProblem(s string) string {
	u, err := url.Parse(s)
	if err != nil || !u.IsAbs() || len(s) > maxTargetLength || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }) {
		return "is not an absolute URI without fragment (RFC 8707 §2)"
	}
	return ""
}

func (p *parser) limits(key string, l *Limits) {
	if *l == (Limits{}) {
		p.missing(key, "needs at least one of requests_per_second, concurrent, client_requests_per_second, client_concurrent and scope_sets")
	}
	for _, bound := range []struct {
		name  string
		value float64
	}{
		{".requests_per_second", l.RequestsPerSecond},
		{".burst", float64(l.Burst)},
		{".concurrent", float64(l.Concurrent)},
		{".client_requests_per_second", l.ClientRequestsPerSecond},
		{".client_burst", float64(l.ClientBurst)},
		{".client_concurrent", float64(l.ClientConcurrent)},
		{".scope_sets", float64(l.ScopeSets)},
	} {
		inBounds := bound.value >= 0 && bound.value <= maxRate // and a number
		if zero := p.zero(key+bound.name, bound.value); zero || !inBounds {
			text := fmt.Sprintf("is %v; it must be above 0 and at most %d: to forbid something, do not grant it", bound.value, maxRate)
			p.findings = append(p.findings, finding{key: key + bound.name, text: text, missing: zero})
		}
	}
	p.burst(key, "", l.RequestsPerSecond, &l.Burst)
	p.burst(key, "client_", l.ClientRequestsPerSecond, &l.ClientBurst)
}

// burst checks a burst against its rate, and is a second's worth where there is none.
func (p *parser) burst(key, prefix string, perSecond float64, burst *int) {
	if *burst > 0 && perSecond == 0 {
		p.add(key+"."+prefix+"burst", "needs %srequests_per_second", prefix)
	}
	if perSecond > 0 && *burst == 0 && !p.zero(key+"."+prefix+"burst", 0) {
		*burst = int(math.Ceil(perSecond))
	}
}
