package broker

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// checkSettings is [StageSettings]: what can be said of a client's settings without
// asking anybody.
func (b *Broker) checkSettings(w *walk, c *Client) {
	u := c.Upstream
	if u.Provider != "" {
		if _, ok := b.providerOf(c); !ok {
			w.fail(StageSettings, newError(ReasonProviderUnknown, c.ID, "provider %q", u.Provider))
			return
		}
	}
	if err := b.checkEndpoint(u.TokenEndpoint); err != nil {
		w.fail(StageSettings, err)
		return
	}
	if mixed := mixedEnvironments(c); len(mixed) > 0 {
		w.add(StageSettings, OutcomeWarned, ReasonEndpointsMixed, mixed...)
		return
	}
	if doubts := clientIDDoubts(u.ClientID); len(doubts) > 0 {
		w.add(StageSettings, OutcomeWarned, ReasonClientIDDoubtful, doubts...)
		return
	}
	w.add(StageSettings, OutcomePassed, "", fmt.Sprintf("%s by %s at %s", orGrant(u.Grant), u.Authentication.Method, u.TokenEndpoint))
}

func orGrant(g GrantType) GrantType {
	if g == "" {
		return ClientCredentials
	}
	return g
}

// providerOf returns the profile of a client's provider; false if it has none, or there
// is none of that name.
func (b *Broker) providerOf(c *Client) (Provider, bool) {
	if b.providers == nil || c.Upstream.Provider == "" {
		return Provider{}, false
	}
	return b.providers.Provider(c.Upstream.Provider)
}

// Words of host names, paths and labels that tell environments apart.
var (
	testWords       = []string{"sandbox", "staging", "stage", "stg", "test", "testing", "dev", "develop", "preprod", "uat", "qa", "demo", "mock"}
	productionWords = []string{"prod", "production", "live"}
	notWord         = regexp.MustCompile(`[^a-z0-9]+`)
)

// environments :: what environmentOf says → how people call it.
var environments = map[string]string{"test": "a test environment", "production": "production"}

// environmentOf guesses what a text says about its environment: "test", "production", or
// "" if nothing.
func environmentOf(text string) string {
	words := notWord.Split(strings.ToLower(text), -1)
	has := func(known []string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(known, w) })
	}
	switch test, production := has(testWords), has(productionWords); {
	case test && !production:
		return "test"
	case production && !test:
		return "production"
	}
	return ""
}

// mixedEnvironments names settings that belong to different environments. Labels count
// only where their key says that they are about it.
func mixedEnvironments(c *Client) []string {
	u := c.Upstream
	texts := []struct{ name, text string }{
		{"token_endpoint", u.TokenEndpoint},
		{"issuer", u.Issuer},
		{"authorization_endpoint", u.AuthorizationEndpoint},
		{"audience", u.Audience},
		{"api_endpoint", u.APIEndpoint},
	}
	for _, key := range []string{"env", "environment", "stage", "tier"} {
		texts = append(texts, struct{ name, text string }{"label " + key, c.Labels[key]})
	}
	var evidence []string
	seen := map[string]bool{}
	for _, t := range texts {
		if environment := environmentOf(t.text); environment != "" {
			seen[environment] = true
			evidence = append(evidence, t.name+" looks like "+environments[environment])
		}
	}
	if len(seen) < 2 {
		return nil
	}
	return evidence
}

// placeholder is text that documents and forms have where a value belongs.
var placeholder = regexp.MustCompile(`(?i)^[<{$\[%]|^(x{4,}|\*+|\.+|todo|tbd|none|null|undefined|changeme|change[-_ ]me|secret|password|dummy|example|placeholder)$|^(your|my|insert|enter|replace)[-_ ].*(id|secret|key|here)|^(client[-_ ]?(id|secret))$`)

