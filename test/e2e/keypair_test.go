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
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
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

// keyed is a client with private_key_jwt at a real authorization server, which fetches
// its keys from the broker.
type keyed struct {
	*node
	t        *testing.T
	provider *oidcprovider.Server
	uri      string
	web      *http.Client
	// firstID is the id of the key that it is registered with.
	firstID string
}

// keyedName is the client's name.
const keyedName = "clients/app"

// newKeyed registers it. change may change what is registered here.
func newKeyed(t *testing.T, store map[string]any, change func(*pb.Client)) *keyed {
	t.Helper()
	keysAt := harness.UnusedAddress(t)
	s := newSite(t, store)
	k := &keyed{t: t, uri: "https://" + keysAt + "/clients/app/jwks.json"}
	k.provider = oidcprovider.Start(t, oidcprovider.Config{
		Clients: []oidcprovider.Client{{ID: "app", AuthMethod: oidcprovider.PrivateKeyJWT, JWKSURI: k.uri}},
		// The clock will be ahead of the broker's by twice what the server keeps keys for.
		TrustedCAFile: s.write(t, "jwks-ca.pem", s.ca.PEM()), Lifetime: 5 * time.Second, ClockTolerance: 5 * time.Minute,
	})
	ca, err := os.ReadFile(k.provider.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "upstream.pem", append(s.ca.PEM(), ca...))
	s.config["jwks"] = map[string]any{"address": keysAt, "max_age": oldestSet.String()}
	k.node = s.start(t, program(t))
	client := &pb.Client{Name: keyedName, TokenEndpoint: k.provider.TokenEndpoint(), ClientId: "app", AuthenticationMethod: keyJWT}
	if change != nil {
		change(client)
	}
	var key string
	key, k.firstID = madeKey(t)
	if _, err := k.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: keyInput(key)}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.token(t.Context(), keyedName); err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.Certificate())
	k.web = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}}
	return k
}

// wantKeys checks what is published.
func (k *keyed) wantKeys(when string, want ...string) {
	k.t.Helper()
	if got := publishedAt(k.t, k.web, k.uri); !slices.Equal(got, want) {
		k.t.Errorf("%s: published %v, want %v", when, got, want)
	}
}

// asksTwice waits until the authorization server, which has forgotten what it fetched,
// was asked for tokens again.
func (k *keyed) asksTwice() {
	k.t.Helper()
	k.provider.Advance(oldestSet + time.Second)
	before := k.provider.Requests()
	eventually(k.t, 30*time.Second, "tokens after the old key is gone", func() error {
		if k.provider.Requests() < before+2 {
			return errors.New("none was asked for yet")
		}
		return nil
	})
}

// TestKeyPairChangesWithoutAGap has a real authorization server fetch the keys from the
// broker, and changes the key while callers get tokens that live for five seconds.
func TestKeyPairChangesWithoutAGap(t *testing.T) {
	needServers(t)
	t.Parallel()
	k := newKeyed(t, embeddedStore(t.TempDir()), nil)
	nextKey, nextID := madeKey(t)
	k.wantKeys("registered", k.firstID)

	calling := callAllTheTime(t, k.node, keyedName)
	if _, err := k.operator.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: keyedName, Secret: keyInput(nextKey)}); err != nil {
		t.Fatalf("StageSecret: %v", err)
	}
	k.wantKeys("staged", k.firstID, nextID)
	// The server has keys that are less than a minute old, so it does not look again:
	// this is what a rotation waits for.
	_, err := k.operator.rotations.VerifySecret(t.Context(), &pb.VerifySecretRequest{Client: keyedName})
	wantReason(t, "verify before the server has looked again", err, "CLIENT_REJECTED")
	k.provider.Advance(oldestSet + time.Second)
	if _, err := k.operator.rotations.VerifySecret(t.Context(), &pb.VerifySecretRequest{Client: keyedName}); err != nil {
		t.Fatalf("VerifySecret: %v", err)
	}
	if _, err := k.operator.rotations.PromoteSecret(t.Context(), &pb.PromoteSecretRequest{Client: keyedName, SecretVersion: 2}); err != nil {
		t.Fatalf("PromoteSecret: %v", err)
	}
	k.wantKeys("promoted", k.firstID, nextID)
	eventually(t, 30*time.Second, "a token of the new key", func() error {
		token, err := k.token(t.Context(), keyedName)
		if err == nil && token.GetSecretVersion() != 2 {
			return errors.New("it is still of the old one")
		}
		return err
	})
	if _, err := k.operator.rotations.RetireSecret(t.Context(), &pb.RetireSecretRequest{Client: keyedName, SecretVersion: 1}); err != nil {
		t.Fatalf("RetireSecret: %v", err)
	}
	k.wantKeys("retired", nextID)
	k.asksTwice()
	calling()
	k.stop(t)
}

// TestKeyPairRotates has the broker make the next key and do all steps by itself, over
// real Vault, while callers get tokens that live for five seconds.
func TestKeyPairRotates(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	k := newKeyed(t, store.config(store.Addr()), func(client *pb.Client) {
		client.Rotation = &pb.RotationSettings{
			Rotator: "key_pair", Propagation: durationpb.New(10 * time.Second), Overlap: durationpb.New(10 * time.Second),
			VerifyTokens: 2, VerifySpacing: durationpb.New(10 * time.Millisecond),
		}
	})
	calling := callAllTheTime(t, k.node, keyedName)
	ids := []string{k.firstID}
	for version := int64(2); version <= 3; version++ {
		k.begin(t, keyedName, fmt.Sprint("rotation-", version))
		k.reaches(t, keyedName, pb.RotationState_ROTATION_STATE_STAGED)
		ids = append(ids[len(ids)-1:], "")
		published := publishedAt(t, k.web, k.uri)
		if len(published) != 2 || published[0] != ids[0] {
			t.Fatalf("staged: published %v, want %s and the new key", published, ids[0])
		}
		ids[1] = published[1]
		// What the rotation waits for by itself has come: the server looks again.
		k.provider.Advance(oldestSet + time.Second)
		k.reaches(t, keyedName, pb.RotationState_ROTATION_STATE_PROMOTED)
		k.wantKeys("promoted", ids...)
		ended := k.ends(t, keyedName, completed)
		if ended.GetSource() != pb.SecretSource_SECRET_SOURCE_BROKER || ended.GetShape() != pb.ProviderShape_PROVIDER_SHAPE_KEY_PAIR || ended.GetSecretVersion() != version {
			t.Errorf("it brought version %d, %v, from %v; want %d, a key pair, from the broker", ended.GetSecretVersion(), ended.GetShape(), ended.GetSource(), version)
		}
		k.wantKeys("retired", ids[1])
		if err := k.newTokenOf(t.Context(), keyedName, version); err != nil {
			t.Errorf("after: %v", err)
		}
	}
	k.asksTwice()
	calling()
	k.stop(t)
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
