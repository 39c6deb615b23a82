package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// RotationRequest asks for a rotation that goes on by itself.
type RotationRequest struct {
	ClientID string
	// Secret is the new one; without a value the client's rotator has one made, or the
	// version that is pending already is taken.
	Secret SecretInput
	// RequestID makes a repetition return the rotation that the first one began, and go
	// on with one that needs an operator.
	RequestID string
	// Compromised says that the present secret is in wrong hands.
	Compromised bool
	// DropTokens raises the floor at promotion.
	DropTokens bool
	// AcceptGap goes on although callers may be without a token for a moment.
	AcceptGap bool

	scheduled bool
}

// RotateSecret begins a rotation that goes on by itself, on whichever replica, until it
// is over or needs an operator. It returns as soon as that is in the journal.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, CLIENT_DELETED, CLIENT_DISABLED,
// ROTATION_UNDER_WAY, ROTATION_GAP_NOT_ACCEPTED, ROTATOR_NOT_SET, TOO_MANY_REQUESTS,
// the reasons of StageSecret if a secret is given, or one of the store.
func (b *Broker) RotateSecret(ctx context.Context, q RotationRequest) (*Rotation, error) {
	c, err := b.clientToRotate(ctx, q)
	if err != nil {
		return nil, err
	}
	last, version, err := b.journal(ctx, c)
	if err != nil {
		return nil, err
	}
	if last != nil && q.RequestID != "" && last.RequestID == q.RequestID && last.Automatic {
		return b.repeat(ctx, c, last, version)
	}
	if last != nil && last.active() {
		return nil, b.noneUnderWay(ctx, c)
	}
	r, err := b.begun(ctx, c, last, q)
	if err != nil {
		return nil, err
	}
	if last != nil {
		r.Fence = last.Fence + 1
		r.Failures = last.failuresInARow()
	}
	if err := b.enlist(ctx, c); err != nil {
		return nil, err
	}
	if _, err := b.writeRotation(ctx, r, version); err != nil {
		if ReasonOf(err) == ReasonStoreConflict {
			return nil, newError(ReasonConcurrentChange, c.ID, "somebody else began a rotation")
		}
		return nil, err
	}
	return b.goes(ctx, c, r)
}

// goes has a journal that was just written gone on with.
func (b *Broker) goes(ctx context.Context, c *Client, r *rotationRecord) (*Rotation, error) {
	if err := b.enlist(ctx, c); err != nil { // again: another replica may have seen it before the journal
		b.log.WarnContext(ctx, "other replicas do not look after a rotation", "client", c.ID, "reason", ReasonOf(err))
	}
	b.kick(c)
	return r.Rotation.clone(), nil
}

