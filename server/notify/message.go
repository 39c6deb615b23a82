package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// The headers of a request.
const (
	// SignatureHeader is "t=<unix time>,v1=<hex of HMAC-SHA-256 over time, dot, body>".
	SignatureHeader = "Tokenbroker-Signature"
	// EventIDHeader is the event's id, which is also in the body.
	EventIDHeader = "Tokenbroker-Event-Id"
)

// message is the body of a request; docs/notify.md describes it. Fields are added and
// never change what they mean.
type message struct {
	ID            string           `json:"id"`
	Type          broker.EventType `json:"type"`
	Time          time.Time        `json:"time"`
	Client        string           `json:"client,omitempty"`
	Rotation      string           `json:"rotation,omitempty"`
	State         string           `json:"state,omitempty"`
	Reason        broker.Reason    `json:"reason,omitempty"`
	Remedy        string           `json:"remedy,omitempty"`
	SecretVersion int64            `json:"secret_version,omitempty"`
	ExpireTime    *time.Time       `json:"expire_time,omitempty"`
	DaysLeft      *int             `json:"days_left,omitempty"`
}

// encode returns the body that tells of e.
func encode(e broker.Event) ([]byte, error) {
	m := message{
		ID: e.ID, Type: e.Type, Time: e.Time.UTC(), Rotation: e.Rotation, State: e.State,
		Reason: e.Reason, Remedy: e.Remedy, SecretVersion: e.SecretVersion,
	}
	if e.ClientID != "" {
		m.Client = "clients/" + e.ClientID
	}
	if !e.ExpireTime.IsZero() {
		at := e.ExpireTime.UTC()
		m.ExpireTime, m.DaysLeft = &at, &e.DaysLeft
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return body, nil
}

// sign returns the value of [SignatureHeader]. The time is in what is signed, so that
// whoever recorded a request cannot send it again later.
func sign(key secret.Value, now time.Time, body []byte) string {
	at := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, key.Reveal())
	mac.Write([]byte(at + "."))
	mac.Write(body)
	return "t=" + at + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
