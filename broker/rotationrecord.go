package broker

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// rotationLease is how long a replica has a rotation for itself after each write
	// of its journal. A call to a provider gets half of what is left.
	rotationLease = 30 * time.Second
)

// rotationRecord is the journal of a client's last rotation. The client record says
// which version has which stage; the journal says what is under way and why.
type rotationRecord struct {
	header
	Rotation
	// Lease is held by the replica that is at work on it; nil if none is.
	Lease *lease `json:"lease,omitempty"`
	// Fence counts the leases that were given.
	Fence int64 `json:"fence"`
	// Intent is an effect outside that was begun and whose result is not known.
	Intent rotationIntent `json:"intent,omitempty"`
	// Activated says that the provider was told to activate the new secret, at
	// ActivateTime.
	Activated    bool      `json:"activated,omitempty"`
	ActivateTime time.Time `json:"activate_time,omitzero"`
	// Made is the version whose value was written before the provider was told of it.
	Made *SecretVersion `json:"made,omitempty"`
	// Bridged says that tokens were made with the secret that is about to end, Revoked
	// that those of a compromised one were revoked.
	Bridged bool `json:"bridged,omitempty"`
	Revoked bool `json:"revoked,omitempty"`
	// Forced says that the new secret becomes current unverified: there is no way back.
	Forced bool `json:"forced,omitempty"`
	// EndAs is the state in which aborting ends.
	EndAs RotationState `json:"end_as,omitempty"`
	// Resume is the state that a rotation which needs an operator goes on from.
	Resume RotationState `json:"resume,omitempty"`
	// Told is the state that somebody was last told of.
	Told RotationState `json:"told,omitempty"`
	// Failures counts rotations in a row that began by themselves and did not complete.
	Failures int `json:"failures,omitempty"`
}

// rotationIntent names an effect at a provider.
type rotationIntent string

const (
	intendNothing  rotationIntent = ""
	intendCreate   rotationIntent = "create"
	intendActivate rotationIntent = "activate"
)

func rotationKey(uid string) string { return "rotations/" + uid }

// readRotation reads the journal of a client; nil and the version to write over if
// there is none, or one that cannot be understood.
func (b *Broker) readRotation(ctx context.Context, c *Client) (*rotationRecord, uint64, error) {
	key := rotationKey(c.UID)
	record, err := b.read(ctx, key)
	var absent *AbsentError
	if errors.As(err, &absent) { // what it knew is gone; the client record says what matters
		return nil, absent.Version, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the rotation record: %w", err)
	}
	r := &rotationRecord{}
	if err := decode(key, record, r, "id", "state"); err != nil {
		return nil, record.Version, fmt.Errorf("read the rotation record: %w", err)
	}
	if r.UID != c.UID {
		return nil, record.Version, newError(ReasonRecordCorrupt, c.ID, "%s: holds the record of another client", key)
	}
	return r, record.Version, nil
}

// leasedBy returns how long another holder's lease on the journal lasts at most; 0 if
// it is free or id is the holder.
func (b *Broker) leasedBy(r *rotationRecord, version uint64, id string) time.Duration {
	seen := b.firstSeen(rotationKey(r.UID), version)
	if r.Lease == nil || r.State.Over() || r.Lease.ID == id || r.Lease.Holder == b.replica && !b.leases.has(r.Lease.ID) {
		return 0
	}
	return max(r.Lease.Duration-time.Since(seen), 0)
}

// writeRotation writes the journal over version.
func (b *Broker) writeRotation(ctx context.Context, r *rotationRecord, version uint64) (uint64, error) {
	r.UpdateTime = time.Now().UTC()
	event, tell := r.event()
	if tell {
		r.Told = r.State
	}
	written, err := b.write(ctx, rotationKey(r.UID), version, &r.header, r)
	if err == nil {
		b.watchers.wake(r.ClientID)
		b.outcomes.note(r)
	}
	if err == nil && tell {
		b.tell(ctx, event)
	}
	return written, err
}

// newRotation returns the journal of a rotation of c that begins now.
func newRotation(c *Client, shape Shape, source SecretSource, state RotationState) *rotationRecord {
	now := time.Now().UTC()
	r := &rotationRecord{header: header{UID: c.UID}, Rotation: Rotation{
		ID: newID(), ClientID: c.ID, State: state, Source: source, Shape: shape, CreateTime: now, Required: c.verifyTokens(),
	}}
	if current, ok := c.Staged(Current); ok {
		r.ReplacedVersion = current.Number
	}
	return r
}