func (b *Broker) clientToRotate(ctx context.Context, q RotationRequest) (*Client, error) {
	var v violations
	checkRequestID(&v, q.RequestID)
	if !q.Secret.Value.IsZero() {
		checkSecret(&v, "secret", q.Secret.Value)
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	c, err := b.clientToChange(ctx, q.ClientID, "")
	if err != nil {
		return nil, err
	}
	return c, c.usable()
}

// repeat goes on with a rotation that needed an operator.
func (b *Broker) repeat(ctx context.Context, c *Client, r *rotationRecord, version uint64) (*Rotation, error) {
	if r.State != RotationNeedsOperator {
		b.kick(c)
		return r.Rotation.clone(), nil
	}
	r.move(r.Resume, "go on")
	r.Resume, r.Lease = "", nil
	r.Fence++
	if _, err := b.writeRotation(ctx, r, version); err != nil {
		return nil, err
	}
	return b.goes(ctx, c, r)
}

// begun is the journal of a rotation as it begins.
func (b *Broker) begun(ctx context.Context, c *Client, last *rotationRecord, q RotationRequest) (*rotationRecord, error) {
	rotator, traits, err := b.rotator(c)
	pending, isPending := c.Staged(Pending)
	taken := q.Secret.Value.IsZero() && rotator == nil && isPending
	if q.Secret.Value.IsZero() && err != nil && !taken {
		return nil, err
	}
	if err := b.checkGap(c, traits, q); err != nil {
		return nil, err
	}
	r := newRotation(c, b.shapeOf(c), SourceProvider, RotationCreating)
	if traits.TakesChosen {
		r.Source = SourceBroker
	}
	switch {
	case taken:
		r.Source = SourceRequest
		if last != nil && last.SecretVersion == pending.Number {
			r.Source = last.Source
		}
		r.ID = orElse(pending.RotationID, r.ID)
		r.staged(pending, "take what is pending")
	case !q.Secret.Value.IsZero():
		version, err := b.stage(ctx, staging{id: c.ID, requestID: q.RequestID, rotationID: r.ID, input: q.Secret})
		if err != nil {
			return nil, err
		}
		if version.Stage != Pending {
			return nil, newError(ReasonRotationWrongState, c.ID, "version %d, which this request staged, is not pending any more", version.Number)
		}
		r.Source, r.ID = SourceRequest, orElse(version.RotationID, r.ID)
		r.staged(version, "stage")
	default:
		r.note(r.CreateTime, "begin", "")
	}
	r.Automatic, r.Compromised, r.DropTokens, r.RequestID, r.Scheduled = true, q.Compromised, q.DropTokens, q.RequestID, q.scheduled
	return r, nil
}

// checkGap refuses what cannot be without a gap, unless that is accepted.
func (b *Broker) checkGap(c *Client, traits RotatorTraits, q RotationRequest) error {
	ends := traits.Shape == ShapeReplaced || traits.Shape == ShapeActivated
	if q.Secret.Value.IsZero() && ends && c.Rotation.TokensEndWithSecret && !q.AcceptGap {
		return newError(ReasonRotationGapNotAccepted, c.ID, "the provider ends the present secret, and its tokens, before the new one is known to work")
	}
	return nil
}

// AbortRotation gives a rotation up: the current version stays, the pending one is
// revoked and destroyed. Where the provider has ended the present secret already only
// forward leads to one that works: the new one then becomes current, unverified.
// expected, if not empty, is the ID that must be under way. Aborting what is over
// succeeds.
//
// CLIENT_NOT_FOUND, ROTATION_NOT_FOUND, ROTATION_WRONG_STATE after promotion,
// CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) AbortRotation(ctx context.Context, id, expected string) (*Rotation, error) {
	c, err := b.GetClient(ctx, id)
	if err != nil {
		return nil, err
	}
	r, version, err := b.journal(ctx, c)
	switch {
	case err != nil:
		return nil, err
	case r == nil, expected != "" && r.ID != expected:
		return nil, newError(ReasonRotationNotFound, id, "")
	case r.State.Over() || r.State == RotationAborting:
		return r.Rotation.clone(), nil
	}
	from := r.State
	if from == RotationNeedsOperator {
		from = r.Resume
	}
	if from == RotationPromoted || from == RotationRetiring {
		return nil, newError(ReasonRotationWrongState, id, "it is %s: RollbackSecret leads back, RetireSecret ends it", from)
	}
	left := b.leasedBy(r, version, "")
	r.Lease = nil
	r.Fence++
	if r.Replaced || r.Shape == ShapeReplaced && r.Intent == intendCreate && r.Reason != ReasonRotatorOutcomeUnknown {
		r.Forced, r.Automatic = true, true
		if r.State == RotationNeedsOperator {
			r.move(r.Resume, "abort: forward")
		} else {
			r.note(time.Now().UTC(), "abort: forward", "")
		}
	} else {
		r.EndAs = RotationAborted
		r.move(RotationAborting, "abort")
	}
	r.NextTime = time.Now().UTC().Add(left) // whoever is at work may be at the provider now
	if err := b.enlist(ctx, c); err != nil {
		return nil, err
	}
	if _, err := b.writeRotation(ctx, r, version); err != nil {
		if ReasonOf(err) == ReasonStoreConflict {
			return nil, newError(ReasonConcurrentChange, id, "the rotation went on at the same moment")
		}
		return nil, err
	}
	if left > soon {
		return b.goes(ctx, c, r)
	}
	if _, err := b.drive(ctx, id); err != nil {
		b.log.WarnContext(ctx, "rotation is aborted later", "client", id, "reason", ReasonOf(err), "cause", err)
	}
	return b.GetRotation(ctx, id)
}

// AdoptSecret makes pending what somebody wrote over the current version's value by
// hand.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, SECRET_NOT_SET, SECRET_UNCHANGED if the value is the
// one that was staged, the reasons of StageSecret, or one of the store.
func (b *Broker) AdoptSecret(ctx context.Context, id, requestID string) (SecretVersion, error) {
	c, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return SecretVersion{}, err
	}
	if staged, ok := c.stagedBy(requestID); ok {
		return staged, nil
	}
	current, ok := c.Staged(Current)
	if !ok {
		return SecretVersion{}, newError(ReasonSecretNotSet, id, "")
	}
	value, err := b.latestValue(ctx, c, current)
	if err != nil {
		return SecretVersion{}, err
	}
	defer value.Wipe()
	version, err := b.stage(ctx, staging{id: id, requestID: requestID, rotationID: newID(), input: SecretInput{Value: value}})
	if err == nil {
		b.noteRotation(ctx, c, func(r *rotationRecord) { r.Source = SourceAdopted })
	}
	return version, err
}

// GetRotation returns a client's last rotation. CLIENT_NOT_FOUND, ROTATION_NOT_FOUND,
// INVALID_REQUEST, or a reason of the store.
func (b *Broker) GetRotation(ctx context.Context, id string) (*Rotation, error) {
	c, err := b.GetClient(ctx, id)
	if err != nil {
		return nil, err
	}
	return b.rotationOf(ctx, c)
}

