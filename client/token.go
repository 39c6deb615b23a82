package client

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const placeholder = "[secret]"

// Secret is a text that no printing, logging or encoding shows. The zero Secret is
// empty. It may be copied and is safe for concurrent use.
//
// The text sits behind a function because fmt does not call methods of values in
// unexported fields of other structs; of a function it can print only the address.
type Secret struct {
	reveal func() string
}

func newSecret(text string) Secret { return Secret{func() string { return text }} }

// Reveal returns the text itself: for the one place that sends it, not for logs.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// String returns a placeholder.
func (s Secret) String() string { return placeholder }

// GoString returns a placeholder.
func (s Secret) GoString() string { return placeholder }

// Format writes a placeholder, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, placeholder) }

// LogValue returns a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(placeholder) }

// MarshalText returns a placeholder, for every text encoder.
func (s Secret) MarshalText() ([]byte, error) { return []byte(placeholder), nil }

// Token is an access token and what the broker knows about it. Tokens are shared and
// must not be changed.
type Token struct {
	// Access is the access token (RFC 6749 §1.4).
	Access Secret
	// Type is how to present it: "Bearer" (RFC 6750), or "DPoP" (RFC 9449) with a proof.
	Type string
	// IssueTime, ExpireTime and RefreshAfter are read from the broker's clock, which
	// need not agree with this machine's: compare them with each other only. A Source
	// does so and keeps to them.
	IssueTime    time.Time
	ExpireTime   time.Time
	RefreshAfter time.Time
	// Scopes are those that were granted, sorted.
	Scopes []string
	// ID tells tokens apart in logs: the first 16 hex digits of the SHA-256 of Access.
	ID string
	// SecretVersion is the number of the secret version that the token was got with.
	SecretVersion int64
	// Warnings are what to know although there is a token.
	Warnings []Warning
	// left is how long it lives from when the broker answered; nil if a broker of an
	// older release did not say when that was.
	left *time.Duration
}

// Warning is something that did not prevent an answer.
type Warning struct {
	Reason Reason
	// Message is one sentence for people.
	Message string
}

// lifetime is how long the token lives from its issue on.
func (t *Token) lifetime() time.Duration { return t.ExpireTime.Sub(t.IssueTime) }

// bound reports whether a proof must go with the token.
func (t *Token) bound() bool { return t.Type == "DPoP" }

func (t *Token) warned(of Reason) bool {
	for _, w := range t.Warnings {
		if w.Reason == of {
			return true
		}
	}
	return false
}

// tokenOf refuses what no broker sends: served on, it would be an empty header.
func tokenOf(r *pb.GetTokenResponse) (*Token, error) {
	if r.GetAccessToken() == "" || r.GetTokenId() == "" || r.GetExpireTime() == nil || r.GetIssueTime() == nil {
		return nil, &Error{Code: codes.Internal, Message: "the answer lacks a token, its id or its times"}
	}
	t := &Token{
		Access: newSecret(r.GetAccessToken()), Type: r.GetTokenType(),
		IssueTime: r.GetIssueTime().AsTime(), ExpireTime: r.GetExpireTime().AsTime(),
		Scopes: r.GetScopes(), ID: r.GetTokenId(), SecretVersion: r.GetSecretVersion(),
	}
	t.RefreshAfter = t.ExpireTime
	if r.GetRefreshAfter() != nil {
		t.RefreshAfter = r.GetRefreshAfter().AsTime()
	}
	if answered := r.GetServerTime(); answered.IsValid() {
		left := t.ExpireTime.Sub(answered.AsTime())
		t.left = &left
	}
	for _, w := range r.GetWarnings() {
		t.Warnings = append(t.Warnings, Warning{Reason(w.GetReason()), w.GetMessage()})
	}
	return t, nil
}
