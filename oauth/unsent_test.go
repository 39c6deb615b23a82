package oauth_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// TestUnsentGrants: whether a code or a refresh token may be used up is told by whether a
// byte of it was written.
func TestUnsentGrants(t *testing.T) {
	s := secret.NewString
	client, server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		panic(http.ErrAbortHandler)
	})
	_, closed := serve(t, answer(200, ""))
	closed.Close()
	refresh := broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: s("r")}
	tests := []struct {
		name   string
		change func(*broker.TokenRequest)
		reason broker.Reason
		unsent bool
	}{
		{"the answer is lost", func(r *broker.TokenRequest) { r.Grant = refresh }, broker.ReasonUpstreamConnect, false},
		{"nobody listens", func(r *broker.TokenRequest) { *r = tokenRequest(closed); r.Grant = refresh }, broker.ReasonUpstreamConnect, true},
		{"nobody listens, code", func(r *broker.TokenRequest) {
			*r = tokenRequest(closed)
			r.Grant = broker.GrantParameters{Type: broker.AuthorizationCode, Code: s("c")}
		}, broker.ReasonUpstreamConnect, true},
		{"nobody listens, device code", func(r *broker.TokenRequest) {
			*r = tokenRequest(closed)
			r.Grant = broker.GrantParameters{Type: broker.DeviceCode, DeviceCode: s("d")}
		}, broker.ReasonUpstreamConnect, true},
		{"no such profile", func(r *broker.TokenRequest) { r.Grant, r.Provider = refresh, "nobody" }, broker.ReasonProviderUnknown, true},
		{"not bound", func(r *broker.TokenRequest) { r.Grant, r.Destinations = refresh, nil }, broker.ReasonDestinationNotBound, true},
		{"no secret", func(r *broker.TokenRequest) { r.Grant, r.Secret = refresh, secret.Value{} }, broker.ReasonSecretUnusable, true},
		{"nothing is used up", func(r *broker.TokenRequest) { *r = tokenRequest(closed) }, broker.ReasonUpstreamConnect, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := tokenRequest(server)
			tt.change(&req)
			_, err := client.RequestToken(t.Context(), req)
			wantReason(t, err, tt.reason, "")
			var unsent *broker.UnsentError
			if got := errors.As(err, &unsent); got != tt.unsent {
				t.Errorf("unsent: %t, want %t (%v)", got, tt.unsent, err)
			}
		})
	}
}
