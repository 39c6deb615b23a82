package broker

import (
	"context"
	"fmt"
)

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
	given := q.Secret.given()
	if !given && rotator == nil && !isPending {
		return RotationPlan{}, err
	}
	if err := b.checkGap(c, traits, q); err != nil {
		return RotationPlan{}, err
	}
	if err := c.roomFor(Current); err != nil {
		return RotationPlan{}, err
	}
	if err := b.checkGiven(ctx, c, q.Secret); err != nil {
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
		step("wait %v until the new key is known", orDefault(c.Rotation.Propagation, traits.Propagation))
	}
	step("verify it with %d tokens in a row", c.verifyTokens())
	step("promote it: from then on tokens are got with it")
	current, ok := c.Staged(Current)
	switch {
	case ok && q.Compromised:
		step("drop all tokens that were got until then, revoke them where the client has a revocation endpoint, and destroy version %d at once", current.Number)
	case ok:
		step("watch it, and roll back where the provider takes both and refuses it")
		step("retire version %d %v later, or when its last token has ended if that is later still", current.Number, c.Rotation.overlap())
	}
	if replaces {
		plan.Warnings = append(plan.Warnings, Warning{Reason: ReasonUpstreamSecretLost, Detail: "if the provider's answer is lost the new secret has to be staged by hand"})
	}
	return plan
}
