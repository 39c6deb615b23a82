package broker

import (
	"context"
	"strings"
	"time"
)

const (
	lookForExpiryEvery = time.Hour
	day                = 24 * time.Hour
)

// expiryThresholds are how many days before a secret ends somebody is told, descending.
var expiryThresholds = []int{30, 14, 7, 3, 1}

// toldExpiry is what was told last of the expiry of a client's current secret.
type toldExpiry struct {
	SecretVersion int64     `json:"secret_version"`
	ExpireTime    time.Time `json:"expire_time"`
	// Days is the threshold.
	Days int `json:"days"`
}

// covers reports whether what next would tell was told.
func (t *toldExpiry) covers(next toldExpiry) bool {
	return t != nil && t.SecretVersion == next.SecretVersion && t.ExpireTime.Equal(next.ExpireTime) && t.Days <= next.Days
}

// expiryToTell returns what is to be told of a client at now, and false if nothing is.
// Of thresholds that were passed unseen only the last one counts.
func expiryToTell(c *Client, now time.Time) (toldExpiry, bool) {
	current, ok := c.Staged(Current)
	if !ok || c.State() != StateActive || current.ExpireTime.IsZero() {
		return toldExpiry{}, false
	}
	due := toldExpiry{SecretVersion: current.Number, ExpireTime: current.ExpireTime.UTC()}
	for _, days := range expiryThresholds {
		if current.ExpireTime.Sub(now) <= time.Duration(days)*day {
			due.Days = days
		}
	}
	return due, due.Days > 0
}

// tellExpiries tells of the secrets of clients in memory that have come nearer to their
// expiry than a threshold: of each threshold once in the fleet, as the usage records say.
func (b *Broker) tellExpiries(ctx context.Context, now time.Time) {
	last := b.expiriesTold
	b.expiriesTold = map[string]toldExpiry{}
	for loaded := range b.clients.Values() {
		c := loaded.client
		due, ok := expiryToTell(c, now)
		if !ok {
			continue
		}
		known, ok := last[c.UID]
		if ok && known.covers(due) {
			b.expiriesTold[c.UID] = known
			continue
		}
		if ctx.Err() != nil {
			return
		}
		mine, err := b.claimExpiry(ctx, c, due)
		if err == nil || mine {
			b.expiriesTold[c.UID] = due
		}
		if mine {
			left := due.ExpireTime.Sub(now)
			b.tell(ctx, Event{
				Type: EventSecretExpiresSoon, ClientID: c.ID, SecretVersion: due.SecretVersion,
				ExpireTime: due.ExpireTime, DaysLeft: int(max(left, 0) / day),
			})
		}
	}
}

// claimExpiry reports whether this replica is the one to tell. It notes so before it is
// told: who dies in between leaves the rest to the next threshold. A store that fails is
// asked again at the next look; where the record is damaged, nobody can say what became
// of the write, or the last day has begun, each replica tells: twice is better than never.
func (b *Broker) claimExpiry(ctx context.Context, c *Client, due toldExpiry) (mine bool, err error) {
	err = b.changeUsage(ctx, c.ID, c.UID, func(r *usageRecord) bool {
		if mine = !r.ExpiryTold.covers(due); mine {
			r.ExpiryTold = &due
		}
		return mine
	})
	if err != nil {
		reason := ReasonOf(err)
		mine = due.Days == expiryThresholds[len(expiryThresholds)-1] || reason == ReasonStoreAnswerLost || strings.HasPrefix(string(reason), "RECORD_")
	}
	return mine, err
}
