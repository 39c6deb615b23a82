package access

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

// Expectations is a file of what a team expects an access table to decide, for
// `tokenbroker access test`.
type Expectations struct {
	// Expectations are tried one by one; each stands for itself.
	Expectations []Expectation `yaml:"expectations"`
}

// Expectation is one request and what is to come of it.
type Expectation struct {
	// Caller is a name, or an identity in a form of [NormalIdentity]; an identity may be
	// one that no caller has.
	Caller string `yaml:"caller"`
	// Permission is the name of one permission.
	Permission string `yaml:"permission"`
	// Client is an id; absent for what is about no client in particular.
	Client string `yaml:"client"`
	// Labels are those that the client has; absent means none.
	Labels map[string]string `yaml:"labels"`
	// Subject is whom the request names; absent means nobody.
	Subject string `yaml:"subject"`
	// Scopes, Audience and Resources are what a token request names. They are for
	// token.get and token.watch.
	Scopes    []string `yaml:"scopes"`
	Audience  string   `yaml:"audience"`
	Resources []string `yaml:"resources"`
	// Allow is whether the request is to be let through.
	Allow *bool `yaml:"allow"`
	// Gets, if given, are the scopes that the request is to end up with.
	Gets []string `yaml:"gets"`

	line       int
	permission Permission
}

// Failure is an expectation that a table does not meet.
type Failure struct {
	// Line is where the expectation begins.
	Line int
	// Text says what came instead and why.
	Text string
}

// ParseExpectations reads a file of expectations. The error is a *[strictyaml.Error]
// with everything that is wrong.
func ParseExpectations(file string, raw []byte) (*Expectations, error) {
	if len(raw) > maxFileBytes {
		return nil, strictyaml.NewError(file, []strictyaml.Problem{{Line: 1, Text: fmt.Sprintf("has %d bytes; at most %d", len(raw), maxFileBytes)}})
	}
	e := new(Expectations)
	problems := strictyaml.Decode(raw, e)
	p := &parser{doc: strictyaml.NewDocument(raw)}
	problems = append(problems, p.doc.Nulls()...)
	p.broken = len(problems) > 0
	if p.listed("expectations", len(e.Expectations), e.Expectations == nil, maxPatterns) {
		for i := range e.Expectations {
			p.expectation(fmt.Sprintf("expectations[%d]", i), &e.Expectations[i])
		}
	}
	p.forget(problems[:min(len(problems), mostProblems)])
	if err := strictyaml.NewError(file, bounded(append(problems, p.located()...))); err != nil {
		return nil, err
	}
	return e, nil
}

func (p *parser) expectation(key string, e *Expectation) {
	e.line = p.line(key)
	var known bool
	e.permission, known = ParsePermission(e.Permission)
	token := tokenPermissions.has(e.permission)
	switch {
	case e.Permission == "":
		p.missing(key+".permission", "is required")
	case !known:
		p.add(key+".permission", "%.80q is no permission; there are %v", e.Permission, allPermissions)
	case !token && len(e.Scopes)+len(e.Audience)+len(e.Resources)+len(e.Gets) > 0:
		p.add(key, "scopes, audience, resources and gets are for token.get and token.watch")
	}
	if e.Subject != "" && known && !subjectPermissions.has(e.permission) {
		p.add(key+".subject", "is for token.get, token.watch and those of authorizations")
	}
	if e.Caller == "" {
		p.missing(key+".caller", "is required: a name or an identity")
	}
	if e.Client != "" && idProblem(e.Client) != nil {
		p.add(key+".client", "%.140q is no client's id", e.Client)
	}
	if e.Client == "" && token {
		p.missing(key+".client", "is required for token.get and token.watch")
	}
	if e.Allow == nil {
		p.missing(key+".allow", "is required: true or false")
	} else if !*e.Allow && e.Gets != nil {
		p.add(key+".gets", "is for requests that are allowed")
	}
}

// Test returns the expectations that t does not meet, in the order of the file.
func (t *Table) Test(e *Expectations) []Failure {
	var failures []Failure
	for i := range e.Expectations {
		if text := t.test(&e.Expectations[i]); text != "" {
			failures = append(failures, Failure{e.Expectations[i].line, text})
		}
	}
	return failures
}

func (t *Table) test(e *Expectation) string {
	labels := maps.Clone(e.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if _, err := NormalIdentity(e.Caller); err != nil && t.names[e.Caller] == nil {
		// That nobody may do it is true, and not what was meant.
		return fmt.Sprintf("no caller is named %q; callers: %s", e.Caller, t.callerNames())
	}
	explained := t.Explain(e.Caller, e.permission, e.Client, labels)
	if !explained.Allowed {
		if *e.Allow {
			return "expected to be allowed; " + indent(explained)
		}
		return ""
	}
	found := t.names[explained.Caller]
	d := t.Decide(Request{Caller: Caller{table: t, entry: found}, Permission: e.permission, Client: e.Client, Labels: func() map[string]string { return labels }})
	q, err := d.Query(broker.TokenQuery{ClientID: e.Client, Subject: e.Subject, Scopes: e.Scopes, Audience: e.Audience, Resources: e.Resources})
	switch {
	case err != nil && *e.Allow:
		return fmt.Sprintf("expected to be allowed; %v; %s", err, indent(explained))
	case err == nil && !*e.Allow:
		return "expected to be denied; " + indent(explained)
	case err == nil && e.Gets != nil && !slices.Equal(sorted(q.Scopes), sorted(e.Gets)):
		got := "the client's default scopes"
		if len(q.Scopes) > 0 {
			got = strings.Join(q.Scopes, " ")
		}
		return fmt.Sprintf("expected the scopes %s, got %s; %s", strings.Join(e.Gets, " "), got, indent(explained))
	}
	return ""
}

func indent(e Explanation) string { return strings.ReplaceAll(e.String(), "\n", "\n    ") }
