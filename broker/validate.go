package broker

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds on a client's settings. They keep an encoded record far below
// [MaxRecordBytes] and a token request within what servers take.
const (
	maxIDLength        = 128
	maxLabels          = 32
	maxLabelLength     = 63
	maxURLLength       = 2048
	maxHostLength      = 253
	maxClientIDLength  = 512
	maxScopes          = 100
	maxScopeLength     = 256
	maxTargets         = 20
	maxParameters      = 20
	maxParameterLength = 1024
	maxRequestIDLength = 64
	maxTokenIDLength   = 64
	maxMinValidity     = 24 * time.Hour
	maxAssumedLifetime = 30 * 24 * time.Hour
	// maxSettings bounds all settings of a client together, encoded. It leaves room
	// for what else is in a record; the single bounds do not suffice, because JSON
	// encodes some characters in six bytes.
	maxSettings = MaxRecordBytes - 32<<10
)

// ReservedParameter reports whether a form parameter is one that the broker itself
// sends, or that would carry a credential or another grant. A client's settings
// may not name it.
func ReservedParameter(name string) bool {
	return slices.Contains(reservedParameters, strings.ToLower(name))
}

// reservedParameters are the form parameters that the broker itself sends, or
// that would carry a credential or another grant: a setting must not replace them.
var reservedParameters = []string{
	"actor_token", "assertion", "audience", "client_assertion", "client_assertion_type", "client_id",
	"client_secret", "code", "code_verifier", "device_code", "grant_type", "nonce", "password", "redirect_uri",
	"refresh_token", "resource", "response_type", "scope", "state", "subject_token", "username",
}

// CheckID returns an INVALID_REQUEST error unless id may name a client.
func CheckID(field, id string) error {
	if problem := idProblem(id); problem != "" {
		return Invalid(field, "%s", problem)
	}
	return nil
}

func idProblem(id string) string {
	const rule = "an id has 1 to 128 characters of a-z, 0-9, '.', '_' and '-', starts and ends with a letter or digit, and has no '..'"
	alphanumeric := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	if id == "" {
		return "is empty; " + rule
	}
	if len(id) > maxIDLength {
		return fmt.Sprintf("has %d characters; %s", len(id), rule)
	}
	for i := range len(id) {
		if c := id[i]; !alphanumeric(c) && !strings.ContainsRune("._-", rune(c)) {
			r, _ := utf8.DecodeRuneInString(id[i:])
			return fmt.Sprintf("has %q (U+%04X) at position %d; %s", r, r, i+1, rule)
		}
	}
	if !alphanumeric(id[0]) || !alphanumeric(id[len(id)-1]) || strings.Contains(id, "..") {
		return "is not an id; " + rule
	}
	return ""
}

// Origin returns the origin of a URL (RFC 6454): lower-case scheme and host, and
// the port unless it is the scheme's default one.
func Origin(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("is not a URL")
	}
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	if scheme != "https" && scheme != "http" || host == "" {
		return "", fmt.Errorf("is not an absolute https URL")
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return scheme + "://" + host, nil
	}
	return scheme + "://" + host + ":" + port, nil
}

// checkSettings validates all that a client can be given besides its id and secret.
func checkSettings(v *violations, c *Client) {
	u := c.Upstream
	checkLabels(v, "client.labels", c.Labels)
	checkUpstream(v, "client.", u)
	checkPolicy(v, "client.token_policy.", c.TokenPolicy)
	checkRotationSettings(v, c.Rotation, u)
	checkNoSecret(v, u, c.Rotation)
	if c.TokenPolicy.Unshared && u.limited() {
		v.add("client.token_policy.unshared", "must be false for a client with issue_budget, max_live_tokens or single_active_token")
	}
	checkSize(v, c)
}

// checkSize validates all settings together; if there is anything wrong with one of
// them, that is enough to know.
func checkSize(v *violations, c *Client) {
	if len(*v) > 0 {
		return
	}
	if encoded := encodedSettings(c); len(encoded) == 0 || len(encoded) > maxSettings {
		v.add("client", "all settings together have %d bytes when stored; at most %d", len(encoded), maxSettings)
	}
}

// checkEndpoint validates a token endpoint's form. Whether plain http and the
// address are allowed is for the adapter that connects.
func checkEndpoint(v *violations, field, raw string) {
	if raw == "" {
		v.add(field, "is required: the token endpoint's https URL")
		return
	}
	if len(raw) > maxURLLength {
		v.add(field, "has %d bytes; at most %d", len(raw), maxURLLength)
		return
	}
	if _, err := Origin(raw); err != nil {
		v.add(field, "%v", err)
		return
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		v.add(field, "is not a URL")
	case u.User != nil:
		v.add(field, "must not have a user or password")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		v.add(field, "must not have a fragment (RFC 6749 §3.2)")
	case strings.ContainsFunc(raw+u.Host, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }):
		v.add(field, "has a character that must be percent-encoded, or a host name that must be in ASCII form")
	case len(u.Hostname()) > maxHostLength:
		v.add(field, "has a host name of %d bytes; at most %d", len(u.Hostname()), maxHostLength)
	case u.RawQuery != "" || u.ForceQuery:
		v.add(field, "must not have a query; use parameters")
	}
}

