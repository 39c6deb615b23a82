package broker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// StageSecret stores a secret as the pending version and begins a rotation that waits
// for the next step. Value first, record second, as in CreateClient. requestID, if not
// empty, makes a repetition return the version that the first one staged.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, CLIENT_DELETED, ROTATION_UNDER_WAY,
// SECRET_UNCHANGED, SECRET_UNUSABLE, TOO_MANY_SECRET_VERSIONS, CONCURRENT_CHANGE, a
// WRAPPING_ or REFERENCE_ reason, or one of the store.
func (b *Broker) StageSecret(ctx context.Context, id string, input SecretInput, requestID string) (SecretVersion, error) {
	version, err := b.stage(ctx, staging{id: id, requestID: requestID, rotationID: newID(), input: input})
	if err == nil && version.Stage == Pending {
		b.noteStaged(ctx, id, input.source())
	}
	return version, err
}

// noteStaged writes the journal of what was staged by hand.
func (b *Broker) noteStaged(ctx context.Context, id string, source SecretSource) {
	c, err := b.GetClient(ctx, id)
	switch {
	case err != nil:
	case source == SourceRequest:
		b.noteRotation(ctx, c, nil)
	default:
		b.noteRotation(ctx, c, func(r *rotationRecord) { r.Source = source })
	}
}

// staging is a secret that is to become pending.
type staging struct {
	id, requestID, rotationID string
	input                     SecretInput
	// handle is what the provider calls it; endpoint, if not empty, the client's
	// registration_client_uri from now on.
	handle, endpoint string
	// made says that the broker's own rotation brings it.
	made bool
}

func (b *Broker) stage(ctx context.Context, s staging) (SecretVersion, error) {
	var v violations
	checkInput(&v, "secret", s.input)
	checkRequestID(&v, s.requestID)
	if err := v.err(); err != nil {
		return SecretVersion{}, err
	}
	read := b.clientToChange
	if s.made { // it may be all that the provider takes, and who is deleted can be undeleted
		read = func(ctx context.Context, id, _ string) (*Client, error) { return b.GetClient(ctx, id) }
	}
	present, err := read(ctx, s.id, "")
	if err != nil {
		return SecretVersion{}, err
	}
	if staged, ok := present.stagedBy(s.requestID); ok {
		return staged, nil
	}
	if !s.made {
		if err := b.noneUnderWay(ctx, present); err != nil {
			return SecretVersion{}, err
		}
	}
	c := present.clone()
	if err := c.roomFor(Pending); err != nil {
		return SecretVersion{}, err
	}
	input, err := b.resolve(ctx, s.id, s.input) // last of what can refuse: it uses a wrapping token up
	if err != nil {
		return SecretVersion{}, err
	}
	if s.input.Value.IsZero() {
		defer input.Value.Wipe()
	}
	if err := b.checkChanged(ctx, c, input.Value); err != nil {
		return SecretVersion{}, err
	}
	if s.endpoint != "" {
		c.Rotation.Endpoint = s.endpoint
	}
	version, err := b.writeSecret(ctx, c, input)
	if err != nil {
		return SecretVersion{}, err
	}
	version.RequestID, version.RotationID, version.Handle = s.requestID, s.rotationID, s.handle
	return b.commitStaged(ctx, c, version)
}

// checkChanged refuses the secret that is current. An unreadable one is a reason to
// stage another, not to refuse it.
func (b *Broker) checkChanged(ctx context.Context, c *Client, value secret.Value) error {
	current, ok := c.Staged(Current)
	if !ok {
		return nil
	}
	present, err := b.readSecret(ctx, c, current)
	defer present.Wipe()
	if err == nil && sameSecret(present, value) {
		return newError(ReasonSecretUnchanged, c.ID, "version %d holds it", current.Number)
	}
	return nil
}

// commitStaged makes a version whose value is written the pending one.
func (b *Broker) commitStaged(ctx context.Context, c *Client, version SecretVersion) (SecretVersion, error) {
	c.addVersion(version)
	c.relabel(version.Number, Pending)
	c, err := b.commit(ctx, c)
	if err != nil {
		return SecretVersion{}, err
	}
	staged, _ := c.Secret(version.Number)
	return staged, nil
}

// noneUnderWay refuses while a rotation goes on by itself.
func (b *Broker) noneUnderWay(ctx context.Context, c *Client) error {
	r, _, err := b.journal(ctx, c)
	if err != nil || r == nil || !r.goesOn() {
		return err
	}
	b.takeUp(c, r)
	if r.State == RotationPromoted {
		return newError(ReasonRotationUnderWay, c.ID, "version %d is retired at %s by itself, or now by RetireSecret", r.ReplacedVersion, r.RetireTime.Format(time.RFC3339))
	}
	return newError(ReasonRotationUnderWay, c.ID, "it is %s", r.State)
}

