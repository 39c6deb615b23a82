package zoo

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The lines of the notes about how a client shows who it is.
const (
	lineSecrets = "secrets contain `% + = / ~ !`"
	lineLogin   = "JSON login"
)

// AwkwardSecret has what naive encodings break.
const AwkwardSecret = "a%+=/~! &:b%20\"c"

// spelled knows a client by one spelling of its credentials alone.
func spelled(known func(id, secret, how string) bool) play {
	return play{known: func(c *call) bool { return known(c.credentials()) }}
}

func loginQuirks() []Quirk {
	login := "authentication:\n  methods: [client_secret_post]\n" +
		"request:\n  format: json\n  names: {client_id: ClientId, client_secret: Secret, grant_type: \"\"}\n" +
		"response:\n  access_token: [Token]\n  refresh_token: [RefreshToken]\n" +
		"expiry:\n  policy: rolling\n  lifetime: 24h\n"
	return []Quirk{
		{Name: "secret-basic-encoded", Line: lineSecrets, Sends: "takes Basic with id and secret form-encoded, as RFC 6749 says", Secret: AwkwardSecret, play: play{known: func(c *call) bool {
			_, _, how := c.credentials()
			return how == "basic" && c.known()
		}}},
		{Name: "secret-basic-raw", Line: lineSecrets, Sends: "takes Basic with id and secret as they are", Secret: AwkwardSecret, Profile: "authentication:\n  methods: [client_secret_basic_raw]\n", play: spelled(func(id, secret, how string) bool { return how == "basic" && id == ClientID && secret == AwkwardSecret })},
		{Name: "secret-post", Line: lineSecrets, Sends: "takes id and secret in the form alone", Secret: AwkwardSecret, Profile: "authentication:\n  methods: [client_secret_post]\n", play: spelled(func(id, secret, how string) bool { return how == "post" && id == ClientID && secret == AwkwardSecret })},

		{Name: "json-login", Line: lineLogin, Sends: `takes JSON {"ClientId", "Secret"}, gives {"Token", "RefreshToken"}; each use of the API begins 24 hours anew`, Profile: login, play: play{
			lifetime: 24 * time.Hour, access: jwt,
			known: func(c *call) bool {
				return strings.HasPrefix(c.request.Header.Get("Content-Type"), "application/json") && c.form.Get("ClientId") == ClientID && c.form.Get("Secret") == ClientSecret
			},
			stranger: func(*call) answer {
				return object(http.StatusUnauthorized, `{"Message":"The client id or the secret is wrong."}`)
			},
			shape: func(_ *call, g grant) answer {
				return object(http.StatusOK, fmt.Sprintf(`{"Token":%q,"RefreshToken":"zoo-refresh"}`, g.access))
			},
			api: (*call).rollingAPI,
		}},
	}
}

// rollingAPI begins the day of a token anew whenever it is used.
func (c *call) rollingAPI(good bool) answer {
	if !good {
		return object(http.StatusUnauthorized, `{"Message":"Unauthorized"}`)
	}
	at := c.find(c.bearer())
	c.live[at].end = c.now.Add(24 * time.Hour)
	return object(http.StatusOK, `{"ok":true}`)
}
