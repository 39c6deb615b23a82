package zoo

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// play is how a quirk departs from a server that follows the standards. What is nil or zero is as there.
type play struct {
	// way answers in place of the token endpoint, before anything is read.
	way http.HandlerFunc
	// known says whether the client authenticates as it should; stranger answers who does not.
	known    func(*call) bool
	stranger func(*call) answer
	// before may answer in place of a grant.
	before func(*call) (answer, bool)
	// shape is what a grant looks like, lifetime how long its token lives; an hour if 0.
	shape    func(*call, grant) answer
	lifetime time.Duration
	// access makes a token; by default it is opaque.
	access func(now, end time.Time) string
	// maxLive is how many tokens live at a time: a further one ends the oldest.
	maxLive int
	// rotation is what becomes of refresh tokens that were used; grace how long one is taken once more.
	rotation         rotation
	grace            time.Duration
	refreshElsewhere bool
	// introspected says that the profile names the introspection endpoint, which all have.
	introspected bool
	// refreshWithAccess says that the last access token is what a refresh is asked for with.
	refreshWithAccess bool
	// redirect changes what comes back from a consent.
	redirect func(*call, url.Values) url.Values
	// polls are the errors before a device has its token.
	polls []string
	// api says what the API does with a token; by default 401 for one that is not good.
	api func(*call, bool) answer
}

// rotation is what becomes of a refresh token that was used.
type rotation string

const (
	rotationNever    rotation = ""         // it is used again and again
	rotationAlways   rotation = "always"   // it is replaced; its reuse ends all of its family
	rotationReturned rotation = "returned" // within the grace the successor that was given before is given again
	rotationNone     rotation = "none"     // there are no refresh tokens
)

// grant is a token that was just issued.
type grant struct {
	access, refresh, scope string
	lifetime               time.Duration
}

type token struct {
	value, scope, refresh string
	end                   time.Time
}

type code struct {
	challenge, redirectURI, scope string
}

// refresh is a refresh token. A family is what came of one consent.
type refresh struct {
	family, scope string
	successor     string    // "" until it is used
	used          time.Time // when it was replaced
	ended         bool
}

// tokenEndpoint answers a token request (RFC 6749 §3.2).
func (c *call) tokenEndpoint() answer {
	known, stranger := c.quirk.play.known, c.quirk.play.stranger
	if known == nil {
		known = (*call).known
	}
	if stranger == nil {
		stranger = func(*call) answer {
			return refusal(http.StatusUnauthorized, "invalid_client", "client authentication failed")
		}
	}
	if !known(c) {
		return stranger(c)
	}
	if c.quirk.play.before != nil {
		if a, instead := c.quirk.play.before(c); instead {
			return a
		}
	}
	switch c.form.Get("grant_type") {
	case "authorization_code":
		return c.byCode()
	case "refresh_token":
		return c.byRefreshToken()
	case "urn:ietf:params:oauth:grant-type:device_code":
		return c.byDevice()
	}
	return c.issue(c.form.Get("scope"), "")
}

// issue makes a token, with a refresh token unless that is "".
func (c *call) issue(scope, refreshToken string) answer {
	lifetime := c.quirk.play.lifetime
	if lifetime == 0 {
		lifetime = time.Hour
	}
	g := grant{access: "zoo-access-" + rand.Text(), refresh: refreshToken, scope: scope, lifetime: lifetime}
	if c.quirk.play.access != nil {
		g.access = c.quirk.play.access(c.now, c.now.Add(lifetime))
	}
	if c.quirk.play.shape == nil {
		return c.remember(g, plain(g, ""))
	}
	return c.remember(g, c.quirk.play.shape(c, g))
}

// remember makes the token good, and ends older ones where there may not be as many.
func (c *call) remember(g grant, a answer) answer {
	c.live = append(c.live, token{value: g.access, scope: g.scope, refresh: g.refresh, end: c.now.Add(g.lifetime)})
	if most := c.quirk.play.maxLive; most > 0 && len(c.live) > most {
		c.live = c.live[len(c.live)-most:]
	}
	return a
}

// plain is the answer of RFC 6749 §5.1 with further members, which may replace expires_in.
func plain(g grant, members string) answer {
	return object(http.StatusOK, plainBody(g, members))
}

func plainBody(g grant, members string) string {
	body := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer"`, g.access)
	if g.refresh != "" {
		body += fmt.Sprintf(`,"refresh_token":%q`, g.refresh)
	}
	if members == "" {
		members = fmt.Sprintf(`"expires_in":%d`, int(g.lifetime.Seconds()))
	}
	if members != omitted {
		body += "," + members
	}
	return body + "}"
}

// omitted is for answers that do not say how long the token lives.
const omitted = "-"

// with is the shape of a plain answer with these members in place of expires_in.
func with(members string) func(*call, grant) answer {
	return func(_ *call, g grant) answer { return plain(g, members) }
}

// authorize gives consent at once (RFC 6749 §4.1.1).
func (c *call) authorize() answer {
	target, err := url.Parse(c.form.Get("redirect_uri"))
	if err != nil || target.Host == "" || c.form.Get("client_id") != ClientID || c.form.Get("response_type") != "code" {
		return page(http.StatusBadRequest, "This request for consent is not sound")
	}
	given := rand.Text()
	c.codes[given] = code{challenge: c.form.Get("code_challenge"), redirectURI: c.form.Get("redirect_uri"), scope: c.form.Get("scope")}
	values := url.Values{"code": {given}, "state": {c.form.Get("state")}, "iss": {c.issuer}}
	if c.quirk.play.redirect != nil {
		values = c.quirk.play.redirect(c, values)
	}
	query := target.Query()
	for name, list := range values {
		query[name] = list
	}
	target.RawQuery = query.Encode()
	return answer{status: http.StatusFound, header: map[string]string{"Location": target.String()}}
}