// takeUp goes on with a rotation that this replica does not know of: somebody may have
// removed the list that names it.
func (b *Broker) takeUp(c *Client, r *rotationRecord) {
	if r.goesOn() && !b.rotations.takenUp(c.ID) {
		b.kick(c)
	}
}

// journal reads a client's journal and settles it with the client record; nil if it
// was never rotated.
func (b *Broker) journal(ctx context.Context, c *Client) (*rotationRecord, uint64, error) {
	r, version, err := b.readRotation(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	if r == nil {
		return b.settleRotation(c, nil), version, nil
	}
	settled := *r
	settled.Rotation = *r.Rotation.clone()
	told := b.settleRotation(c, &settled)
	if told.ID == r.ID && told.State == r.State {
		return told, version, nil
	}
	if c, err = b.readClient(ctx, c.ID); err != nil { // it was read before the journal was, which may be further
		return nil, 0, err
	}
	return b.settleRotation(c, r), version, nil
}

// noteRotation lets edit change the journal after a step by hand, and writes it. What
// it says can be told from the client record: failing stops nobody.
func (b *Broker) noteRotation(ctx context.Context, c *Client, edit func(*rotationRecord)) {
	const tries = 4
	var err error
	for range tries {
		var r *rotationRecord
		var version uint64
		if r, version, err = b.readRotation(ctx, c); err != nil {
			break
		}
		var before Rotation
		if r != nil {
			before = r.Rotation
		}
		r = b.settleRotation(c, r)
		if r == nil || edit == nil && r.ID == before.ID && r.State == before.State && r.SecretVersion == before.SecretVersion {
			return
		}
		if edit != nil {
			edit(r)
		}
		r.Lease = nil
		r.Fence++
		if _, err = b.writeRotation(ctx, r, version); err == nil {
			b.takeUp(c, r)
		}
		if ReasonOf(err) != ReasonStoreConflict || !sleep(ctx, pollBegin) {
			break
		}
	}
	if err != nil {
		b.log.WarnContext(ctx, "rotation not noted; the client record tells", "client", c.ID, "reason", ReasonOf(err))
	}
}

func (c *Client) stagedBy(requestID string) (SecretVersion, bool) {
	i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return requestID != "" && v.RequestID == requestID })
	if i < 0 {
		return SecretVersion{}, false
	}
	return c.Secrets[i], true
}

// VerifySecret gets tokens with the pending secret, asking for the client's defaults,
// as many in a row as its rotation settings say, and notes the success in the record.
// number 0 means whichever is pending. A rotation that goes on by itself and needed an
// operator goes on when this succeeds.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, SECRET_WRONG_STAGE, ROTATION_UNDER_WAY,
// CONCURRENT_CHANGE, ISSUANCE_BUDGET_SPENT, a reason of the store or of the
// authorization server.
func (b *Broker) VerifySecret(ctx context.Context, id string, number int64) (SecretVersion, []Warning, error) {
	c, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return SecretVersion{}, nil, err
	}
	pending, err := c.pending(number)
	if err != nil {
		return SecretVersion{}, nil, err
	}
	run, err := b.takeByHand(ctx, c)
	if err != nil {
		return SecretVersion{}, nil, err
	}
	verified, warnings, err := run.verifyByHand(ctx, pending)
	run.release(ctx)
	if err == nil && run.r.goesOn() {
		_, err = b.goes(ctx, c, run.r)
	}
	return verified, warnings, err
}

func (run *rotationRun) verifyByHand(ctx context.Context, pending SecretVersion) (SecretVersion, []Warning, error) {
	state, resume := run.r.State, run.r.Resume
	if err := run.becomes(ctx, RotationVerifying, "verify"); err != nil {
		return SecretVersion{}, nil, err
	}
	fail := func(err error) (SecretVersion, []Warning, error) {
		run.r.fail("verify", err)
		reason, detail := run.r.Reason, run.r.Detail
		next := RotationStaged
		if state == RotationNeedsOperator {
			next = state
		}
		run.r.move(next, "verify")
		run.r.Reason, run.r.Detail = reason, detail
		if next == RotationNeedsOperator {
			run.r.Resume = resume
		}
		return SecretVersion{}, nil, fmt.Errorf("verify secret version %d: %w", pending.Number, err)
	}
	var warnings []Warning
	for run.r.Verified = 0; run.r.Verified < run.r.Required; {
		token, err := run.verifyOnce(ctx, pending)
		if err != nil {
			return fail(err)
		}
		warnings = token.warnings
		if run.r.Verified == run.r.Required {
			break
		}
		if err := run.pause(ctx, run.c.Rotation.verifySpacing()); err != nil {
			return fail(err)
		}
	}
	verified, err := run.noteVerified(ctx, run.c, pending)
	if err != nil {
		return fail(err)
	}
	run.r.move(RotationVerified, "verify")
	return verified, warnings, nil
}

