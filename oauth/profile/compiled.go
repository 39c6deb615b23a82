package profile

import (
	"maps"
	"regexp"

	"github.com/tokenbroker/tokenbroker/broker"
)

// compiled is what a profile says, parsed once.
type compiled struct {
	variables map[string]variable
	issuer    urlTemplate
	// endpoints :: key under endpoints → template
	endpoints         map[string]urlTemplate
	assertionAudience template
	assertionClaims   templates
	request, refresh  Shape
	refreshValues     templates // what Refresh says itself
	headers           templates
	consent           templates
	answer            Answer
}

// Shape is what differs in one kind of request from what the standards say. It is
// immutable.
type Shape struct {
	names  map[string]string
	values templates
	whole  *compiled
}

// Name returns what the provider calls a parameter that has the standard's name; "" if
// it is not sent.
func (s *Shape) Name(standard string) string {
	if name, ok := s.names[standard]; ok {
		return name
	}
	return standard
}

// Values returns what else is sent, or sent instead, to the client with these variables.
// The caller owns it.
func (s *Shape) Values(variables map[string]string) map[string]string {
	if len(s.values) == 0 {
		return nil
	}
	return s.values.expand(s.whole.resolve(variables))
}

// RequestShape is that of requests for a token.
func (p *Profile) RequestShape() *Shape { return &p.compiled.request }

// RefreshShape is that of requests that use a refresh token: what Refresh says, and for
// the rest what Request says, except for another grant_type.
func (p *Profile) RefreshShape() *Shape { return &p.compiled.refresh }

// Headers returns those of each token request. The caller owns it.
func (p *Profile) Headers(variables map[string]string) map[string]string {
	if len(p.compiled.headers) == 0 {
		return nil
	}
	return p.compiled.headers.expand(p.compiled.resolve(variables))
}

// ConsentValues returns what else is sent to the authorization endpoint. The caller owns
// it.
func (p *Profile) ConsentValues(variables map[string]string) map[string]string {
	if len(p.compiled.consent) == 0 {
		return nil
	}
	return p.compiled.consent.expand(p.compiled.resolve(variables))
}

// Answer is Response and Errors, parsed. It is immutable; its maps and slices are not to
// be changed.
type Answer struct {
	// Success must hold of an answer that is to be believed; its Path is zero if there is
	// no such condition.
	Success                                              Path
	AccessToken, TokenType, RefreshToken, IDToken, Scope Paths
	ExpiresIn, RefreshExpiresIn                          Paths
	ErrorCode, ErrorDescription                          Paths
	Aliases                                              map[string]broker.Reason
	Descriptions                                         []Judgement
	// Retryable :: codes, in lower case, that may be gone the next moment
	Retryable map[string]bool
}

// Judgement says what a description means that matches.
type Judgement struct {
	Match *regexp.Regexp
	// Seconds and Minutes are the indexes of the groups that say how long to wait; -1 if
	// there is none.
	Seconds, Minutes int
	Reason           broker.Reason
}

// Answer returns how answers are read.
func (p *Profile) Answer() *Answer { return &p.compiled.answer }

// Succeeded reports whether an answer, as encoding/json decodes it into an any, meets
// the condition for answers that are to be believed.
func (p *Profile) Succeeded(document any) bool {
	path := p.compiled.answer.Success
	if path.String() == "" {
		return true
	}
	text, ok := path.Text(document)
	return ok && text == p.Response.Success.Equals
}

// EndpointAPI returns the URL that takes a token and changes nothing, for a client with
// these variables; "" if the profile has none.
func (p *Profile) EndpointAPI(variables map[string]string) string {
	text, err := p.compiled.endpoints[keyAPI].expand(p.compiled.resolve(variables))
	if err != nil { // of a record written by hand: there is then none to ask
		return ""
	}
	return text
}

// Definition returns the profile as it was written.
func (p *Profile) Definition() string { return p.definition }

// over returns base with what is in top.
func over[V any, M ~map[string]V](base, top M) M {
	merged := maps.Clone(base)
	if merged == nil {
		return top
	}
	maps.Copy(merged, top)
	return merged
}
