package broker

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// upstreamRecord is what replicas share about one client at its authorization server.
type upstreamRecord struct {
	header
	Parked *parkedState `json:"parked,omitempty"`
	// Issued are the tokens that count against the client's limits, oldest first.
	Issued []issuedToken `json:"issued,omitempty"`
	// Lifetime is how long the last token of a client with a limit was issued for.
	Lifetime time.Duration `json:"lifetime,omitempty"`
	// Refused says that the current secret is refused while a previous one is there.
	Refused *refusedSecret `json:"refused,omitempty"`
	// WrongTries are those of the last day that checks made, oldest first.
	WrongTries []wrongTry `json:"wrong_tries,omitempty"`
}

func upstreamKey(uid string) string { return "upstream/" + uid }

// readUpstream reads the record of a client; the zero record if there is none.
func (b *Broker) readUpstream(ctx context.Context, c *Client) (*upstreamRecord, uint64, error) {
	key := upstreamKey(c.UID)
	record, err := b.read(ctx, key)
	var absent *AbsentError
	if errors.As(err, &absent) { // nothing in it is worth more than a few requests
		return &upstreamRecord{header: header{UID: c.UID}}, absent.Version, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the upstream record: %w", err)
	}
	r := &upstreamRecord{}
	if err := decode(key, record, r); err != nil {
		return nil, 0, fmt.Errorf("read the upstream record: %w", err)
	}
	if r.UID != c.UID {
		return nil, 0, newError(ReasonRecordCorrupt, c.ID, "%s: holds the record of another client", key)
	}
	return r, record.Version, nil
}

// pollBegin and pollMost are how long one waits between looks at a record that
// somebody else is about to change.
const (
	pollBegin = 50 * time.Millisecond
	pollMost  = 500 * time.Millisecond
)

// changeUpstream lets edit change the client's record and commits what it made if
// edit says that there is something to commit. It returns the record as it then is.
func (b *Broker) changeUpstream(ctx context.Context, c *Client, edit func(*upstreamRecord) (bool, error)) (*upstreamRecord, error) {
	const tries = 8
	var err error
	for try, wait := 0, pollBegin; try < tries; try, wait = try+1, min(2*wait, pollMost) {
		var r *upstreamRecord
		var version uint64
		if r, version, err = b.readUpstream(ctx, c); err != nil {
			return nil, err
		}
		changed, editErr := edit(r)
		if editErr != nil || !changed {
			return r, editErr
		}
		if _, err = b.write(ctx, upstreamKey(c.UID), version, &r.header, r); err == nil {
			return r, nil
		}
		// A conflict may be with a write that a lagging node does not show yet.
		if ReasonOf(err) != ReasonStoreConflict || !sleep(ctx, wait) {
			break
		}
	}
	return nil, fmt.Errorf("write the upstream record: %w", err)
}
