package oauth

import (
	"cmp"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// lifetime returns how long something lives from now on, as a profile says that the
// answer tells it; nil if the answer does not. It is 0 for what has ended, where the
// profile says so or the answer names a point in time that has passed.
func (d document) lifetime(name string, says profile.Duration, now time.Time) *time.Duration {
	raw := strings.TrimSpace(string(d.members[name]))
	var text string
	if json.Unmarshal([]byte(raw), &text) == nil {
		raw = strings.TrimSpace(text)
	}
	switch says.Unit {
	case profile.UnitRFC3339:
		return until(parseTime(raw), now)
	case profile.UnitClock:
		return parseClock(raw)
	}
	number, ok := parseNumber(raw)
	switch {
	case !ok || number < 0:
		return nil
	case number == 0:
		return ofZero(says.Zero)
	}
	switch says.Unit {
	case profile.UnitUnix:
		return until(time.Unix(0, 0).Add(bounded(number, time.Second)), now)
	case profile.UnitUnixMilliseconds:
		return until(time.Unix(0, 0).Add(bounded(number, time.Millisecond)), now)
	}
	unit := map[string]time.Duration{profile.UnitMilliseconds: time.Millisecond, profile.UnitMinutes: time.Minute}[says.Unit]
	length := min(bounded(number, cmp.Or(unit, time.Second)), maxLifetime)
	if length <= 0 { // a fraction below a nanosecond
		return nil
	}
	return &length
}

func ofZero(means string) *time.Duration {
	var length time.Duration
	switch means {
	case profile.ZeroNever:
		length = maxLifetime
	case profile.ZeroExpired:
	default:
		return nil
	}
	return &length
}

// parseNumber takes what JSON and its strings have for numbers, and not the words and
// hexadecimals that strconv takes too.
func parseNumber(text string) (float64, bool) {
	if text == "" || strings.Trim(text, "0123456789.eE+-") != "" {
		return 0, false
	}
	number, err := strconv.ParseFloat(text, 64)
	return number, err == nil || math.IsInf(number, 0)
}

// bounded returns number units, at most what a time.Duration holds.
func bounded(number float64, unit time.Duration) time.Duration {
	if number >= math.MaxInt64/float64(unit) {
		return math.MaxInt64
	}
	return time.Duration(number * float64(unit))
}

// until returns how long it is to a point in time; nil for the zero time.
func until(end, now time.Time) *time.Duration {
	if end.IsZero() {
		return nil
	}
	length := max(0, min(end.Sub(now), maxLifetime))
	return &length
}

// timeLayouts are RFC 3339 and what servers make of it; a time without a zone is UTC.
var timeLayouts = []string{
	time.RFC3339, "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05",
}

func parseTime(text string) time.Time {
	for _, layout := range timeLayouts {
		if end, err := time.Parse(layout, text); err == nil {
			return end
		}
	}
	return time.Time{}
}

// parseClock reads "D+:HH:MM", days, hours and minutes.
func parseClock(text string) *time.Duration {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return nil
	}
	var length time.Duration
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute} {
		number, err := strconv.ParseUint(parts[i], 10, 16)
		if err != nil {
			return nil
		}
		length += time.Duration(number) * unit
	}
	length = min(length, maxLifetime)
	return &length
}
