package broker

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// RotationSettings say how a client's secret is changed. Zero fields take the default.
type RotationSettings struct {
	// Rotator names what changes it at the provider; "" if a person does.
	Rotator string `json:"rotator,omitempty"`
	// Parameters are what the rotator needs to know.
	Parameters map[string]string `json:"parameters,omitempty"`
	// Endpoint is the provider's management API, an absolute https URL.
	Endpoint string `json:"endpoint,omitempty"`
	// ManagementClient is the id of the client whose tokens open the management API.
	ManagementClient string `json:"management_client,omitempty"`
	// Account is what rotations of the same provider account have in common: they run
	// one at a time. "" is an account of its own.
	Account string `json:"account,omitempty"`
	// OverlappingSecrets says that the provider takes two secrets at a time.
	OverlappingSecrets bool `json:"overlapping_secrets,omitempty"`
	// TokensEndWithSecret says that the provider ends tokens with the secret that they
	// were got with.
	TokensEndWithSecret bool `json:"tokens_end_with_secret,omitempty"`
	// VerifyTokens must be got in a row, 1 to 20; default 3, and 1 where tokens are limited.
	VerifyTokens int `json:"verify_tokens,omitempty"`
	// VerifySpacing is the pause between them, up to 1 min; default 1 s.
	VerifySpacing time.Duration `json:"verify_spacing,omitempty"`
	// Propagation overrides what the rotator knows, up to 24 h.
	Propagation time.Duration `json:"propagation,omitempty"`
	// Overlap is how long a replaced secret is kept at least, up to 90 days; default 1 h.
	Overlap time.Duration `json:"overlap,omitempty"`
	// Every rotates by itself so long after the last rotation, 1 h to 2 years; 0 never.
	Every time.Duration `json:"every,omitempty"`
	// BeforeExpiry rotates by itself so long before the secret expires, 1 h to 1 year;
	// default 14 days.
	BeforeExpiry time.Duration `json:"before_expiry,omitempty"`
	// Windows are when rotations may begin by themselves; empty means at any time.
	Windows []RotationWindow `json:"windows,omitempty"`
}

// RotationWindow is a part of a week, in UTC.
type RotationWindow struct {
	// Days are "mon" to "sun"; empty means every day.
	Days []string `json:"days,omitempty"`
	// Begin and End are "HH:MM"; an End before Begin is on the next day.
	Begin string `json:"begin"`
	End   string `json:"end"`
}

const (
	defaultVerifyTokens  = 3
	maxVerifyTokens      = 20
	defaultVerifySpacing = time.Second
	maxVerifySpacing     = time.Minute
	maxPropagation       = 24 * time.Hour
	defaultOverlap       = time.Hour
	maxOverlap           = 90 * 24 * time.Hour
	minEvery             = time.Hour
	maxEvery             = 2 * 365 * 24 * time.Hour
	defaultBeforeExpiry  = 14 * 24 * time.Hour
	maxBeforeExpiry      = 365 * 24 * time.Hour
	maxWindows           = 14
	maxTokenDestinations = 5
)

// IsZero reports whether s says nothing.
func (s RotationSettings) IsZero() bool {
	encoded, err := json.Marshal(s)
	return err == nil && string(encoded) == "{}"
}

func (s RotationSettings) clone() RotationSettings {
	s.Parameters, s.Windows = maps.Clone(s.Parameters), slices.Clone(s.Windows)
	for i := range s.Windows {
		s.Windows[i].Days = slices.Clone(s.Windows[i].Days)
	}
	return s
}

func (s RotationSettings) overlap() time.Duration { return orDefault(s.Overlap, defaultOverlap) }

