package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// rotationTries is how often a step fails before a person is called.
	rotationTries = 12
	// rotationBackoff doubles with each failure of a step, up to maxRotationBackoff.
	rotationBackoff    = 2 * time.Second
	maxRotationBackoff = 10 * time.Minute
	// driveTimeout is after what time a replica begins no further step before it has
	// given others the chance to.
	driveTimeout = 10 * time.Minute
	// soon is what a run waits for rather than give the rotation away.
	soon = 2 * time.Second
)

// errLeaseLost is in the errors of a run whose journal somebody else has written.
var errLeaseLost = errors.New("another replica has taken over the rotation")

// rotationRun is this replica's work on one rotation, under its lease.
type rotationRun struct {
	*Broker
	c       *Client
	r       *rotationRecord
	version uint64
	leaseID string
	// sent is when the write of the lease was last begun.
	sent time.Time
	// freed says that the journal was last written without it.
	freed bool
}

// take gets the lease of a client's journal. ROTATION_UNDER_WAY with RetryAfter while
// somebody else has it; nil if nothing is under way.
func (b *Broker) take(ctx context.Context, c *Client) (*rotationRun, error) {
	r, version, err := b.readRotation(ctx, c)
	if err != nil {
		return nil, err
	}
	if r != nil {
		if left := b.leasedBy(r, version, ""); left > 0 {
			e := newError(ReasonRotationUnderWay, c.ID, "a replica is at work on it")
			e.RetryAfter = left
			return nil, e
		}
	}
	over := r != nil && r.State.Over()
	if r, err = b.settled(ctx, c, r); r == nil || err != nil || over && r.State.Over() { // writing it would only disturb who begins another
		return nil, err
	}
	if r.State == RotationVerifying && !r.Automatic { // whoever verified is gone
		r.move(RotationStaged, "verification was left")
	}
	run := &rotationRun{Broker: b, c: c, r: r, version: version, leaseID: newID()}
	b.leases.set(run.leaseID, true)
	r.Fence++
	if err := run.save(ctx); err != nil {
		b.leases.set(run.leaseID, false)
		return nil, err
	}
	return run, nil
}

// takeByHand is take for a step that somebody calls.
func (b *Broker) takeByHand(ctx context.Context, c *Client) (*rotationRun, error) {
	if err := b.noneUnderWay(ctx, c); err != nil {
		return nil, err
	}
	run, err := b.take(ctx, c)
	if err == nil && run == nil {
		return nil, newError(ReasonRotationNotFound, c.ID, "nothing is pending")
	}
	if errors.Is(err, errLeaseLost) {
		return nil, newError(ReasonConcurrentChange, c.ID, "somebody else went on with the rotation")
	}
	return run, err
}

// save writes the journal and extends the lease. An error that wraps errLeaseLost says
// that somebody else has it now.
func (run *rotationRun) save(ctx context.Context) error {
	if run.r.Lease = nil; !run.r.State.Over() { // whoever sees that it is over may begin another one
		run.r.Lease = &lease{Holder: run.replica, ID: run.leaseID, Duration: rotationLease}
	}
	run.sent = time.Now()
	return run.put(ctx)
}

func (run *rotationRun) put(ctx context.Context) error {
	version, err := run.writeRotation(ctx, run.r, run.version)
	if ReasonOf(err) == ReasonStoreConflict {
		return &Error{Reason: ReasonConcurrentChange, Op: "write the journal", Client: run.c.ID, Err: errors.Join(errLeaseLost, err)}
	}
	if err == nil {
		run.version, run.freed = version, run.r.Lease == nil
	}
	return err
}

// release writes the journal a last time, without the lease.
func (run *rotationRun) release(ctx context.Context) {
	defer run.leases.set(run.leaseID, false)
	if run.freed {
		return
	}
	run.r.Lease = nil
	if err := run.put(ctx); err != nil && !errors.Is(err, errLeaseLost) {
		run.log.WarnContext(ctx, "rotation not released; its lease ends by itself", "client", run.c.ID, "reason", ReasonOf(err))
	}
}

// pause waits for d and keeps the lease.
func (run *rotationRun) pause(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); ; {
		wait := min(time.Until(end), rotationLease/3)
		if wait <= 0 {
			return nil
		}
		if !run.wait(ctx, wait) && run.stopping.Err() != nil {
			return newError(ReasonShuttingDown, run.c.ID, "")
		} else if ctx.Err() != nil {
			return &Error{Reason: ReasonDeadlineExceeded, Op: "wait", Client: run.c.ID, Detail: "give the call more time", Err: ctx.Err()}
		}
		if time.Since(run.sent) >= rotationLease/3 {
			if err := run.save(ctx); err != nil {
				return err
			}
		}
	}
}

// becomes moves the rotation and writes that.
func (run *rotationRun) becomes(ctx context.Context, next RotationState, step string) error {
	run.r.move(next, step)
	return run.save(ctx)
}

// outside bounds a call to a provider by half of what is left of the lease: the other
// half is for writing down what came of it.
func (run *rotationRun) outside(ctx context.Context) (context.Context, context.CancelFunc) {
	left := rotationLease - leaseMargin - time.Since(run.sent)
	return context.WithTimeout(ctx, left/2)
}

