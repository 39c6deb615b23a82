package zoo

import (
	"net/http"
	"strings"
	"time"
)

const lineRotating = "RT rotation + reuse detection"

func refreshQuirks() []Quirk {
	const always = "refresh:\n  rotation: always\n"
	member := func(rotation rotation, grace time.Duration) play { return play{rotation: rotation, grace: grace} }
	return []Quirk{
		{Name: "refresh-forever", Line: lineRotating, Sends: "one refresh token that is used again and again", Grant: "refresh_token", Profile: "refresh:\n  rotation: never\n", play: member(rotationNever, 0)},
		{Name: "refresh-rotating", Line: lineRotating, Sends: "a successor at each use; reuse ends the whole family", Grant: "refresh_token", Profile: always + "errors:\n  descriptions:\n    - {match: \"refresh token was reused\", reason: REFRESH_TOKEN_REUSED}\n", play: member(rotationAlways, 0)},
		{Name: "refresh-rotating-grace", Line: lineRotating, Sends: "a successor at each use; the one before is good for 60 s more", Grant: "refresh_token", Profile: always + "  grace: 60s\n", play: member(rotationAlways, time.Minute)},
		{Name: "refresh-returned-in-grace", Line: lineRotating, Sends: "the same successor again for 60 s", Grant: "refresh_token", Profile: always + "  grace: 60s\n", play: member(rotationReturned, time.Minute)},
		{Name: "refresh-elsewhere", Line: lineRotating, Sends: "takes refresh tokens at another URL than codes", Grant: "refresh_token", Profile: "refresh:\n  rotation: never\n", play: play{refreshElsewhere: true, before: func(c *call) (answer, bool) {
			return page(http.StatusNotFound, "Not Found"), c.form.Get("grant_type") == "refresh_token" && !strings.HasSuffix(c.request.URL.Path, "/refresh")
		}}},
	}
}