// verifyTokens is how many tokens must be got in a row with a new secret.
func (c *Client) verifyTokens() int {
	switch {
	case c.Rotation.VerifyTokens > 0:
		return c.Rotation.VerifyTokens
	case c.Upstream.limited():
		return 1
	default:
		return defaultVerifyTokens
	}
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

// minutes returns the minutes since midnight that "HH:MM" means; -1 if it means none.
func minutes(clock string) int {
	t, err := time.Parse("15:04", clock)
	if err != nil || len(clock) != len("15:04") {
		return -1
	}
	return t.Hour()*60 + t.Minute()
}

// open reports whether t lies in w.
func (w RotationWindow) open(t time.Time) bool {
	t = t.UTC()
	on := func(day time.Time) bool {
		return len(w.Days) == 0 || slices.Contains(w.Days, weekdays[day.Weekday()])
	}
	now, begin, end := t.Hour()*60+t.Minute(), minutes(w.Begin), minutes(w.End)
	if begin < end {
		return on(t) && now >= begin && now < end
	}
	return on(t) && now >= begin || on(t.AddDate(0, 0, -1)) && now < end
}

// mayBegin reports whether a rotation may begin by itself at t.
func (s RotationSettings) mayBegin(t time.Time) bool {
	return len(s.Windows) == 0 || slices.ContainsFunc(s.Windows, func(w RotationWindow) bool { return w.open(t) })
}

// checkRotationSettings validates what can be said without knowing the rotators.
func checkRotationSettings(v *violations, s RotationSettings, u Upstream) {
	const at = "client.rotation."
	within := func(field string, d, least, most time.Duration) {
		if d != 0 && (d < least || d > most) {
			v.add(at+field, "must lie between %v and %v", least, most)
		}
	}
	within("verify_spacing", s.VerifySpacing, time.Millisecond, maxVerifySpacing)
	within("propagation", s.Propagation, time.Second, maxPropagation)
	within("overlap", s.Overlap, time.Second, maxOverlap)
	within("every", s.Every, minEvery, maxEvery)
	within("before_expiry", s.BeforeExpiry, minEvery, maxBeforeExpiry)
	if s.VerifyTokens < 0 || s.VerifyTokens > maxVerifyTokens {
		v.add(at+"verify_tokens", "must lie between 1 and %d", maxVerifyTokens)
	}
	if s.Endpoint != "" {
		checkEndpoint(v, at+"endpoint", s.Endpoint)
	}
	if s.ManagementClient != "" && idProblem(s.ManagementClient) != "" {
		v.add(at+"management_client", "%s", idProblem(s.ManagementClient))
	}
	checkText(v, at+"account", s.Account, maxIDLength)
	checkText(v, at+"rotator", s.Rotator, maxIDLength)
	if len(s.Parameters) > maxParameters {
		v.add(at+"parameters", "has %d entries; at most %d", len(s.Parameters), maxParameters)
	}
	for name, value := range s.Parameters {
		checkText(v, at+"parameters", name, maxIDLength)
		checkText(v, at+"parameters."+truncate(name, 64), value, maxParameterLength)
	}
	if s.Rotator == "" {
		for field, set := range map[string]bool{
			"every": s.Every != 0, "parameters": len(s.Parameters) > 0, "endpoint": s.Endpoint != "", "management_client": s.ManagementClient != "",
		} {
			if set {
				v.add(at+field, "needs a rotator")
			}
		}
	}
	if s.Rotator != "" && s.OverlappingSecrets {
		v.add(at+"overlapping_secrets", "is for clients without rotator, which knows by itself")
	}
	checkWindows(v, at+"windows", s.Windows)
	checkTokenDestinations(v, "client.token_destinations", u.TokenDestinations)
}

func checkWindows(v *violations, field string, windows []RotationWindow) {
	if len(windows) > maxWindows {
		v.add(field, "has %d entries; at most %d", len(windows), maxWindows)
	}
	for _, w := range windows {
		if minutes(w.Begin) < 0 || minutes(w.End) < 0 || w.Begin == w.End {
			v.add(field, `takes begin and end as "HH:MM" in UTC, which differ`)
		}
		for _, day := range w.Days {
			if !slices.Contains(weekdays, day) {
				v.add(field, "takes the days %s", strings.Join(weekdays, ", "))
			}
		}
	}
}

func checkTokenDestinations(v *violations, field string, origins []string) {
	if len(origins) > maxTokenDestinations {
		v.add(field, "has %d entries; at most %d", len(origins), maxTokenDestinations)
	}
	for _, o := range origins {
		if origin, err := Origin(o); err != nil || origin != o {
			v.add(field, "%q is no origin, such as https://graph.microsoft.com", truncate(o, 64))
		}
	}
}

func (s RotationSettings) verifySpacing() time.Duration {
	return orDefault(s.VerifySpacing, defaultVerifySpacing)
}
