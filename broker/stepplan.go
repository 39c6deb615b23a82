package broker

import (
	"context"
	"fmt"
)

// PlanStage says what StageSecret would do. A wrapping token is not unwrapped, so what
// is wrong with its content is not known. Its errors are those of StageSecret.
func (b *Broker) PlanStage(ctx context.Context, id string, input SecretInput, requestID string) (RotationPlan, error) {
	var v violations
	checkInput(&v, "secret", input)
	checkRequestID(&v, requestID)
	if err := v.err(); err != nil {
		return RotationPlan{}, err
	}
	c, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return RotationPlan{}, err
	}
	if staged, ok := c.stagedBy(requestID); ok {
		return planned("nothing: version %d was staged by this request", staged.Number), nil
	}
	if err := b.noneUnderWay(ctx, c); err != nil {
		return RotationPlan{}, err
	}
	if err := c.roomFor(Pending); err != nil {
		return RotationPlan{}, err
	}
	if err := b.checkGiven(ctx, c, input); err != nil {
		return RotationPlan{}, err
	}
	plan := planned("store the secret as version %d, pending", c.NextVersion)
	if pending, ok := c.Staged(Pending); ok {
		plan.Steps = append(plan.Steps, fmt.Sprintf("take the label from version %d, which is pending now", pending.Number))
	}
	return plan, nil
}

// checkGiven refuses a secret in a request that could not be staged.
func (b *Broker) checkGiven(ctx context.Context, c *Client, input SecretInput) error {
	if input.Value.IsZero() {
		return nil
	}
	if err := b.checkSecret(c.Upstream.secretUse(), input.Value); err != nil {
		return err
	}
	return b.checkChanged(ctx, c, input.Value)
}

// PlanPromotion says what PromoteSecret would do. Its errors are those of PromoteSecret.
func (b *Broker) PlanPromotion(ctx context.Context, p Promotion) (RotationPlan, error) {
	c, err := b.clientToChange(ctx, p.ClientID, "")
	if err != nil {
		return RotationPlan{}, err
	}
	current, has := c.Staged(Current)
	if has && p.Number == current.Number {
		return planned("nothing: version %d is current", current.Number), nil
	}
	pending, _, err := b.promotable(ctx, c, p)
	if err != nil {
		return RotationPlan{}, err
	}
	if err := c.roomFor(Current); err != nil {
		return RotationPlan{}, err
	}
	plan := planned("make version %d current: tokens are got with it from then on", pending.Number)
	if has {
		plan.Steps = append(plan.Steps, fmt.Sprintf("keep version %d as previous, to fall back to", current.Number))
	}
	if p.DropTokens {
		plan.Steps = append(plan.Steps, "stop serving tokens of older secrets; callers get new ones at their next call")
	}
	if pending.VerifyTime.IsZero() {
		plan.Warnings = append(plan.Warnings, Warning{Reason: ReasonSecretNotVerified, Detail: fmt.Sprintf("version %d", pending.Number)})
	}
	return plan, nil
}

// PlanRollback says what RollbackSecret would do. Its errors are those of
// RollbackSecret.
func (b *Broker) PlanRollback(ctx context.Context, id string, number int64) (RotationPlan, error) {
	c, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return RotationPlan{}, err
	}
	current, has := c.Staged(Current)
	if has && number != 0 && number == current.Number {
		return planned("nothing: version %d is current", current.Number), nil
	}
	previous, err := c.previous(number)
	if err != nil {
		return RotationPlan{}, err
	}
	if err := b.notEnded(ctx, c, previous); err != nil {
		return RotationPlan{}, err
	}
	plan := planned("make version %d current again", previous.Number)
	if has {
		plan.Steps = append(plan.Steps, fmt.Sprintf("take the label from version %d; its value is kept until it is retired", current.Number))
	}
	return plan, nil
}

// PlanRetirement says what RetireSecret would do. Its errors are those of RetireSecret
// that can be known beforehand.
func (b *Broker) PlanRetirement(ctx context.Context, id string, number int64) (RotationPlan, error) {
	c, err := b.GetClient(ctx, id)
	if err != nil {
		return RotationPlan{}, err
	}
	version, ok := c.Secret(number)
	switch {
	case number < 1 || number >= c.NextVersion:
		return RotationPlan{}, newError(ReasonSecretVersionNotFound, id, "there is no version %d", number)
	case ok && version.Stage == Current:
		return RotationPlan{}, newError(ReasonSecretWrongStage, id, "version %d is current; promote another one first", number)
	case !ok:
		return planned("nothing: version %d is retired", number), nil
	}
	var plan RotationPlan
	if _, _, err := b.rotator(c); err == nil && version.Handle != "" {
		plan.Steps = append(plan.Steps, "have the provider refuse it")
	}
	plan.Steps = append(plan.Steps, fmt.Sprintf("destroy the value of version %d for good", number))
	if version.Stage == Previous {
		plan.Steps = append(plan.Steps, "it is the previous one: nothing is left to roll back to afterwards")
	}
	return plan, nil
}

func planned(step string, args ...any) RotationPlan {
	return RotationPlan{Steps: []string{fmt.Sprintf(step, args...)}}
}
