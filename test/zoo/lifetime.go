package zoo

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The lines of the notes about how long tokens live.
const (
	lineString = "expires_in string `\"3599\"`"
	lineZero   = "null / empty / 0"
	linePlace  = "`expires` / `expires_on` / `expire_time` / ISO / \"D+:HH:MM\" / ms"
	lineAbsent = "absent expires_in"
)

// at is the shape of a plain answer with a member that tells when the token ends.
func at(member func(end time.Time) string) func(*call, grant) answer {
	return func(c *call, g grant) answer { return plain(g, member(c.now.Add(g.lifetime))) }
}

func lifetimeQuirks() []Quirk {
	return []Quirk{
		{Name: "expires-in-string", Line: lineString, Sends: `"expires_in": "3599", a string`, play: play{shape: with(`"expires_in":"3599"`)}},
		{Name: "expires-in-float", Line: lineString, Sends: `"expires_in": 3599.5`, play: play{shape: with(`"expires_in":3599.5`)}},
		{Name: "expires-in-exponent", Line: lineString, Sends: `"expires_in": 3.6e3`, play: play{shape: with(`"expires_in":3.6e3`)}},

		{Name: "expires-in-null", Line: lineZero, Sends: `"expires_in": null`, play: play{shape: with(`"expires_in":null`)}},
		{Name: "expires-in-empty", Line: lineZero, Sends: `"expires_in": ""`, play: play{shape: with(`"expires_in":""`)}},
		{Name: "expires-in-zero", Line: lineZero, Sends: `"expires_in": 0, and does not say what it means`, play: play{shape: with(`"expires_in":0`)}},
		{
			Name: "expires-in-zero-never", Line: lineZero, Sends: `"expires_in": 0 of a token that never expires`,
			Profile: "response:\n  expires_in: {zero: never}\n", play: play{shape: with(`"expires_in":0`), lifetime: 100 * 365 * 24 * time.Hour},
		},
		{
			Name: "expires-in-zero-expired", Line: lineZero, Sends: `"expires_in": 0 of a token that has expired`,
			Profile: "response:\n  expires_in: {zero: expired}\n", play: play{shape: with(`"expires_in":0`), lifetime: time.Nanosecond},
		},
		{Name: "expires-in-negative", Line: lineZero, Sends: `"expires_in": -1`, play: play{shape: with(`"expires_in":-1`)}},
		{Name: "expires-in-huge", Line: lineZero, Sends: `"expires_in": 9223372036854775807`, play: play{shape: with(`"expires_in":9223372036854775807`)}},

		{Name: "expires", Line: linePlace, Sends: `"expires": 3600 in place of expires_in`, Profile: "response:\n  expires_in: {paths: [expires]}\n", play: play{shape: with(`"expires":3600`)}},
		{
			Name: "expires-on", Line: linePlace, Sends: `"expires_on": "1700000000", seconds since 1970`, Profile: "response:\n  expires_in: {paths: [expires_on], unit: unix}\n",
			play: play{shape: at(func(end time.Time) string { return fmt.Sprintf(`"expires_on":"%d"`, end.Unix()) })},
		},
		{
			Name: "expire-time", Line: linePlace, Sends: `"result": {"access_token": …, "expire_time": 7200} beside "success": true`,
			Profile: "response:\n  success: {path: success, equals: \"true\"}\n  access_token: [result.access_token]\n  expires_in: {paths: [result.expire_time]}\n",
			play: play{lifetime: 2 * time.Hour, shape: func(_ *call, g grant) answer {
				return object(http.StatusOK, fmt.Sprintf(`{"result":{"access_token":%q,"expire_time":7200},"success":true,"t":1}`, g.access))
			}},
		},
		{
			Name: "expires-at-date", Line: linePlace, Sends: `"expires_at": "2026-01-02T15:04:05Z"`, Profile: "response:\n  expires_in: {paths: [expires_at], unit: rfc3339}\n",
			play: play{shape: at(func(end time.Time) string { return fmt.Sprintf(`"expires_at":%q`, end.UTC().Format(time.RFC3339)) })},
		},
		{Name: "expires-in-clock", Line: linePlace, Sends: `"expires_in": "0:01:00", days, hours and minutes`, Profile: "response:\n  expires_in: {unit: clock}\n", play: play{shape: with(`"expires_in":"0:01:00"`)}},
		{Name: "expires-in-ms", Line: linePlace, Sends: `"expires_in": 3600000, milliseconds`, Profile: "response:\n  expires_in: {unit: milliseconds}\n", play: play{shape: with(`"expires_in":3600000`)}},
		{Name: "expires-in-minutes", Line: linePlace, Sends: `"expires_in": 60, minutes`, Profile: "response:\n  expires_in: {unit: minutes}\n", play: play{shape: with(`"expires_in":60`)}},
		{
			Name: "expires-at-ms", Line: linePlace, Sends: `"expires_at": 1700000000000, milliseconds since 1970`, Profile: "response:\n  expires_in: {paths: [expires_at], unit: unix_milliseconds}\n",
			play: play{shape: at(func(end time.Time) string { return fmt.Sprintf(`"expires_at":%d`, end.UnixMilli()) })},
		},

		{Name: "expires-in-absent", Line: lineAbsent, Sends: "no expires_in, and a token that tells nothing", play: play{shape: with(omitted)}},
		{Name: "expires-in-jwt", Line: lineAbsent, Sends: "no expires_in, and a JWT with exp", play: play{shape: with(omitted), access: jwt}},
		{Name: "expires-in-introspected", Line: lineAbsent, Sends: "no expires_in, but whoever asks about the token is told (RFC 7662)", play: play{shape: with(omitted), introspected: true}},
		{Name: "expires-in-documented", Line: lineAbsent, Sends: "no expires_in, but its documents say two hours", Profile: "expiry:\n  lifetime: 2h\n", play: play{shape: with(omitted), lifetime: 2 * time.Hour}},
		{Name: "expires-in-wrong", Line: lineAbsent, Sends: `"expires_in": 3600 of a token that lives ten minutes, as its documents say`, Profile: "expiry:\n  policy: declared\n  lifetime: 10m\n", play: play{lifetime: 10 * time.Minute, shape: with(`"expires_in":3600`)}},
		{Name: "expires-in-rolling", Line: lineAbsent, Sends: "a JWT whose exp is not obeyed: each use of the API begins its day anew", Profile: "expiry:\n  policy: rolling\n  lifetime: 24h\n", play: play{shape: with(omitted), access: jwt, lifetime: 24 * time.Hour}},
	}
}

// jwt makes a token that tells when it ends. Nobody checks its signature: a token is opaque to who gets it (RFC 6749 §1.4).
func jwt(now, end time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	claims := fmt.Sprintf(`{"iat":%d,"exp":%d,"jti":%q}`, now.Unix(), end.Unix(), rand.Text())
	return encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte(rand.Text()))
}

// sized makes tokens of so many characters.
func sized(length int) func(now, end time.Time) string {
	return func(time.Time, time.Time) string {
		start := "zoo-access-" + rand.Text()
		return start + strings.Repeat("x", length-len(start))
	}
}