// drive goes on with a client's rotation until it is over, waits for longer than soon,
// or somebody else has it. It returns when to look again; zero if never.
func (b *Broker) drive(ctx context.Context, id string) (next time.Time, failed error) {
	again := func() time.Time { return time.Now().Add(5*time.Second + rand.N(5*time.Second)) }
	c, err := b.GetClient(ctx, id)
	if ReasonOf(err) == ReasonClientNotFound {
		return time.Time{}, nil
	}
	if err != nil {
		return again(), err
	}
	r, _, err := b.journal(ctx, c)
	if err != nil {
		return again(), err
	}
	if r == nil || !r.goesOn() {
		b.noteEnd(ctx, c)
		return time.Time{}, nil
	}
	if err := b.lookAfter(ctx, c, r); err != nil {
		b.log.WarnContext(ctx, "other replicas do not look after a rotation", "client", id, "reason", ReasonOf(err))
	}
	if wait := time.Until(r.NextTime); wait > soon {
		return r.lookAgain(), nil
	}
	defer func() {
		if failed != nil {
			b.tellStuck(ctx, r)
		}
	}()
	run, err := b.take(ctx, c)
	if err != nil || run == nil {
		if retry := AsError(err).RetryAfter; err != nil && retry > 0 {
			return time.Now().Add(min(retry, activeEvery)), nil // its holder may be dead
		}
		return again(), err
	}
	err = run.goOn(ctx)
	if !errors.Is(err, errLeaseLost) {
		run.release(ctx)
	}
	b.leases.set(run.leaseID, false)
	switch {
	case err != nil:
		return again(), err
	case !run.r.goesOn():
		return time.Time{}, nil
	case run.r.NextTime.IsZero():
		return again(), nil
	default:
		return run.r.lookAgain(), nil
	}
}

// noteEnd writes down that a rotation has ended which only the client record tells yet.
func (b *Broker) noteEnd(ctx context.Context, c *Client) {
	if r, _, err := b.readRotation(ctx, c); err == nil && r != nil && r.goesOn() {
		b.noteRotation(ctx, c, nil, nil)
	}
}

// lookAfter puts a rotation on the list that it should be on, which somebody may have
// removed, and frees its account when it is promoted.
func (b *Broker) lookAfter(ctx context.Context, c *Client, r *rotationRecord) error {
	if err := b.enlist(ctx, c, r.ID, true); err != nil {
		return err
	}
	if c.Rotation.Account != "" && r.State.promoted() {
		return b.freeAccount(ctx, c)
	}
	return nil
}

// lookAgain is when to look at r again: at NextTime, or before, since on another replica
// somebody may have changed what is next.
func (r *rotationRecord) lookAgain() time.Time {
	most := time.Minute
	if r.State == RotationPromoted {
		most = 10 * time.Minute // a rollback ends it
	}
	if latest := time.Now().Add(most); r.NextTime.After(latest) {
		return latest
	}
	return r.NextTime
}

// goesOn reports whether the broker has something to do for r now or later.
func (r *rotationRecord) goesOn() bool {
	return r.active() || r.State == RotationAborting || r.State == RotationRetiring
}

// goOn makes steps while they are due.
func (run *rotationRun) goOn(ctx context.Context) error {
	for begun := time.Now(); run.r.goesOn() && time.Since(begun) < driveTimeout && run.stopping.Err() == nil; {
		if wait := time.Until(run.r.NextTime); wait > soon {
			return nil
		} else if wait > 0 && !run.wait(ctx, wait) {
			return ctx.Err()
		}
		if time.Since(run.sent) > rotationLease/3 {
			if err := run.save(ctx); err != nil {
				return err
			}
		}
		c, err := run.GetClient(ctx, run.c.ID)
		if err != nil {
			return err
		}
		run.c = c
		before := run.r.State
		if run.r.follow(c); run.r.State != before {
			if err := run.save(ctx); err != nil {
				return err
			}
			continue
		}
		if err := run.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step does what the state asks for. Its errors are those of the store and of a lost
// lease; what fails outside is in the journal.
func (run *rotationRun) step(ctx context.Context) error {
	if err := run.c.usable(); err != nil && run.r.State.before() {
		run.retry("wait for the client", err, time.Minute)
		return run.save(ctx)
	}
	if run.r.Forced && run.r.State.before() && run.r.SecretVersion != 0 {
		return run.activateAndPromote(ctx)
	}
	switch run.r.State {
	case RotationCreating:
		return run.create(ctx)
	case RotationStaged:
		return run.prepare(ctx)
	case RotationVerifying:
		return run.verify(ctx)
	case RotationVerified:
		return run.activateAndPromote(ctx)
	case RotationPromoted:
		return run.beginRetiring(ctx)
	case RotationRetiring:
		return run.retireReplaced(ctx)
	case RotationAborting:
		return run.abort(ctx)
	default:
		return nil
	}
}

// retry notes a failure of a step and when it is tried again, or calls a person after
// too many.
func (run *rotationRun) retry(step string, err error, least time.Duration) {
	if ReasonOf(err) == ReasonShuttingDown { // says nothing of the step
		return
	}
	if run.r.Attempts+1 >= rotationTries {
		run.callOperator(step, err)
		return
	}
	run.r.fail(step, err)
	wait := min(rotationBackoff<<min(run.r.Attempts-1, 10), maxRotationBackoff)
	wait = max(wait/2+rand.N(wait/2+1), AsError(err).RetryAfter, least)
	run.r.NextTime = time.Now().UTC().Add(wait)
}

// callOperator stops the rotation until a person has acted.
func (run *rotationRun) callOperator(step string, err error) {
	run.r.needOperator(step, err)
}
