package broker

import (
	"context"
	"iter"
	"time"

	"golang.org/x/sync/errgroup"
)

// GetRotation returns a client's last rotation. CLIENT_NOT_FOUND, ROTATION_NOT_FOUND,
// INVALID_REQUEST, or a reason of the store.
func (b *Broker) GetRotation(ctx context.Context, id string) (*Rotation, error) {
	c, err := b.GetClient(ctx, id)
	if err != nil {
		return nil, err
	}
	r, err := b.rotationOf(ctx, c)
	if err != nil {
		return nil, err
	}
	b.takeUp(c, r)
	return r.Rotation.clone(), nil
}

func (b *Broker) rotationOf(ctx context.Context, c *Client) (*rotationRecord, error) {
	r, _, err := b.journal(ctx, c)
	if err == nil && r == nil {
		err = newError(ReasonRotationNotFound, c.ID, "its secret was never rotated")
	}
	return r, err
}

// RotationPage is one page of rotations.
type RotationPage struct {
	Rotations []*Rotation
	// NextPageToken is "" on the last page.
	NextPageToken string
}

// ListRotations returns the last rotations of the clients that q finds, of those that
// keep takes; nil takes all. A client whose journal cannot be read is left out.
// INVALID_REQUEST or a reason of the store.
func (b *Broker) ListRotations(ctx context.Context, q ListQuery, keep func(*Rotation) bool) (RotationPage, error) {
	clients, err := b.ListClients(ctx, q)
	if err != nil {
		return RotationPage{}, err
	}
	found := make([]*Rotation, len(clients.Clients))
	var group errgroup.Group
	group.SetLimit(readsAtOnce)
	for i, c := range clients.Clients {
		group.Go(func() error {
			return b.guarded(ctx, func() error {
				r, err := b.rotationOf(ctx, c)
				if err != nil && ReasonOf(err) != ReasonRotationNotFound {
					b.log.WarnContext(ctx, "rotation left out of a list", "client", c.ID, "reason", ReasonOf(err))
				}
				if err == nil {
					found[i] = &r.Rotation
				}
				return nil
			})
		})
	}
	_ = group.Wait() // none returns an error
	page := RotationPage{NextPageToken: clients.NextPageToken}
	for _, r := range found {
		if r != nil && (keep == nil || keep(r)) {
			page.Rotations = append(page.Rotations, r)
		}
	}
	return page, listed(ctx)
}

// watchRotationEvery is how often a watch looks for what another replica has done.
const watchRotationEvery = time.Second

// WatchRotation yields a client's last rotation and then each change of it, until it is
// over or the consumer stops. It ends with an error, yielded once with a nil rotation:
// the reasons of GetRotation, and SHUTTING_DOWN.
func (b *Broker) WatchRotation(ctx context.Context, id string) iter.Seq2[*Rotation, error] {
	return func(yield func(*Rotation, error) bool) {
		signal, leave := b.watchers.join(id)
		defer leave()
		var last *Rotation
		for {
			r, err := b.GetRotation(ctx, id)
			switch {
			case ctx.Err() != nil:
				return
			case b.stopping.Err() != nil:
				yield(nil, newError(ReasonShuttingDown, id, ""))
				return
			case err != nil && (last == nil || !outage(err)):
				yield(nil, err)
				return
			case err == nil:
				if (last == nil || !r.same(last)) && !yield(r, nil) {
					return
				}
				if last = r; r.State.Over() {
					return
				}
			}
			if !b.untilChange(ctx, signal) {
				return
			}
		}
	}
}

func (b *Broker) untilChange(ctx context.Context, signal <-chan struct{}) bool {
	timer := time.NewTimer(watchRotationEvery)
	defer timer.Stop()
	select {
	case <-signal:
	case <-timer.C:
	case <-b.stopping.Done():
	case <-ctx.Done():
		return false
	}
	return true
}

// same reports whether nothing that a watcher sees has changed.
func (r *Rotation) same(other *Rotation) bool {
	return r.ID == other.ID && r.State == other.State && r.Verified == other.Verified && r.Attempts == other.Attempts &&
		r.Reason == other.Reason && len(r.Events) == len(other.Events) && r.NextTime.Equal(other.NextTime)
}
