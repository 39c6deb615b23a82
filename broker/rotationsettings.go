package broker

import (
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