func (c *call) byCode() answer {
	given, ok := c.codes[c.form.Get("code")]
	delete(c.codes, c.form.Get("code"))
	sum := sha256.Sum256([]byte(c.form.Get("code_verifier")))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	if !ok || given.redirectURI != c.form.Get("redirect_uri") || given.challenge != "" && given.challenge != challenge {
		return refusal(http.StatusBadRequest, "invalid_grant", "the code is not one for this request")
	}
	return c.issue(given.scope, c.newRefreshToken(rand.Text(), given.scope))
}

func (c *call) newRefreshToken(family, scope string) string {
	if c.quirk.play.rotation == rotationNone {
		return ""
	}
	value := "zoo-refresh-" + rand.Text()
	c.refreshes[value] = &refresh{family: family, scope: scope}
	return value
}

// Plant makes a refresh token as if a user had consented earlier. It panics for an unknown quirk.
func (z *Zoo) Plant(quirk string) string {
	c := z.cages[quirk]
	c.mu.Lock()
	defer c.mu.Unlock()
	return (&call{cage: c}).newRefreshToken(rand.Text(), "read")
}

func (c *call) byRefreshToken() answer {
	if c.quirk.play.refreshWithAccess {
		at := slices.IndexFunc(c.live, func(t token) bool { return t.value == c.form.Get("access_token") })
		if at < 0 {
			return refusal(http.StatusBadRequest, "invalid_grant", "the access token is not one that can be prolonged")
		}
		return c.issue(c.live[at].scope, "")
	}
	value := c.form.Get("refresh_token")
	old, ok := c.refreshes[value]
	if !ok || old.ended {
		return refusal(http.StatusBadRequest, "invalid_grant", "the refresh token is unknown, expired or revoked")
	}
	switch c.quirk.play.rotation {
	case rotationNever:
		return c.issue(old.scope, "")
	case rotationNone:
		return refusal(http.StatusBadRequest, "unsupported_grant_type", "there are no refresh tokens")
	}
	again := old.successor != "" && c.now.Before(old.used.Add(c.quirk.play.grace))
	switch {
	case again && c.quirk.play.rotation == rotationReturned:
		return c.issue(old.scope, old.successor)
	case old.successor != "" && !again:
		c.endFamily(old.family)
		return refusal(http.StatusBadRequest, "invalid_grant", "Unsuccessful refresh: the refresh token was reused; all of its family are revoked")
	}
	successor := c.newRefreshToken(old.family, old.scope)
	if !again {
		old.successor, old.used = successor, c.now
	}
	return c.issue(old.scope, successor)
}

// endFamily ends what came of one consent (RFC 9700 §4.14.2).
func (c *call) endFamily(family string) {
	ended := map[string]bool{}
	for value, r := range c.refreshes {
		if r.family == family {
			r.ended, ended[value] = true, true
		}
	}
	c.live = slices.DeleteFunc(c.live, func(t token) bool { return ended[t.refresh] })
}

// device begins the consent of RFC 8628 §3.1.
func (c *call) device() answer {
	if !c.known() {
		return refusal(http.StatusUnauthorized, "invalid_client", "client authentication failed")
	}
	value := rand.Text()
	c.devices[value] = 0
	return object(http.StatusOK, fmt.Sprintf(`{"device_code":%q,"user_code":"WDJB-MJHT","verification_uri":%q,"expires_in":600,"interval":1}`, value, c.issuer+"/verify"))
}

// byDevice gives the token after the errors of the quirk's polls.
func (c *call) byDevice() answer {
	value := c.form.Get("device_code")
	polled, ok := c.devices[value]
	if !ok {
		return refusal(http.StatusBadRequest, "invalid_grant", "the device code is unknown")
	}
	c.devices[value]++
	if polled < len(c.quirk.play.polls) {
		return refusal(http.StatusBadRequest, c.quirk.play.polls[polled], "not yet")
	}
	delete(c.devices, value)
	return c.issue(c.form.Get("scope"), c.newRefreshToken(rand.Text(), c.form.Get("scope")))
}

// find returns where a good token stands, or -1.
func (c *call) find(value string) int {
	return slices.IndexFunc(c.live, func(t token) bool { return t.value == value && c.now.Before(t.end) })
}

// introspect is RFC 7662.
func (c *call) introspect() answer {
	if !c.known() {
		return refusal(http.StatusUnauthorized, "invalid_client", "client authentication failed")
	}
	at := c.find(c.form.Get("token"))
	if at < 0 {
		return object(http.StatusOK, `{"active":false}`)
	}
	return object(http.StatusOK, fmt.Sprintf(`{"active":true,"client_id":%q,"exp":%d,"scope":%q}`, ClientID, c.live[at].end.Unix(), c.live[at].scope))
}

// revoke is RFC 7009.
func (c *call) revoke() answer {
	value := c.form.Get("token")
	if r, ok := c.refreshes[value]; ok {
		c.endFamily(r.family)
	}
	c.live = slices.DeleteFunc(c.live, func(t token) bool { return t.value == value })
	return answer{}
}

// api takes tokens (RFC 6750).
func (c *call) api() answer {
	good := c.find(c.bearer()) >= 0
	if c.quirk.play.api != nil {
		return c.quirk.play.api(c, good)
	}
	if !good {
		a := object(http.StatusUnauthorized, `{"message":"Unauthorized"}`)
		a.header["WWW-Authenticate"] = `Bearer realm="zoo", error="invalid_token"`
		return a
	}
	return object(http.StatusOK, `{"ok":true}`)
}
