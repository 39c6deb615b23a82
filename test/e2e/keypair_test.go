package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

// oldestSet is how old the keys may be that oidc-provider verifies with: 60 s, or as
// long as it was told if that is longer (its lib/models/client.js).
const oldestSet = time.Minute

// madeKey returns a private key as the key_pair rotator makes them, and its id.
func madeKey(t *testing.T) (text, id string) {
	t.Helper()
	value, err := oauth.KeyPairRotator{}.MakeSecret(broker.RotatorCall{Authentication: broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: "ES256"}})
	if err != nil {
		t.Fatal(err)
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(value.Reveal()); err != nil {
		t.Fatal(err)
	}
	return value.RevealString(), key.KeyID
}

// TestKeyPairChangesWithoutAGap has a real authorization server fetch the keys from the
// broker, and changes the key while callers get tokens that live for two seconds.
func TestKeyPairChangesWithoutAGap(t *testing.T) {
	needServers(t)
	t.Parallel()
	keysAt := unused(t)
	s := newSite(t, embeddedStore(t.TempDir()))
	uri := "https://" + keysAt + "/clients/app/jwks.json"
	provider := oidcprovider.Start(t, oidcprovider.Config{
		Clients: []oidcprovider.Client{{ID: "app", AuthMethod: oidcprovider.PrivateKeyJWT, JWKSURI: uri}},
		// The clock will be ahead of the broker's by twice what the server keeps keys for.
		TrustedCAFile: s.write(t, "jwks-ca.pem", s.ca.PEM()), Lifetime: 2 * time.Second, ClockTolerance: 5 * time.Minute,
	})
	ca, err := os.ReadFile(provider.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "upstream.pem", append(s.ca.PEM(), ca...))
	s.config["jwks"] = map[string]any{"address": keysAt, "max_age": oldestSet.String()}
	n := s.start(t, program(t))
	firstKey, firstID := madeKey(t)
	nextKey, nextID := madeKey(t)
	const name = "clients/app"
	if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{
		Client: &pb.Client{Name: name, TokenEndpoint: provider.TokenEndpoint(), ClientId: "app", AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_JWT},
		Secret: keyInput(firstKey),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.token(t.Context(), name); err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.Certificate())
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}}
	wantKeys := func(when string, want ...string) {
		t.Helper()
		if got := publishedAt(t, web, uri); !slices.Equal(got, want) {
			t.Errorf("%s: published %v, want %v", when, got, want)
		}
	}
	wantKeys("registered", firstID)

	calling := callAllTheTime(t, n, name)
	if _, err := n.operator.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: name, Secret: keyInput(nextKey)}); err != nil {
		t.Fatalf("StageSecret: %v", err)
	}
	wantKeys("staged", firstID, nextID)
	// The server has keys that are less than a minute old, so it does not look again:
	// this is what a rotation waits for.
	_, err = n.operator.rotations.VerifySecret(t.Context(), &pb.VerifySecretRequest{Client: name})
	wantReason(t, "verify before the server has looked again", err, "CLIENT_REJECTED")
	provider.Advance(oldestSet + time.Second)
	if _, err := n.operator.rotations.VerifySecret(t.Context(), &pb.VerifySecretRequest{Client: name}); err != nil {
		t.Fatalf("VerifySecret: %v", err)
	}
	if _, err := n.operator.rotations.PromoteSecret(t.Context(), &pb.PromoteSecretRequest{Client: name, SecretVersion: 2}); err != nil {
		t.Fatalf("PromoteSecret: %v", err)
	}
	wantKeys("promoted", firstID, nextID)
	eventually(t, 30*time.Second, "a token of the new key", func() error {
		token, err := n.token(t.Context(), name)
		if err == nil && token.GetSecretVersion() != 2 {
			return errors.New("it is still of the old one")
		}
		return err
	})
	if _, err := n.operator.rotations.RetireSecret(t.Context(), &pb.RetireSecretRequest{Client: name, SecretVersion: 1}); err != nil {
		t.Fatalf("RetireSecret: %v", err)
	}
	wantKeys("retired", nextID)
	provider.Advance(oldestSet + time.Second)
	before := provider.Requests()
	eventually(t, 30*time.Second, "tokens after the old key is gone", func() error {
		if provider.Requests() < before+2 {
			return errors.New("none was asked for yet")
		}
		return nil
	})
	calling()
	n.stop(t)
}

// publishedAt returns the ids of the keys in a set, which is read as others read it.
func publishedAt(t *testing.T, web *http.Client, uri string) (ids []string) {
	t.Helper()
	answer, err := web.Get(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s, %v", uri, answer.StatusCode, body, err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	for _, key := range set.Keys {
		if !key.IsPublic() {
			t.Error("a private key is published")
		}
		ids = append(ids, key.KeyID)
	}
	return ids
}

// callAllTheTime gets tokens without a pause until the function that it returns is
// called, which fails the test if one call failed.
func callAllTheTime(t *testing.T, n *node, client string) (stop func()) {
	t.Helper()
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(25 * time.Millisecond)
		defer tick.Stop()
		calls, failed := 0, error(nil)
		for {
			select {
			case <-done:
				if calls < 10 {
					failed = fmt.Errorf("only %d calls were made", calls)
				}
				ended <- failed
				return
			case <-tick.C:
				calls++
				if _, err := n.token(context.WithoutCancel(t.Context()), client); err != nil && failed == nil {
					failed = fmt.Errorf("call %d: %w", calls, err)
				}
			}
		}
	}()
	return func() {
		t.Helper()
		close(done)
		if err := <-ended; err != nil {
			t.Errorf("a caller noticed: %v", err)
		}
	}
}
