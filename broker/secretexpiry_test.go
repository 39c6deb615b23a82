package broker_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// TestSecretsSayThemselvesWhenTheyEnd, as certificates do, unless somebody declares
// another end.
func TestSecretsSayThemselvesWhenTheyEnd(t *testing.T) {
	said := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
	declared := said.Add(-time.Hour)
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.SecretExpiry = func(a broker.Authentication, s secret.Value) (time.Time, bool) {
			return said.In(time.FixedZone("elsewhere", 3600)), a.Method == broker.ClientSecretBasic && s.RevealString() == "says"
		}
	})
	tests := []struct {
		name, secret string
		declared     time.Time
		want         time.Time
	}{
		{"says", "says", time.Time{}, said},
		{"says-and-declared", "says", declared, declared},
		{"silent", "silent", time.Time{}, time.Time{}},
		{"declared", "silent", declared, declared},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := f.create(t, tt.name, func(n *broker.NewClient) {
				n.Secret = input(tt.secret)
				n.Secret.ExpireTime = tt.declared
			})
			current, _ := c.Staged(broker.Current)
			if !current.ExpireTime.Equal(tt.want) || !current.ExpireTime.IsZero() && current.ExpireTime.Location() != time.UTC {
				t.Errorf("ExpireTime = %v, want %v in UTC", current.ExpireTime, tt.want)
			}
		})
	}
}
