package telemetry

import (
	"fmt"
	"math"
	"math/rand/v2"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

// sampler decides which traces are recorded. A trace that began here goes by chance;
// one that a caller began goes by the caller's own decision, so that its traces are
// whole; and both only while the budget lasts, so that no caller can make the broker
// record without bound. The ids decide nothing: a caller chooses them.
type sampler struct {
	ratio  float64
	budget *rate.Limiter
}

func newSampler(ratio, perSecond float64) *sampler {
	return &sampler{ratio: ratio, budget: rate.NewLimiter(rate.Limit(perSecond), int(math.Ceil(perSecond)))}
}

// ShouldSample implements sdktrace.Sampler.
func (s *sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	var sampled bool
	switch {
	case parent.IsValid() && !parent.IsRemote(): // within a trace: as its beginning was decided
		sampled = parent.IsSampled()
	case parent.IsValid():
		sampled = parent.IsSampled() && s.budget.Allow()
	default:
		sampled = rand.Float64() < s.ratio && s.budget.Allow()
	}
	if !sampled {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
}

// Description implements sdktrace.Sampler.
func (s *sampler) Description() string {
	return fmt.Sprintf("ratio %v or the caller's decision, at most %v a second", s.ratio, s.budget.Limit())
}
