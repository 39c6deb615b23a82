package broker

import (
	"context"
	"fmt"
	"time"
)

const (
	// unnamedFor is how long a value that no record names is left alone: its writer may
	// be about to commit.
	unnamedFor = 24 * time.Hour
	// leftFor is how long a retirement is left to whoever began it.
	leftFor = time.Hour
)

// endRetirements destroys the versions whose retirement has begun and was left.
func (b *Broker) endRetirements(ctx context.Context, c *Client, r *rotationRecord) error {
	for _, v := range c.Secrets {
		if !v.Destroying {
			continue
		}
		what := fmt.Sprintf("retire %s-%d", c.UID, v.Number)
		if since := b.sinces.since(what); time.Since(since) < leftFor && time.Since(c.UpdateTime) < leftFor {
			continue
		}
		if r != nil && r.goesOn() && (v.Number == r.ReplacedVersion || v.Number == r.SecretVersion) {
			continue // it does that by itself
		}
		if err := b.RetireSecret(ctx, c.ID, v.Number); err != nil {
			return err
		}
		b.sinces.forget(what)
		b.log.InfoContext(ctx, "a retirement that was left is ended", "client", c.ID, "secret_version", v.Number)
	}
	return nil
}

// unnamedValue is a secret value that no record names.
type unnamedValue struct {
	key    string
	uid    string
	number int64
}

// sweepValues destroys the values below a client's name that nothing names and nobody
// is about to name. The record is written before: from then on no revision that was
// based on an earlier one can be committed, so none can name them, whether it is this
// client's or that of a client which was, or is to be, created under the same name.
func (b *Broker) sweepValues(ctx context.Context, c *Client, r *rotationRecord, thorough bool) error {
	if !thorough || r != nil && !r.State.Over() && (r.Made != nil || r.active()) {
		return nil // a rotation under way may know of values that the record does not name yet
	}
	unnamed, err := b.unnamedValues(ctx, c)
	if err != nil || len(unnamed) == 0 {
		return err
	}
	fenced := c.clone()
	for _, v := range unnamed {
		if v.uid == c.UID {
			fenced.NextVersion = max(fenced.NextVersion, v.number+1)
		}
	}
	if _, err := b.commit(ctx, fenced); err != nil {
		return err
	}
	for _, v := range unnamed {
		if err := b.store.Destroy(ctx, v.key); err != nil {
			return fmt.Errorf("destroy a value that nothing names: %w", err)
		}
		b.sinces.forget(v.key)
		b.destroyed.since(v.key)
		b.valuesSwept.Add(1)
		b.log.WarnContext(ctx, "secret value destroyed that no record named", "client", c.ID, "uid", v.uid, "secret_version", v.number)
	}
	return nil
}

// unnamedValues finds the values that may be destroyed once c's record was written.
func (b *Broker) unnamedValues(ctx context.Context, c *Client) ([]unnamedValue, error) {
	folder := "secrets/" + c.ID + "/"
	names, err := b.store.List(ctx, folder)
	if err != nil {
		return nil, fmt.Errorf("list secret values: %w", err)
	}
	var unnamed []unnamedValue
	for _, name := range names {
		uid, number, ok := valueName(name)
		if _, named := c.Secret(number); !ok || named && uid == c.UID {
			continue
		}
		v := unnamedValue{key: folder + name, uid: uid, number: number}
		if b.destroyed.has(v.key) {
			continue
		}
		old, err := b.longUnnamed(ctx, v)
		if err != nil {
			return nil, err
		}
		if old {
			unnamed = append(unnamed, v)
		}
		if !sleep(ctx, crawlPause) {
			return nil, ctx.Err()
		}
	}
	return unnamed, nil
}

// longUnnamed reports whether a value is there and has been for so long that it is
// destroyed. What cannot be read is none of ours.
func (b *Broker) longUnnamed(ctx context.Context, v unnamedValue) (bool, error) {
	record, err := b.read(ctx, v.key)
	if absent, ok := absence(err); ok {
		if absent.How == AbsentDestroyed { // nothing can be written there any more
			b.destroyed.since(v.key)
		}
		return false, nil
	}
	if err != nil {
		if outage(err) || ReasonOf(err) == ReasonStoreSealed || ctx.Err() != nil {
			return false, err
		}
		return false, nil
	}
	var r secretRecord
	if decode(v.key, record, &r, "number", "value") != nil || r.UID != v.uid || r.Number != v.number {
		return false, nil
	}
	since := r.CreateTime
	if since.IsZero() { // of an earlier release
		since = b.sinces.since(v.key)
	}
	return time.Since(since) > unnamedFor, nil
}
