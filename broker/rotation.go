package broker

import (
	"fmt"
	"slices"
	"time"
)

// RotationState says where a rotation stands.
type RotationState string

// The states. docs/rotation.md draws them; rotationMoves is what holds.
const (
	// RotationCreating: the new secret is being made at the provider.
	RotationCreating RotationState = "creating"
	// RotationStaged: the new secret is pending.
	RotationStaged RotationState = "staged"
	// RotationVerifying: tokens are being got with the pending secret.
	RotationVerifying RotationState = "verifying"
	// RotationVerified: the pending secret works.
	RotationVerified RotationState = "verified"
	// RotationPromoted: the new secret is current and watched.
	RotationPromoted RotationState = "promoted"
	// RotationRetiring: the replaced secret is being revoked and destroyed.
	RotationRetiring RotationState = "retiring"
	// RotationCompleted: over; the replaced secret is gone, or a person retires it.
	RotationCompleted RotationState = "completed"
	// RotationAborting: the new secret is being revoked and destroyed.
	RotationAborting RotationState = "aborting"
	// RotationAborted: over; the current secret is what it was.
	RotationAborted RotationState = "aborted"
	// RotationRolledBack: over; the replaced secret is current again.
	RotationRolledBack RotationState = "rolled_back"
	// RotationFailed: over; the new secret never worked.
	RotationFailed RotationState = "failed"
	// RotationNeedsOperator: nothing happens before a person has acted.
	RotationNeedsOperator RotationState = "needs_operator"
)

// RotationStates lists the states in the order in which they are documented.
func RotationStates() []RotationState {
	return []RotationState{
		RotationCreating, RotationStaged, RotationVerifying, RotationVerified, RotationPromoted, RotationRetiring, RotationCompleted,
		RotationAborting, RotationAborted, RotationRolledBack, RotationFailed, RotationNeedsOperator,
	}
}

// rotationMoves are the only transitions: state → states that may follow.
var rotationMoves = map[RotationState][]RotationState{
	RotationCreating: {RotationStaged, RotationAborting, RotationAborted, RotationFailed, RotationNeedsOperator},
	RotationStaged:   {RotationVerifying, RotationPromoted, RotationAborting, RotationAborted, RotationNeedsOperator},
	RotationVerifying: {
		RotationStaged, RotationVerified, RotationPromoted, RotationAborting, RotationAborted, RotationNeedsOperator,
	},
	RotationVerified: {RotationVerifying, RotationPromoted, RotationAborting, RotationAborted, RotationNeedsOperator},
	RotationPromoted: {RotationRetiring, RotationCompleted, RotationRolledBack, RotationNeedsOperator},
	RotationRetiring: {RotationCompleted, RotationRolledBack, RotationNeedsOperator},
	RotationAborting: {RotationAborted, RotationFailed, RotationPromoted, RotationNeedsOperator},
	RotationFailed:   {RotationStaged}, // the lost secret turned up after all
	RotationNeedsOperator: {
		RotationCreating, RotationStaged, RotationVerifying, RotationVerified, RotationPromoted, RotationRetiring, RotationCompleted,
		RotationAborting, RotationAborted, RotationRolledBack,
	},
}

// Over reports whether nothing follows s by itself or by a step of this rotation.
func (s RotationState) Over() bool {
	switch s {
	case RotationCompleted, RotationAborted, RotationRolledBack, RotationFailed:
		return true
	}
	return false
}

// before reports whether the new secret is not current yet and nothing else is decided.
func (s RotationState) before() bool {
	switch s {
	case RotationCreating, RotationStaged, RotationVerifying, RotationVerified:
		return true
	}
	return false
}

// promoted reports whether the new secret is current and the replaced one not gone.
func (s RotationState) promoted() bool { return s == RotationPromoted || s == RotationRetiring }

// MayBecome reports whether next may follow s.
func (s RotationState) MayBecome(next RotationState) bool {
	return slices.Contains(rotationMoves[s], next)
}

// SecretSource says where a rotation's new secret comes from.
type SecretSource string

// The sources.
const (
	SourceRequest   SecretSource = "request"
	SourceWrapped   SecretSource = "wrapped"
	SourceReference SecretSource = "reference"
	SourceBroker    SecretSource = "broker"
	SourceProvider  SecretSource = "provider"
	SourceAdopted   SecretSource = "adopted"
)