func clientIDDoubts(id string) []string {
	var doubts []string
	switch {
	case placeholder.MatchString(id):
		doubts = append(doubts, "it looks like a placeholder")
	case strings.TrimSpace(id) != id:
		doubts = append(doubts, "it has white space around it")
	case len(id) > 1 && strings.ContainsAny(id[:1], `"'`) && id[0] == id[len(id)-1]:
		doubts = append(doubts, "it has quotes around it")
	case strings.Contains(id, "%") && decodes(id):
		doubts = append(doubts, "it is percent-encoded already; the broker encodes it where that is needed")
	}
	return doubts
}

// decodes reports whether a text is percent-encoded and means another one.
func decodes(text string) bool {
	decoded, err := url.QueryUnescape(text)
	return err == nil && decoded != text && strings.Contains(text, "%")
}

var (
	uuid = regexp.MustCompile(`(?i)^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	// escaped is an encoded character that secrets have and URLs do not: + / = : @ & or space.
	escaped    = regexp.MustCompile(`(?i)%(2b|2f|3d|3a|40|26|20|25)`)
	assignment = regexp.MustCompile(`(?i)^(client_secret|clientsecret|secret|password)\s*[:=]|^(bearer|basic)\s`)
)

// secretDoubts says what is odd about a client secret, quoting nothing of it. Keys and
// certificates were looked at by who checks whether they fit.
func secretDoubts(c *Client, value secret.Value) []string {
	text := value.RevealString()
	if isKeyMaterial(strings.TrimSpace(text)) {
		return nil
	}
	decoded, err := base64.StdEncoding.DecodeString(text)
	switch {
	case text == c.Upstream.ClientID:
		return []string{"it is the client_id"}
	case text == c.ID:
		return []string{"it is the client's name"}
	case placeholder.MatchString(text):
		return []string{"it looks like a placeholder"}
	case strings.TrimSpace(text) != text:
		return []string{"it has white space around it"}
	case strings.ContainsAny(text[:1], `"'`) && len(text) > 1 && text[0] == text[len(text)-1]:
		return []string{"it has quotes around it"}
	case assignment.MatchString(text):
		return []string{"it begins with a name or a scheme, as a line of a configuration or a header does"}
	case err == nil && strings.HasPrefix(string(decoded), c.Upstream.ClientID+":"):
		return []string{"it is client_id and secret together in base64, as in a Basic header; only the secret belongs here"}
	case uuid.MatchString(text) && c.Upstream.Provider == "entra":
		return []string{"it is a UUID, as the secret's id is at this provider; its value is another text"}
	case strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://"):
		return []string{"it is a URL"}
	case escaped.MatchString(text) && decodes(text):
		return []string{"it is percent-encoded already; the broker encodes it where that is needed"}
	case strings.Count(text, ".") == 2 && strings.HasPrefix(text, "eyJ"):
		return []string{"it is a JWT, perhaps an access token; those end, and are no client secret"}
	}
	return nil
}

// recentFor is how far back a report tells of changes.
const recentFor = 30 * 24 * time.Hour

// recentChanges are what the record tells of changes before now, latest first.
func (c *Client) recentChanges(now time.Time) []RecentChange {
	var changes []RecentChange
	note := func(at time.Time, format string, args ...any) {
		if !at.IsZero() && now.Sub(at) < recentFor {
			changes = append(changes, RecentChange{at, fmt.Sprintf(format, args...)})
		}
	}
	note(c.CreateTime, "the client was created")
	if c.UpdateTime.After(c.CreateTime) {
		note(c.UpdateTime, "the client's record was last changed")
	}
	for _, v := range c.Secrets {
		if v.CreateTime.After(c.CreateTime.Add(time.Second)) {
			note(v.CreateTime, "secret version %d was staged", v.Number)
		}
		if v.PromoteTime.After(c.CreateTime.Add(time.Second)) {
			note(v.PromoteTime, "secret version %d became current", v.Number)
		}
	}
	slices.SortStableFunc(changes, func(a, b RecentChange) int { return b.Time.Compare(a.Time) })
	return changes[:min(len(changes), 10)]
}

// age is a duration for people.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}