func checkText(v *violations, field, s string, most int) {
	switch {
	case len(s) > most:
		v.add(field, "has %d bytes; at most %d", len(s), most)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		v.add(field, "has a control character or is not UTF-8")
	}
}

// checkScopes validates against RFC 6749 §3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ).
func checkScopes(v *violations, field string, scopes []string) {
	if len(scopes) > maxScopes {
		v.add(field, "has %d scopes; at most %d", len(scopes), maxScopes)
		return
	}
	for i, s := range scopes {
		add := func(format string, args ...any) { v.add(fmt.Sprintf("%s[%d]", field, i), format, args...) }
		switch {
		case s == "":
			add("is empty")
		case len(s) > maxScopeLength:
			add("has %d bytes; at most %d", len(s), maxScopeLength)
		case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }):
			add("has a character that a scope cannot have (RFC 6749 §3.3)")
		case slices.Contains(scopes[:i], s): // of a hundred at most; a map would cost each call more
			add("%q is there twice", s)
		}
	}
}

func checkTargets(v *violations, field string, targets []string, resource bool) {
	if len(targets) > maxTargets {
		v.add(field, "has %d entries; at most %d", len(targets), maxTargets)
		return
	}
	for i, target := range targets {
		at := fmt.Sprintf("%s[%d]", field, i)
		if target == "" {
			v.add(at, "is empty")
		}
		checkText(v, at, target, maxURLLength)
		if resource && !isResource(target) {
			v.add(at, "is not an absolute URI without fragment (RFC 8707 §2)")
		}
		if slices.Contains(targets[:i], target) {
			v.add(at, "is there twice")
		}
	}
}

// isResource reports whether s is an absolute URI without fragment. A space, which
// url.Parse lets through, would make one resource look like two in a token's key.
func isResource(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.IsAbs() && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' })
}

func checkUpstream(v *violations, prefix string, u Upstream) {
	checkEndpoint(v, prefix+"token_endpoint", u.TokenEndpoint)
	if u.ClientID == "" {
		v.add(prefix+"client_id", "is required: what the authorization server calls the client")
	}
	checkText(v, prefix+"client_id", u.ClientID, maxClientIDLength)
	if u.Authentication.Method == ClientSecretBasicRaw && strings.Contains(u.ClientID, ":") {
		v.add(prefix+"client_id", "has a colon, which %s cannot send (RFC 7617 §2)", ClientSecretBasicRaw)
	}
	checkGrant(v, prefix, u)
	checkScopes(v, prefix+"default_scopes", u.DefaultScopes)
	checkScopes(v, prefix+"allowed_scopes", u.AllowedScopes)
	checkText(v, prefix+"audience", u.Audience, maxURLLength)
	checkTargets(v, prefix+"allowed_audiences", u.AllowedAudiences, false)
	checkTargets(v, prefix+"resources", u.Resources, true)
	checkTargets(v, prefix+"allowed_resources", u.AllowedResources, true)
	checkLimits(v, prefix, u)
	if len(u.Parameters) > maxParameters {
		v.add(prefix+"parameters", "has %d entries; at most %d", len(u.Parameters), maxParameters)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(u.Parameters)) {
		at := fmt.Sprintf("%sparameters[%q]", prefix, truncate(name, 64))
		if name == "" || ReservedParameter(name) {
			v.add(at, "is a parameter that the broker sends itself or that carries a credential")
		}
		checkText(v, at, name, maxParameterLength)
		checkText(v, at, u.Parameters[name], maxParameterLength)
	}
}

func checkLabels(v *violations, field string, labels map[string]string) {
	if len(labels) > maxLabels {
		v.add(field, "has %d labels; at most %d", len(labels), maxLabels)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if problem := idProblem(key); problem != "" || len(key) > maxLabelLength {
			v.add(fmt.Sprintf("%s[%q]", field, truncate(key, 64)), "a label's key has at most %d characters of a-z, 0-9, '.', '_' and '-'", maxLabelLength)
		}
		checkText(v, fmt.Sprintf("%s[%q]", field, truncate(key, 64)), labels[key], maxLabelLength)
	}
}

func checkPolicy(v *violations, prefix string, p TokenPolicy) {
	if p.MinValidity < 0 || p.MinValidity > maxMinValidity {
		v.add(prefix+"min_validity", "must lie between 0 and %v", maxMinValidity)
	}
	if p.AssumedLifetime < 0 || p.AssumedLifetime > maxAssumedLifetime {
		v.add(prefix+"assumed_lifetime", "must lie between 0 and %v", maxAssumedLifetime)
	}
}

func isKeyMaterial(text string) bool {
	return strings.HasPrefix(text, "-----BEGIN ") || strings.HasPrefix(text, "{")
}

func checkRequestID(v *violations, id string) {
	if len(id) > maxRequestIDLength || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		v.add("request_id", "has at most %d printable ASCII characters without spaces; a UUID is best", maxRequestIDLength)
	}
}

func truncate(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