// Rotation is one change of a client's secret. One that this package hands out is the
// caller's own.
type Rotation struct {
	// ID is random; it is also the token by which calls to a provider are repeated.
	ID string `json:"id"`
	// ClientID is the broker's name of the client.
	ClientID string        `json:"client_id"`
	State    RotationState `json:"state"`
	Source   SecretSource  `json:"source"`
	Shape    Shape         `json:"shape"`
	// SecretVersion is the new version's number, 0 until there is one; ReplacedVersion
	// the one that was current at the beginning, 0 if none was.
	SecretVersion   int64 `json:"secret_version,omitempty"`
	ReplacedVersion int64 `json:"replaced_version,omitempty"`
	// Automatic rotations go on by themselves.
	Automatic bool `json:"automatic,omitempty"`
	// Scheduled ones were begun by nobody.
	Scheduled   bool   `json:"scheduled,omitempty"`
	Compromised bool   `json:"compromised,omitempty"`
	DropTokens  bool   `json:"drop_tokens,omitempty"`
	RequestID   string `json:"request_id,omitempty"`
	// Replaced says that the provider has ended the replaced secret: only forward leads
	// to one that works.
	Replaced bool `json:"replaced,omitempty"`
	// Times are UTC and zero until they are known. NextTime is when the broker acts by
	// itself, RetireTime when it retires the replaced version.
	CreateTime  time.Time `json:"create_time"`
	UpdateTime  time.Time `json:"update_time"`
	StageTime   time.Time `json:"stage_time,omitzero"`
	PromoteTime time.Time `json:"promote_time,omitzero"`
	EndTime     time.Time `json:"end_time,omitzero"`
	NextTime    time.Time `json:"next_time,omitzero"`
	RetireTime  time.Time `json:"retire_time,omitzero"`
	// Attempts counts failures of the present step.
	Attempts int `json:"attempts,omitempty"`
	// Reason is why it failed, waits or needs an operator; "" if nothing is wrong.
	Reason Reason `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Verified of Required tokens were got in a row.
	Verified int `json:"verified,omitempty"`
	Required int `json:"required,omitempty"`
	// TokenLifetime is the longest of the tokens that verified the new secret.
	TokenLifetime time.Duration `json:"token_lifetime,omitempty"`
	// Events are what happened, oldest first; at most the last 32.
	Events []RotationEvent `json:"events,omitempty"`
}

// RotationEvent is one step that was made, or failed.
type RotationEvent struct {
	Time  time.Time     `json:"time"`
	State RotationState `json:"state"`
	Step  string        `json:"step"`
	// Reason is why it failed; "" if it did not.
	Reason Reason `json:"reason,omitempty"`
}

const maxRotationEvents = 32

// stuckAfter is how long after it was due a rotation counts as one that does not go on.
const stuckAfter = 2 * time.Minute

// Stuck reports whether r does not go on although it should: it needs an operator, or
// nobody has taken it up since it was due.
func (r *Rotation) Stuck(now time.Time) bool {
	return r.State == RotationNeedsOperator || !r.NextTime.IsZero() && now.Sub(r.NextTime) > stuckAfter
}

// active reports whether the broker goes on with r by itself.
func (r *Rotation) active() bool {
	return r.Automatic && !r.State.Over() && r.State != RotationNeedsOperator
}

// move makes next the state after step. Moving to another place than rotationMoves
// allows is a mistake of this package.
func (r *Rotation) move(next RotationState, step string) {
	if next != r.State && !r.State.MayBecome(next) {
		panic(fmt.Sprintf("broker: a rotation cannot go from %s to %s", r.State, next))
	}
	now := time.Now().UTC()
	if next != r.State {
		r.Attempts, r.Reason, r.Detail, r.NextTime = 0, "", "", time.Time{}
	}
	r.State = next
	if next.Over() {
		r.EndTime = now
	}
	r.note(now, step, "")
}

// fail notes that step failed; the state stays.
func (r *Rotation) fail(step string, err error) {
	e := AsError(err)
	r.Attempts++
	r.Reason, r.Detail = e.Reason, truncate(e.Detail, 300)
	r.note(time.Now().UTC(), step, e.Reason)
}

func (r *Rotation) note(now time.Time, step string, reason Reason) {
	last := len(r.Events) - 1
	if last >= 0 && r.Events[last].State == r.State && r.Events[last].Step == step && r.Events[last].Reason == reason {
		return // when it began is worth more than when it last happened, which UpdateTime tells
	}
	r.Events = append(r.Events, RotationEvent{Time: now, State: r.State, Step: step, Reason: reason})
	if over := len(r.Events) - maxRotationEvents; over > 0 {
		r.Events = slices.Delete(r.Events, 0, over)
	}
}

func (r *Rotation) clone() *Rotation {
	d := *r
	d.Events = slices.Clone(r.Events)
	return &d
}
