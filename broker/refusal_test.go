package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestARefusalIsExplained: the authorization server says invalid_client for each cause;
// what the broker knows tells them apart, and never quotes the secret.
func TestARefusalIsExplained(t *testing.T) {
	tests := []struct {
		name   string
		edit   func(*broker.NewClient)
		secret broker.SecretInput
		want   string
	}{
		{"wrong", nil, input("next-secret"), "wrong secret"},
		{"expired", nil, broker.SecretInput{Value: input("next-secret").Value, ExpireTime: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)}, "expired"},
		{"not live", func(n *broker.NewClient) { n.Rotation.Propagation = time.Minute }, input("next-secret"), "not live yet"},
		{"encoded", nil, input("next%secret+"), "CLIENT_SECRET_BASIC_RAW"},
		{"not encoded", func(n *broker.NewClient) { n.Upstream.Authentication.Method = broker.ClientSecretBasicRaw }, input("next%secret+"), "which is CLIENT_SECRET_BASIC"},
		{"in the form", func(n *broker.NewClient) { n.Upstream.Authentication.Method = broker.ClientSecretPost }, input("next%secret+"), "client_secret_post"},
		{"key", func(n *broker.NewClient) {
			n.Upstream.Authentication.Method = broker.PrivateKeyJWT
			n.Secret = input(`{"kty":"1"}`)
		}, input(`{"kty":"2"}`), "key_id"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				edit := func(n *broker.NewClient) {
					if test.edit != nil {
						test.edit(n)
					}
				}
				f.create(t, "acme", edit)
				if _, err := f.StageSecret(t.Context(), "acme", test.secret, ""); err != nil {
					t.Fatalf("StageSecret: %v", err)
				}
				_, _, err := f.VerifySecret(t.Context(), "acme", 0)
				wantReason(t, "VerifySecret", err, broker.ReasonClientRejected)
				if detail := broker.AsError(err).Detail; !strings.Contains(detail, test.want) || strings.Contains(detail, "next") {
					t.Errorf("detail %q, want it to say %q and to quote nothing", detail, test.want)
				}
				r, err := f.GetRotation(t.Context(), "acme")
				if err != nil || !strings.Contains(r.Detail, test.want) {
					t.Errorf("the rotation says %q, %v", r.Detail, err)
				}
			})
		})
	}
}
