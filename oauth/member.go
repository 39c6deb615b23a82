package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// parse reads a body as the server spells it. What the profile does not say is where the
// standards have it, and an error that stands there is one in any case: something in
// front of the server may answer too.
func (d dialect) parse(contentType string, body []byte) (document, string) {
	if d.profile == nil {
		return parseDocument(contentType, body)
	}
	tree, kind := d.tree(contentType, body)
	if tree == nil {
		return document{}, kind
	}
	a := d.profile.Answer()
	doc := document{members: make(map[string]json.RawMessage), unsuccessful: !d.profile.Succeeded(tree)}
	for name, paths := range map[string]profile.Paths{
		"access_token": a.AccessToken, "token_type": a.TokenType, "refresh_token": a.RefreshToken, "id_token": a.IDToken, "scope": a.Scope,
		"expires_in": a.ExpiresIn, "refresh_expires_in": a.RefreshExpiresIn,
	} {
		doc.keep(name, tree, paths)
	}
	for _, name := range []string{"refresh_in", "issued_token_type", "interval"} {
		doc.keep(name, tree, profile.Paths{standardPath(name)})
	}
	for _, path := range slices.Concat(a.ErrorCode, profile.Paths{standardPath("error")}) {
		if doc.unsuccessful || path.String() != a.Success.String() { // one member may say both
			doc.keepText("error", tree, path)
		}
	}
	for _, path := range slices.Concat(a.ErrorDescription, profile.Paths{standardPath("error_description")}) {
		doc.keepText("error_description", tree, path)
	}
	doc.hidden = hidden(tree, a)
	return doc, kind
}

// standardPath is that of one of the standards' members.
func standardPath(name string) profile.Path {
	path, err := profile.ParsePath(name)
	if err != nil { // of a name of this package
		return profile.Path{}
	}
	return path
}

// keep takes the first member that says something; one that says nothing if none does.
func (d document) keep(name string, tree any, paths profile.Paths) {
	for _, path := range paths {
		member, ok := path.Find(tree)
		if !ok || d.says(name) {
			continue
		}
		if text, err := json.Marshal(member); err == nil {
			d.members[name] = text
		}
	}
}

// says reports whether a member is there and neither null nor an empty string.
func (d document) says(name string) bool {
	switch string(d.members[name]) {
	case "", "null", `""`:
		return false
	}
	return true
}

// keepText takes a code or description if there is none yet. Some servers send a number.
func (d document) keepText(name string, tree any, path profile.Path) {
	if d.has(name) {
		return
	}
	delete(d.members, name)
	d.keep(name, tree, profile.Paths{path})
	if text, ok := path.Text(tree); ok && d.has(name) { // 0 and false go on saying that there is none
		if quoted, err := json.Marshal(text); err == nil {
			d.members[name] = quoted
		}
	}
}

// hidden returns all tokens of an answer, also those at places that were not asked.
func hidden(tree any, a *profile.Answer) []string {
	places := profile.Paths{standardPath("access_token"), standardPath("refresh_token"), standardPath("id_token")}
	for _, paths := range []profile.Paths{a.AccessToken, a.RefreshToken, a.IDToken} {
		places = append(places, paths...)
	}
	var tokens []string
	for _, path := range places {
		if token, ok := path.Text(tree); ok && token != "" {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// tree decodes a body whole; nil if it cannot be. A member that some path leads through
// may be there once only, for the reason that errRepeated has.
func (d dialect) tree(contentType string, body []byte) (any, string) {
	text := bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff")))
	isForm := strings.HasPrefix(strings.ToLower(contentType), "application/x-www-form-urlencoded")
	switch {
	case len(text) == 0:
		return nil, emptyBody
	case text[0] == '<':
		return nil, "an HTML or XML page"
	case text[0] == '{' && !isForm:
		return d.objectTree(text)
	}
	if tree, kind := d.formTree(text); kind != "" {
		return tree, kind
	}
	if text[0] == '{' {
		return d.objectTree(text)
	}
	return nil, unstructured
}

func (d dialect) objectTree(text []byte) (any, string) {
	tree, err := (&pruner{d.guarded()}).object(text, 0)
	switch {
	case errors.Is(err, errRepeated):
		return nil, "a JSON object that has a member twice"
	case err != nil:
		return nil, "JSON that is not one whole object"
	}
	return tree, "a JSON object"
}

// formTree reads a form; its kind is "" if there is nothing of a token or an error in
// it, since any text at all is a form of some kind.
func (d dialect) formTree(text []byte) (any, string) {
	values, err := url.ParseQuery(string(text))
	if err != nil {
		return nil, ""
	}
	tree, guarded := make(map[string]any, len(values)), d.guarded()
	twice := false
	for name, list := range values {
		tree[name] = list[0]
		twice = twice || len(list) > 1 && guarded[name]
	}
	a := d.profile.Answer()
	_, token := a.AccessToken.Find(tree)
	_, failure := a.ErrorCode.Find(tree)
	switch {
	case !token && !failure && !values.Has("error"):
		return nil, ""
	case twice:
		return nil, "a form that has a parameter twice"
	}
	return tree, "a form"
}

// guarded are the names of members that may be there once only.
func (d dialect) guarded() map[string]bool {
	names := make(map[string]bool)
	for _, name := range knownMembers {
		names[name] = true
	}
	a := d.profile.Answer()
	all := []profile.Paths{a.AccessToken, a.TokenType, a.RefreshToken, a.IDToken, a.Scope, a.ExpiresIn, a.RefreshExpiresIn, a.ErrorCode, a.ErrorDescription, {a.Success}}
	for _, paths := range all {
		for _, path := range paths {
			for _, name := range strings.FieldsFunc(path.String(), func(r rune) bool { return strings.ContainsRune(".[]", r) }) {
				names[name] = true
			}
		}
	}
	return names
}
