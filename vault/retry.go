package vault

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// pause spaces the attempts of Run.
type pause struct {
	failures int
	files    []string // those whose change ends it
}

func (p *pause) reset() { p.failures = 0 }

// sleep waits for 1 s, then longer with each failure: at most 30 s where Vault
// refused a login, else 5 s. It ends when a file changes that is logged in with:
// that is what mends most refusals.
func (p *pause) sleep(ctx context.Context, reason broker.Reason, read stamps) {
	most := 5 * time.Second
	if reason == broker.ReasonStoreLoginFailed {
		most = 30 * time.Second
	}
	wait := jitter(min(time.Second<<min(p.failures, 5), most))
	p.failures++
	for end := time.Now().Add(wait); ctx.Err() == nil && time.Now().Before(end); {
		sleep(ctx, min(lookEvery, time.Until(end)))
		if !read.equal(stampsOf(p.files...)) {
			p.failures = 0
			return
		}
	}
}
