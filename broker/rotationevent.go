package broker

import (
	"context"
	"time"
)

// event is what r's state is worth telling, if nobody was told yet.
func (r *rotationRecord) event() (Event, bool) {
	types := map[RotationState]EventType{
		RotationFailed: EventRotationFailed, RotationRolledBack: EventRotationRolledBack,
		RotationNeedsOperator: EventRotationNeedsOperator, RotationCompleted: EventRotationCompleted,
	}
	eventType, ok := types[r.State]
	return r.eventOf(eventType), ok && r.Told != r.State
}

func (r *rotationRecord) eventOf(t EventType) Event {
	return Event{
		Type: t, ClientID: r.ClientID, Rotation: r.ID, State: string(r.State), Reason: r.Reason, SecretVersion: r.SecretVersion,
	}
}

// tellStuck tells once, on each replica that finds it so, that a rotation which is due
// does not go on.
func (b *Broker) tellStuck(ctx context.Context, r *rotationRecord) {
	if r.State != RotationNeedsOperator && r.Stuck(time.Now()) && b.rotations.firstStuck(r.ID) {
		b.tell(ctx, r.eventOf(EventRotationStuck))
	}
}

// firstStuck reports whether a rotation is found stuck for the first time.
func (r *rotations) firstStuck(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stuck[id] {
		return false
	}
	if r.stuck == nil || len(r.stuck) >= maxActiveRotations {
		r.stuck = map[string]bool{}
	}
	r.stuck[id] = true
	return true
}