// noteVerified puts into the client record that the pending version works.
func (b *Broker) noteVerified(ctx context.Context, c *Client, pending SecretVersion) (SecretVersion, error) {
	if err := b.unpark(ctx, c); err != nil { // whoever has a good secret is at work on what was rejected
		b.log.WarnContext(ctx, "client stays parked", "client", c.ID, "reason", ReasonOf(err))
	}
	c, err := b.change(ctx, c.ID, c.Etag(), func(c *Client) (bool, error) {
		i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return v.Number == pending.Number })
		c.Secrets[i].VerifyTime = time.Now().UTC()
		return true, nil
	})
	if ReasonOf(err) == ReasonEtagMismatch { // the caller named no etag: say what it can act on
		err = newError(ReasonConcurrentChange, "", "while the secret was verified")
	}
	if err != nil {
		return SecretVersion{}, err
	}
	verified, _ := c.Secret(pending.Number)
	return verified, nil
}

// pending returns the pending version, which must be number unless that is 0.
func (c *Client) pending(number int64) (SecretVersion, error) {
	version, ok := c.Staged(Pending)
	switch {
	case number < 0 || number >= c.NextVersion:
		return version, newError(ReasonSecretVersionNotFound, c.ID, "there is no version %d", number)
	case !ok:
		return version, newError(ReasonSecretWrongStage, c.ID, "no version is pending; stage one first")
	case number != 0 && version.Number != number:
		return version, newError(ReasonSecretWrongStage, c.ID, "version %d is not pending; version %d is", number, version.Number)
	}
	return version, nil
}

// Promotion says how PromoteSecret promotes.
type Promotion struct {
	ClientID string
	// Number of the version that must be pending; 0 means whichever is.
	Number int64
	// AllowUnverified promotes although VerifySecret has not succeeded.
	AllowUnverified bool
	// DropTokens raises the floor, so that tokens of older secrets are not served.
	DropTokens bool
}

// PromoteSecret moves pending to current and current to previous in one
// check-and-set write. Promoting what is current already succeeds.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, SECRET_WRONG_STAGE, SECRET_VERSION_NOT_FOUND,
// SECRET_NOT_VERIFIED, ROTATION_UNDER_WAY, ROTATION_WRONG_STATE,
// DESTINATION_NOT_BOUND, TOO_MANY_SECRET_VERSIONS, CONCURRENT_CHANGE, or a reason of
// the store.
func (b *Broker) PromoteSecret(ctx context.Context, p Promotion) (*Client, error) {
	present, err := b.clientToChange(ctx, p.ClientID, "")
	if err != nil {
		return nil, err
	}
	if current, ok := present.Staged(Current); ok && p.Number == current.Number {
		if !p.DropTokens || present.MinSecretVersion >= current.Number {
			return present, nil
		}
		c := present.clone()
		c.MinSecretVersion = current.Number
		return b.commit(ctx, c)
	}
	pending, err := b.promotable(ctx, present, p)
	if err != nil {
		return nil, err
	}
	c, err := b.promote(ctx, present, pending, p.DropTokens)
	if err != nil {
		return nil, err
	}
	b.noteRotation(ctx, c, func(r *rotationRecord) { r.DropTokens = r.DropTokens || p.DropTokens })
	return c, nil
}

// promotable returns the pending version if nothing stands against its promotion.
func (b *Broker) promotable(ctx context.Context, c *Client, p Promotion) (SecretVersion, error) {
	pending, err := c.pending(p.Number)
	if err != nil {
		return SecretVersion{}, err
	}
	if pending.VerifyTime.IsZero() && !p.AllowUnverified {
		return SecretVersion{}, newError(ReasonSecretNotVerified, p.ClientID, "version %d", pending.Number)
	}
	r, version, err := b.journal(ctx, c)
	switch {
	case err != nil:
		return SecretVersion{}, err
	case r != nil && r.goesOn():
		return SecretVersion{}, newError(ReasonRotationUnderWay, p.ClientID, "it is %s and goes on by itself", r.State)
	case r != nil && r.State == RotationVerifying && b.leasedBy(r, version, "") > 0:
		return SecretVersion{}, newError(ReasonRotationWrongState, p.ClientID, "version %d is being verified", pending.Number)
	}
	return pending, checkBound(c, pending)
}

// promote makes the pending version current in one write.
func (b *Broker) promote(ctx context.Context, present *Client, pending SecretVersion, dropTokens bool) (*Client, error) {
	if err := checkBound(present, pending); err != nil {
		return nil, err
	}
	c := present.clone()
	if err := c.roomFor(Current); err != nil {
		return nil, err
	}
	c.promote(pending.Number, time.Now().UTC())
	if dropTokens {
		c.MinSecretVersion = pending.Number
	}
	return b.commit(ctx, c)
}