func (b *Broker) rotationOf(ctx context.Context, c *Client) (*Rotation, error) {
	r, _, err := b.journal(ctx, c)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, newError(ReasonRotationNotFound, c.ID, "its secret was never rotated")
	}
	return r.Rotation.clone(), nil
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
				found[i] = r
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
			case b.background.Err() != nil:
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
	case <-b.background.Done():
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

// RotationPlan says what a call would do.
type RotationPlan struct {
	// Steps are in words.
	Steps []string
	// Warnings are what to think about first.
	Warnings []Warning
}

// PlanRotation says what RotateSecret would do. Its errors are those of RotateSecret
// that can be known beforehand.
func (b *Broker) PlanRotation(ctx context.Context, q RotationRequest) (RotationPlan, error) {
	c, err := b.clientToRotate(ctx, q)
	if err != nil {
		return RotationPlan{}, err
	}
	if err := b.noneUnderWay(ctx, c); err != nil {
		return RotationPlan{}, err
	}
	rotator, traits, err := b.rotator(c)
	pending, isPending := c.Staged(Pending)
	given := !q.Secret.Value.IsZero()
	if !given && rotator == nil && !isPending {
		return RotationPlan{}, err
	}
	if err := b.checkGap(c, traits, q); err != nil {
		return RotationPlan{}, err
	}
	if err := c.roomFor(Current); err != nil {
		return RotationPlan{}, err
	}
	return b.planOf(c, traits, given, pending, q), nil
}

func (b *Broker) planOf(c *Client, traits RotatorTraits, given bool, pending SecretVersion, q RotationRequest) RotationPlan {
	var plan RotationPlan
	step := func(text string, args ...any) { plan.Steps = append(plan.Steps, fmt.Sprintf(text, args...)) }
	shape := b.shapeOf(c)
	replaces := !given && (shape == ShapeReplaced || shape == ShapeActivated)
	if replaces && !c.Rotation.TokensEndWithSecret {
		step("get tokens with the present secret, for callers to live on")
	}
	switch {
	case given:
		step("stage the given secret as version %d", c.NextVersion)
	case c.Rotation.Rotator == "":
		step("take version %d, which is pending", pending.Number)
	default:
		step("have %s make a new secret and stage it as version %d", c.Rotation.Rotator, c.NextVersion)
	}
	if shape == ShapeKeyPair {
		step("wait %v, until the new key is known", orDefault(c.Rotation.Propagation, traits.Propagation))
	}
	step("verify it with %d tokens in a row", c.verifyTokens())
	step("promote it: from then on tokens are got with it")
	current, ok := c.Staged(Current)
	switch {
	case ok && q.Compromised:
		step("drop all tokens that were got until then, revoke them where the client has a revocation endpoint, and destroy version %d at once", current.Number)
	case ok:
		step("watch it, and roll back where the provider takes both and refuses it; retire version %d after %v or the longest life of a token", current.Number, c.Rotation.overlap())
	}
	if replaces {
		plan.Warnings = append(plan.Warnings, Warning{Reason: ReasonUpstreamSecretLost, Detail: "if the provider's answer is lost the new secret has to be staged by hand"})
	}
	return plan
}

// latestReader is a [Store] that keeps more than the first value under "secrets/".
type latestReader interface {
	ReadLatest(ctx context.Context, key string) (Record, error)
}

// latestValue reads what now lies where version's value was written. SECRET_UNCHANGED if
// it is the value that was staged.
func (b *Broker) latestValue(ctx context.Context, c *Client, version SecretVersion) (secret.Value, error) {
	key := secretKey(c.ID, c.UID, version.Number)
	read := b.store.Read
	if latest, ok := b.store.(latestReader); ok {
		read = latest.ReadLatest
	}
	record, err := read(ctx, key)
	if err != nil {
		return secret.Value{}, fmt.Errorf("read secret value: %w", err)
	}
	var fields struct{ Value string }
	if json.Unmarshal(record.Data.Reveal(), &fields) != nil || fields.Value == "" { // the error would quote the data
		return secret.Value{}, newError(ReasonRecordCorrupt, c.ID, "%s: has no text in the field value", key)
	}
	meta, err := b.meta(ctx)
	if err != nil {
		return secret.Value{}, err
	}
	value := secret.NewString(fields.Value)
	if k, known := meta.fingerprintKeyOf(version.Fingerprint); known && k.fingerprint(c.UID, version.Number, version.bound(), value) == version.Fingerprint {
		return secret.Value{}, newError(ReasonSecretUnchanged, c.ID, "nobody has changed version %d at %s", version.Number, key)
	}
	return value, nil
}
