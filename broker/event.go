package broker

import (
	"context"
	"log/slog"
	"time"
)

// EventType says what happened. Types are stable: people write rules by them.
type EventType string

// The types of events.
const (
	// EventRotationFailed: a rotation ended without a new secret in use.
	EventRotationFailed EventType = "rotation_failed"
	// EventRotationRolledBack: the new secret did not work, the previous one is back.
	EventRotationRolledBack EventType = "rotation_rolled_back"
	// EventRotationStuck: a rotation makes no progress.
	EventRotationStuck EventType = "rotation_stuck"
	// EventRotationNeedsOperator: only a person can end a rotation.
	EventRotationNeedsOperator EventType = "rotation_needs_operator"
	// EventUsingPreviousSecret: tokens are had with the previous secret only.
	EventUsingPreviousSecret EventType = "using_previous_secret"
	// EventSecretExpiresSoon: a current secret ends within some days.
	EventSecretExpiresSoon EventType = "secret_expires_soon"
	// EventRotationCompleted: a rotation ended as it should.
	EventRotationCompleted EventType = "rotation_completed"
)

// eventInfo is what is known of a type.
type eventInfo struct {
	eventType EventType
	level     slog.Level
	// quiet events are told only to those who name them.
	quiet bool
	// remedy is what to do where the event's reason says nothing.
	remedy string
}

var eventTable = []eventInfo{
	{EventRotationFailed, slog.LevelError, false, "GetRotation says why; mend that and rotate again. The secret that was current still is."},
	{EventRotationRolledBack, slog.LevelWarn, false, "The replaced secret is current again, because somebody said so or the new one was refused. Find out why, then rotate again."},
	{EventRotationStuck, slog.LevelWarn, false, "GetRotation says what it waits for; AbortRotation ends it."},
	{EventRotationNeedsOperator, slog.LevelError, false, "GetRotation says what is to be done by hand."},
	{EventUsingPreviousSecret, slog.LevelError, false, "Find out why the current secret is refused, then roll back or rotate, before the previous one ends."},
	{EventSecretExpiresSoon, slog.LevelWarn, false, "Rotate the client's secret before it expires."},
	{EventRotationCompleted, slog.LevelInfo, true, ""},
}

// EventTypes lists all types in the order in which they are documented.
func EventTypes() []EventType {
	list := make([]EventType, 0, len(eventTable))
	for _, info := range eventTable {
		list = append(list, info.eventType)
	}
	return list
}

func (t EventType) info() eventInfo {
	for _, info := range eventTable {
		if info.eventType == t {
			return info
		}
	}
	return eventInfo{eventType: t, level: slog.LevelError}
}

// ByDefault reports whether t is told to those who do not name the types that they want.
func (t EventType) ByDefault() bool { return !t.info().quiet }

// Level is how t is logged.
func (t EventType) Level() slog.Level { return t.info().level }

// Event is something that an operator may want to be told of. It holds no secret, no
// token and no text of an authorization server.
type Event struct {
	// ID is random and new for each event: who is told twice knows it by that.
	ID   string
	Type EventType
	// Time is when it happened, UTC.
	Time time.Time
	// ClientID is the client concerned.
	ClientID string
	// Rotation names the rotation, State the state that it is in; "" outside of one.
	Rotation, State string
	// Reason is why; "" where the type says all.
	Reason Reason
	// Remedy is one sentence on what to do; "" if nothing is.
	Remedy string
	// SecretVersion is the version concerned; 0 if none is.
	SecretVersion int64
	// ExpireTime is when that version ends, UTC, DaysLeft the whole days until then, 0
	// in the last one and after; zero unless the event is about that.
	ExpireTime time.Time
	DaysLeft   int
}

// tell logs an event and passes it on. Fields that are zero are filled in as far as they
// follow from the others. It does not block.
func (b *Broker) tell(ctx context.Context, e Event) {
	info := e.Type.info()
	if e.ID == "" {
		e.ID = newID()
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC()
	if e.Remedy == "" {
		if e.Remedy = info.remedy; e.Reason != "" {
			e.Remedy = e.Reason.Info().Remedy
		}
	}
	b.log.LogAttrs(ctx, info.level, "event", e.attrs()...)
	if b.notify != nil {
		b.notify(e)
	}
}

// attrs are the event in a log line, without what it has not.
func (e Event) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("event", string(e.Type)), slog.String("event_id", e.ID), slog.String("client", e.ClientID)}
	for _, text := range []struct{ key, value string }{{"rotation", e.Rotation}, {"state", e.State}, {"reason", string(e.Reason)}, {"remedy", e.Remedy}} {
		if text.value != "" {
			attrs = append(attrs, slog.String(text.key, text.value))
		}
	}
	if e.SecretVersion != 0 {
		attrs = append(attrs, slog.Int64("secret_version", e.SecretVersion))
	}
	if !e.ExpireTime.IsZero() {
		attrs = append(attrs, slog.Time("expire_time", e.ExpireTime), slog.Int("days_left", e.DaysLeft))
	}
	return attrs
}
