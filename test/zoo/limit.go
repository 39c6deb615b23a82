package zoo

import (
	"net/http"
	"strings"
	"time"
)

// The lines of the notes about whom a token is for and how many there may be.
const (
	lineTarget = "audience / resource"
	lineSingle = "single active token"
	lineCapped = "capped live tokens"
	lineBudget = "issuance limits"
)

// demanding refuses a grant unless sound holds.
func demanding(sound func(*call) bool, code, description string) play {
	return play{before: func(c *call) (answer, bool) {
		return refusal(http.StatusBadRequest, code, description), !sound(c)
	}}
}

// The targets that the zoo's servers know.
const (
	Audience = "https://api.zoo.example"
	Scope    = "https://graph.zoo.example/.default"
)

func targetQuirks() []Quirk {
	return []Quirk{
		{Name: "audience", Line: lineTarget, Sends: "invalid_request unless the request names the audience " + Audience, play: demanding(func(c *call) bool { return c.form.Get("audience") == Audience }, "invalid_request", "audience is required")},
		{Name: "resource", Line: lineTarget, Sends: "invalid_target unless the request names the resource " + Audience, play: demanding(func(c *call) bool { return c.form.Get("resource") == Audience }, "invalid_target", "no such resource")},
		{Name: "resource-as-audience", Line: lineTarget, Sends: "knows resources as audience only", Profile: "request:\n  resource_as: audience\n", play: demanding(func(c *call) bool { return c.form.Get("audience") == Audience && !c.form.Has("resource") }, "invalid_request", "audience is required")},
		{Name: "default-scope", Line: lineTarget, Sends: "AADSTS1002012 unless the scope ends in /.default", play: demanding(func(c *call) bool { return strings.HasSuffix(c.form.Get("scope"), "/.default") }, "invalid_scope", "AADSTS1002012: The provided value for scope is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier.")},
	}
}

// budgeted gives so many tokens, and then refuses.
func budgeted(tokens int, refused answer) play {
	return play{before: func(c *call) (answer, bool) { return refused, len(c.live) >= tokens }}
}

func limitQuirks() []Quirk {
	retryAfter := object(http.StatusTooManyRequests, `{"error":"rate_limited"}`)
	retryAfter.header["Retry-After"] = "120"
	date := object(http.StatusTooManyRequests, `{"error":"rate_limited"}`)
	date.header["Retry-After"] = time.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat)
	return []Quirk{
		{Name: "single-active", Line: lineSingle, Sends: "a new token ends the one before it", Profile: "limits:\n  single_active_token: true\n", play: play{maxLive: 1}},
		{Name: "single-active-pair", Line: lineSingle, Sends: "a refresh ends the pair before it", Grant: "refresh_token", Profile: "limits:\n  single_active_token: true\nrefresh:\n  rotation: always\n", play: play{maxLive: 1, rotation: rotationAlways}},
		{Name: "capped", Line: lineCapped, Sends: "a third live token ends the first", Profile: "limits:\n  max_live_tokens: 2\n", play: play{maxLive: 2}},
		{Name: "capped-zoho", Line: lineCapped, Sends: "an eleventh live token ends the first", Profile: "limits:\n  max_live_tokens: 10\n", play: play{maxLive: 10}},
		{Name: "budget-header", Line: lineBudget, Sends: "429 with Retry-After: 120 after one token", Profile: "limits: {tokens: 50, period: 12h}\n", play: budgeted(1, retryAfter)},
		{Name: "budget-header-date", Line: lineBudget, Sends: "429 with Retry-After as a date after one token", play: budgeted(1, date)},
		{
			Name: "budget-text", Line: lineBudget, Sends: "400 invalid_request after one token; how long to wait is said in error_description alone",
			Profile: "errors:\n  descriptions:\n    - {match: \"limit exceeded.* in (?P<minutes>[0-9]+) minutes\", reason: UPSTREAM_RATE_LIMITED}\n",
			play:    budgeted(1, refusal(http.StatusBadRequest, "invalid_request", "Token limit exceeded, you can request a new token in 12 minutes")),
		},
		{Name: "budget-declared", Line: lineBudget, Sends: "two tokens an hour, and locks who asks for more", Profile: "limits: {tokens: 2, period: 1h}\n", play: budgeted(2, refusal(http.StatusForbidden, "locked", "This client is locked."))},
	}
}
