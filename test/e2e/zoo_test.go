package e2e_test

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/zoo"
	"github.com/tokenbroker/tokenbroker/test/zoo/table"
)

// sourcesOnTheWire :: source → as callers see it
var sourcesOnTheWire = map[broker.ExpirySource]pb.ExpirySource{
	broker.ExpiryFromResponse:      pb.ExpirySource_EXPIRY_SOURCE_RESPONSE,
	broker.ExpiryFromJWT:           pb.ExpirySource_EXPIRY_SOURCE_JWT,
	broker.ExpiryAssumed:           pb.ExpirySource_EXPIRY_SOURCE_ASSUMED,
	broker.ExpiryFromProvider:      pb.ExpirySource_EXPIRY_SOURCE_PROVIDER,
	broker.ExpiryFromIntrospection: pb.ExpirySource_EXPIRY_SOURCE_INTROSPECTION,
}

// TestZoo is the table of quirks through the whole server: a user's profiles, clients registered with them, GetToken. The rows that
// need a client of their own kind, or earlier tokens, are left to the zoo's own tests.
func TestZoo(t *testing.T) {
	t.Parallel()
	profiles := map[string]string{}
	for _, quirk := range zoo.Quirks() {
		profiles["zoo-"+quirk.Name] = quirk.Definition("ORIGIN")
	}
	s := newSystem(t, zoo.New(), profiles)
	tried := 0
	for _, r := range table.Rows() {
		quirk, ok := zoo.Find(r.Quirk)
		if !ok || r.Change != nil || r.First > 0 || slices.Contains([]string{"never-answers", "endless"}, r.Quirk) { // those take their time
			continue
		}
		tried++
		t.Run(r.Quirk, func(t *testing.T) {
			client := &pb.Client{Name: "clients/" + r.Quirk, Provider: "zoo-" + r.Quirk, ClientId: zoo.ClientID, DefaultScopes: []string{"read"}, AllowedScopes: []string{"write"}}
			created, err := s.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(cmp.Or(quirk.Secret, zoo.ClientSecret))})
			if err != nil {
				t.Fatalf("CreateClient: %v", err)
			}
			if got := created.GetClient().GetTokenEndpoint(); got != s.origin+"/zoo/"+r.Quirk+"/token" {
				t.Errorf("the profile gave the token endpoint %s", got)
			}
			began := time.Now()
			got, err := s.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: client.GetName(), Scopes: r.Scopes})
			wantReason(t, "GetToken", err, string(r.Want.Reason))
			if err == nil {
				wantToken(t, r.Want, got, time.Since(began))
			}
		})
	}
	if tried < 70 {
		t.Errorf("only %d rows were tried", tried)
	}
	if text := s.log.String(); strings.Contains(text, zoo.ClientSecret) || strings.Contains(text, "zoo-access-") {
		t.Error("a secret or a token is in the server's log")
	}
	s.stop(t)
}

// wantToken holds a token to its row; the call took so long.
func wantToken(t *testing.T, want table.Outcome, got *pb.GetTokenResponse, took time.Duration) {
	t.Helper()
	if want.Source == "" {
		want.Lifetime, want.Source = time.Hour, broker.ExpiryFromResponse
	}
	const rounding = 2 * time.Second
	if lives := got.GetExpireTime().AsTime().Sub(got.GetIssueTime().AsTime()); (lives-want.Lifetime).Abs() > took+rounding || got.GetExpirySource() != sourcesOnTheWire[want.Source] {
		t.Errorf("it lives %v by %v, want %v by %s", lives, got.GetExpirySource(), want.Lifetime, want.Source)
	}
	scopes := want.Scopes
	if scopes == nil {
		scopes = []string{"read"}
	}
	if !slices.Equal(got.GetScopes(), scopes) {
		t.Errorf("its scopes are %q, want %q", got.GetScopes(), scopes)
	}
	for _, warning := range want.Warnings {
		if !hasWarning(got, string(warning)) {
			t.Errorf("the warning %s is missing", warning)
		}
	}
	if len(got.GetWarnings()) != len(want.Warnings) {
		t.Errorf("its warnings are %v, want %v", got.GetWarnings(), want.Warnings)
	}
}
