package zoo

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// The lines of the notes about what is around a token.
const (
	lineForm    = "form-encoded body"
	lineCreated = "201 success"
	lineEmpty   = "200 empty/HTML"
	lineScope   = "granted scope differs"
	lineHuge    = "huge tokens"
	lineLogins  = "multi-step, GET, XML logins"
)

// formOf is an answer whose body is a form.
func formOf(g grant) answer {
	form := url.Values{"access_token": {g.access}, "token_type": {"bearer"}, "expires_in": {"3600"}}
	if g.scope != "" {
		form.Set("scope", g.scope)
	}
	return answer{status: http.StatusOK, header: map[string]string{"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}, body: form.Encode()}
}

// instead answers so in place of any grant.
func instead(a answer) play {
	return play{before: func(*call) (answer, bool) { return a, true }}
}

// firstOnly answers so in place of the first grant.
func firstOnly(a answer) play {
	return play{before: func(c *call) (answer, bool) { return a, c.requests["token"] == 1 }}
}

func bodyQuirks() []Quirk {
	typed := func(contentType string, a answer) answer {
		a.header = map[string]string{"Content-Type": contentType}
		return a
	}
	portal := page(http.StatusOK, "Welcome to the guest network")
	return []Quirk{
		{Name: "form-body", Line: lineForm, Sends: "access_token=…&token_type=bearer&expires_in=3600, whatever is accepted", play: play{shape: func(_ *call, g grant) answer { return formOf(g) }}},
		{Name: "form-body-unless-json", Line: lineForm, Sends: "a form, unless the request says Accept: application/json", play: play{shape: func(c *call, g grant) answer {
			if strings.Contains(c.request.Header.Get("Accept"), "application/json") {
				return plain(g, "")
			}
			return formOf(g)
		}}},
		{Name: "form-body-as-text", Line: lineForm, Sends: "a form under Content-Type: text/plain", play: play{shape: func(_ *call, g grant) answer { return typed("text/plain", formOf(g)) }}},
		{Name: "json-as-html", Line: lineForm, Sends: "JSON under Content-Type: text/html", play: play{shape: func(_ *call, g grant) answer { return typed("text/html", plain(g, "")) }}},

		{Name: "created", Line: lineCreated, Sends: "201 Created with the token", play: play{shape: func(_ *call, g grant) answer { return object(http.StatusCreated, plainBody(g, "")) }}},

		{Name: "empty-body", Line: lineEmpty, Sends: "200 with nothing", play: instead(answer{})},
		{Name: "empty-body-once", Line: lineEmpty, Sends: "200 with nothing the first time, then a token", play: firstOnly(answer{})},
		{Name: "captive-portal", Line: lineEmpty, Sends: "200 with the page of a captive portal", play: instead(portal)},
		{Name: "captive-portal-once", Line: lineEmpty, Sends: "200 with a page the first time, then a token", play: firstOnly(portal)},
		{Name: "cut-short", Line: lineEmpty, Sends: "200 with half a JSON object", play: instead(object(http.StatusOK, `{"access_token":"zoo-acc`))},
		{Name: "no-token", Line: lineEmpty, Sends: `200 with {"token_type": "Bearer"} and no token`, play: instead(object(http.StatusOK, `{"token_type":"Bearer","expires_in":3600}`))},

		{Name: "scope-narrowed", Line: lineScope, Sends: `"scope": "read", whatever was asked for`, play: play{shape: with(`"expires_in":3600,"scope":"read"`)}},
		{Name: "scope-none", Line: lineScope, Sends: `"scope": ""`, play: play{shape: with(`"expires_in":3600,"scope":""`)}},
		{Name: "scope-array", Line: lineScope, Sends: `"scope": ["read", "write"]`, play: play{shape: with(`"expires_in":3600,"scope":["read","write"]`)}},
		{
			Name: "scope-comma", Line: lineScope, Sends: `takes and gives scopes with commas: "scope": "read,write"`, Profile: "request:\n  scope_separator: \",\"\nresponse:\n  scope_separator: \",\"\n",
			play: play{shape: func(c *call, g grant) answer {
				return plain(g, fmt.Sprintf(`"expires_in":3600,"scope":%q`, c.form.Get("scope")))
			}},
		},

		{Name: "huge-token", Line: lineHuge, Sends: "a token of 12,000 characters", play: play{access: sized(12_000)}},
		{Name: "too-huge-token", Line: lineHuge, Sends: "a token of 70,000 characters, more than any header takes", play: play{access: sized(70_000)}},

		{Name: "get-login", Line: lineLogins, Sends: "takes GET with a query and nothing else", Profile: "authentication:\n  methods: [client_secret_post]\nrequest:\n  method: GET\n  format: query\n", play: play{before: func(c *call) (answer, bool) {
			return page(http.StatusMethodNotAllowed, "Method Not Allowed"), c.request.Method != http.MethodGet
		}}},
		{Name: "xml-body", Line: lineLogins, Sends: "200 with the token in XML", play: instead(answer{header: map[string]string{"Content-Type": "application/xml"}, body: "<?xml version=\"1.0\"?><login><token>zoo-access</token></login>"})},
		{Name: "second-step", Line: lineLogins, Sends: "a session that a second request would exchange for a token", play: instead(object(http.StatusOK, `{"session":"zoo-session","next":"/login/2"}`))},
	}
}