// brings reports whether pending is the version that r is about.
func (r *rotationRecord) brings(pending SecretVersion) bool {
	switch {
	case r.SecretVersion == pending.Number || r.goesOn():
		return true
	case r.State.Over(): // a Create that nobody waited for any more
		return r.ID == pending.RotationID && r.lost()
	}
	return r.ID == pending.RotationID
}

// lost reports whether r ended because nobody knows the secret that the provider made.
func (r *rotationRecord) lost() bool {
	return r.State == RotationFailed && r.Reason == ReasonUpstreamSecretLost
}

// staged notes that version is the one that the rotation brings.
func (r *rotationRecord) staged(version SecretVersion, step string) {
	r.SecretVersion, r.StageTime, r.Intent = version.Number, time.Now().UTC(), intendNothing
	r.EndTime = time.Time{}
	made := r.Source == SourceProvider || r.Source == SourceBroker
	r.Replaced = r.Replaced || made && r.Shape == ShapeReplaced
	r.move(RotationStaged, step)
}

// follow moves r to where c's stages show it to be.
func (r *rotationRecord) follow(c *Client) {
	if r.SecretVersion == 0 || r.State.Over() {
		return
	}
	current, _ := c.Staged(Current)
	version, _ := c.Secret(r.SecretVersion)
	_, replacedThere := c.Secret(r.ReplacedVersion)
	waiting, at := r.State == RotationNeedsOperator, r.State
	if waiting {
		at = r.Resume
	}
	switch {
	case current.Number == r.SecretVersion && (at.before() || at == RotationAborting):
		r.promoted(c, "promote")
	case at.before() && version.Stage != Pending:
		r.superseded(c)
	case !at.promoted():
	case current.Number == r.ReplacedVersion && r.ReplacedVersion != 0:
		r.move(RotationRolledBack, "roll back")
	case !replacedThere && (waiting || at == RotationPromoted && !(r.Automatic && r.Compromised)):
		r.move(RotationCompleted, "retire")
	}
}

// superseded ends a rotation whose pending version has lost that label.
func (r *rotationRecord) superseded(c *Client) {
	switch {
	case !r.Replaced:
		r.move(RotationAborted, "superseded")
		r.Reason = ReasonConcurrentChange
	case r.State != RotationNeedsOperator:
		r.needOperator("superseded", newError(ReasonConcurrentChange, c.ID, "somebody took the label from version %d, the only one that the provider takes", r.SecretVersion))
	}
}

// move is that of [Rotation]; what a rotation that needs an operator goes on from is
// forgotten when it does.
func (r *rotationRecord) move(next RotationState, step string) {
	if next != RotationNeedsOperator {
		r.Resume = ""
	}
	r.Rotation.move(next, step)
}

// promoted notes that c's current version is the one that the rotation brought.
func (r *rotationRecord) promoted(c *Client, step string) {
	current, _ := c.Staged(Current)
	if previous, ok := c.Staged(Previous); ok { // the client may have been given another secret since it began
		r.ReplacedVersion = previous.Number
	}
	r.PromoteTime = current.PromoteTime
	r.RetireTime = r.PromoteTime.Add(max(c.Rotation.overlap(), r.TokenLifetime))
	r.move(RotationPromoted, step)
	switch {
	case r.ReplacedVersion == 0:
		r.RetireTime = time.Time{}
		r.move(RotationCompleted, "nothing was replaced")
	case r.Compromised:
		r.RetireTime = r.PromoteTime
		r.NextTime = r.RetireTime
	case r.Automatic:
		r.NextTime = r.RetireTime
	default:
		r.RetireTime = time.Time{}
	}
}

// needOperator stops until a person has acted.
func (r *rotationRecord) needOperator(step string, err error) {
	resume := r.State
	r.fail(step, err)
	attempts, reason, detail := r.Attempts, r.Reason, r.Detail
	r.move(RotationNeedsOperator, step)
	r.Resume, r.Attempts, r.Reason, r.Detail = resume, attempts, reason, detail
}
