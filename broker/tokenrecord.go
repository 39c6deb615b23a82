package broker

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// tokenRecord is what replicas share about one token key: the token, who gets the
// next one, and why the last try failed.
type tokenRecord struct {
	header
	Token *sealedToken `json:"token,omitempty"`
	// Lease is held by the replica that asks; nil if none does.
	Lease *lease `json:"lease,omitempty"`
	// Fence counts the leases that were given.
	Fence int64 `json:"fence"`
	// Generation is the client's TokenGeneration that the token belongs to.
	Generation int64          `json:"generation,omitempty"`
	Failure    *sharedFailure `json:"failure,omitempty"`
}

// lease is the right to ask for the next token. It has no times: its holder counts
// Duration from before it sent the write, everybody else from when he first saw it.
type lease struct {
	// Holder is a replica, ID one mint of it.
	Holder   string        `json:"holder"`
	ID       string        `json:"id"`
	Duration time.Duration `json:"duration"`
}

// sharedFailure is a failure as other replicas need to know it.
type sharedFailure struct {
	Reason Reason `json:"reason"`
	Detail string `json:"detail,omitempty"`
	// Told is what every caller is told beside it.
	Told          map[string]string `json:"told,omitempty"`
	SecretVersion int64             `json:"secret_version"`
	// Grant is the generation of the user's grant that it is about; 0 of other clients.
	Grant       int64         `json:"grant,omitempty"`
	Count       int           `json:"count"`
	Hold        time.Duration `json:"hold"`
	WaitingHold time.Duration `json:"waiting_hold"`
	// Time is when it happened. A reader whose clock differs waits from when it first
	// saw the failure at most.
	Time    time.Time `json:"time"`
	RetryAt time.Time `json:"retry_at,omitzero"`
}

func (f *failure) shared() *sharedFailure {
	e := AsError(f.err)
	return &sharedFailure{
		Reason: e.Reason, Detail: truncate(e.Detail, 300), Told: e.Told, SecretVersion: f.secretVersion, Count: f.count,
		Hold: f.hold, WaitingHold: f.waitingHold, Time: f.at.UTC(), RetryAt: f.retryAt,
	}
}

func (s *sharedFailure) failure(client string, firstSeen time.Time) *failure {
	f := &failure{
		err:           &Error{Reason: s.Reason, Op: "request token", Client: client, Detail: s.Detail, Told: s.Told},
		secretVersion: s.SecretVersion, count: s.Count, at: firstSeen, hold: s.Hold, waitingHold: s.WaitingHold, retryAt: s.RetryAt,
	}
	if age := firstSeen.Sub(s.Time); age > 0 {
		f.at = firstSeen.Add(-age)
	}
	return f
}

// readToken reads a token record; an empty one if there is none.
func (b *Broker) readToken(ctx context.Context, c *Client, path string) (*tokenRecord, uint64, error) {
	record, err := b.read(ctx, path)
	var absent *AbsentError
	if errors.As(err, &absent) {
		return &tokenRecord{header: header{UID: c.UID}}, absent.Version, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read token record: %w", err)
	}
	r := &tokenRecord{}
	if err := decode(path, record, r); err != nil {
		return nil, 0, fmt.Errorf("read token record: %w", err)
	}
	if r.UID != c.UID {
		return nil, 0, newError(ReasonRecordCorrupt, c.ID, "%s: holds a token of another client", path)
	}
	return r, record.Version, nil
}
