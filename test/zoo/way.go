package zoo

import (
	"io"
	"net/http"
	"net/url"
)

// The lines of the notes about the way to a server, and about those that mean harm.
const (
	lineWay     = "TLS/DNS/proxy"
	lineHostile = "hostile servers"
	lineDevices = "devices"
)

func wayQuirks() []Quirk {
	return []Quirk{
		{Name: "hang-up", Line: lineWay, Sends: "nothing: it breaks the connection", play: play{way: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}},
		{Name: "never-answers", Line: lineWay, Sends: "nothing at all, until the other side gives up", play: play{way: hold}},
		{Name: "bad-gateway", Line: lineWay, Sends: "502 with a page, as a proxy that finds nobody behind it", play: instead(page(http.StatusBadGateway, "Bad Gateway"))},
		{Name: "proxy-login", Line: lineWay, Sends: "407 with a page, as a proxy that wants a password", play: instead(page(http.StatusProxyAuthRequired, "Proxy Authentication Required"))},
		{Name: "redirect", Line: lineHostile, Sends: "307 to somewhere else, which would get the secret", play: instead(answer{status: http.StatusTemporaryRedirect, header: map[string]string{"Location": "https://elsewhere.example/token"}})},
		{Name: "echo", Line: lineHostile, Sends: "400 with the client's secret in the error's description", play: play{before: func(c *call) (answer, bool) {
			_, secret, _ := c.credentials()
			return refusal(http.StatusBadRequest, "invalid_request", "you said "+secret), true
		}}},
		{Name: "markup", Line: lineHostile, Sends: "400 with markup and control characters in the error", play: refusing(http.StatusBadRequest, "<script>alert(1)</script>", "\x1b[31m<img src=x onerror=alert(1)>\r\nSet-Cookie: a=b")},
		{Name: "endless", Line: lineHostile, Sends: "200 with a body that does not end", play: play{way: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for chunk := make([]byte, 1<<15); r.Context().Err() == nil; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}}},
	}
}

// hold waits until the other side gives up, of which the server learns once the request is read.
func hold(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // whoever leaves early has left
	<-r.Context().Done()
	panic(http.ErrAbortHandler) // and not even then
}

// redirected changes one parameter of what comes back from a consent.
func redirected(name, value string) play {
	return play{redirect: func(_ *call, values url.Values) url.Values {
		values.Set(name, value)
		return values
	}}
}

func userQuirks() []Quirk {
	const issuerInAnswer = "consent:\n  issuer_in_answer: true\n"
	code := func(name, sends, profile string, play play) Quirk {
		return Quirk{Name: name, Line: lineHostile, Sends: sends, Grant: "authorization_code", Profile: profile, play: play}
	}
	return []Quirk{
		code("consent", "a sound consent with the iss of RFC 9207", issuerInAnswer, play{rotation: rotationAlways}),
		code("wrong-issuer", "a consent with the iss of another server", issuerInAnswer, redirected("iss", "https://elsewhere.example")),
		code("no-issuer", "a consent without iss, although it is announced", issuerInAnswer, play{redirect: func(_ *call, values url.Values) url.Values {
			values.Del("iss")
			return values
		}}),
		code("wrong-state", "a consent with a state that nobody made", "", redirected("state", "made-up")),
		code("wrong-code", "a consent with somebody else's code", "", redirected("code", "injected")),
		code("denied", "error=access_denied with markup in the description", "", play{redirect: func(_ *call, values url.Values) url.Values {
			return url.Values{"error": {"access_denied"}, "error_description": {"<script>alert(1)</script>"}, "state": values["state"], "iss": values["iss"]}
		}}),
		code("no-refresh-token", "a token, and no refresh token: the connection ends with it", "", play{rotation: rotationNone}),
		code("refresh-with-access-token", "no refresh token: the last access token is what prolongs it", "refresh:\n  with: access_token\n", play{rotation: rotationNone, refreshWithAccess: true}),
		{Name: "device", Line: lineDevices, Sends: "authorization_pending once, then a token", Grant: "device_code", play: play{polls: []string{"authorization_pending"}}},
		{Name: "device-slow-down", Line: lineDevices, Sends: "slow_down once, then a token", Grant: "device_code", play: play{polls: []string{"slow_down"}}},
		{Name: "device-denied", Line: lineDevices, Sends: "access_denied", Grant: "device_code", play: play{polls: []string{"access_denied", "access_denied"}}},
		{Name: "device-expired", Line: lineDevices, Sends: "expired_token", Grant: "device_code", play: play{polls: []string{"expired_token", "expired_token"}}},
	}
}
