package callback

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// perAddress and addressBurst bound the requests of one address, inAll and allBurst
	// those of all together.
	perAddress, addressBurst = rate.Limit(2), 20
	inAll, allBurst          = rate.Limit(50), 100
	// mostAddresses bounds what is remembered. Who is forgotten begins with a full burst
	// again, within that of all.
	mostAddresses = 10_000
)

// limits bounds how often the callback is called. Safe for concurrent use.
type limits struct {
	all *rate.Limiter

	mu sync.Mutex // guards addresses
	// addresses :: network → its limiter
	addresses map[netip.Prefix]*rate.Limiter
}

func newLimits() *limits {
	return &limits{all: rate.NewLimiter(inAll, allBurst), addresses: map[netip.Prefix]*rate.Limiter{}}
}

// allow reports whether a request from remote may pass. Of IPv6 a subscriber has a /64.
// Loopback counts among all only: a proxy stands there, which counts by itself.
func (l *limits) allow(remote string, now time.Time) bool {
	address, err := netip.ParseAddrPort(remote)
	if err == nil && !address.Addr().Unmap().IsLoopback() && !l.of(address.Addr().Unmap()).AllowN(now, 1) {
		return false
	}
	return l.all.AllowN(now, 1)
}

func (l *limits) of(address netip.Addr) *rate.Limiter {
	bits := 64
	if address.Is4() {
		bits = 32
	}
	network, _ := address.WithZone("").Prefix(bits) // bits are within both kinds
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.addresses[network]
	if limiter == nil {
		if len(l.addresses) >= mostAddresses {
			clear(l.addresses)
		}
		limiter = rate.NewLimiter(perAddress, addressBurst)
		l.addresses[network] = limiter
	}
	return limiter
}
