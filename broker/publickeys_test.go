package broker_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// publicKey stands in for the adapter's: {"d":"x-1","kid":"1"} has the public half
// {"kid":"1"}.
func publicKey(value secret.Value) (string, error) {
	var key map[string]string
	if err := json.Unmarshal(value.Reveal(), &key); err != nil {
		return "", &broker.Error{Reason: broker.ReasonSecretUnusable}
	}
	return `{"kid":"` + key["kid"] + `"}`, nil
}

func privateKey(id string) string { return `{"d":"private-` + id + `","kid":"` + id + `"}` }

// withKeys opens a Broker that knows public keys, or one that does not.
func withKeys(t *testing.T, memory *brokertest.Memory, upstream *brokertest.Upstream, knows bool) *fixture {
	t.Helper()
	return open(t, memory, brokertest.NewFaulty(memory), upstream, func(cfg *broker.Config) {
		if knows {
			cfg.PublicKey = publicKey
		}
	})
}

func asKeyPair(n *broker.NewClient) {
	n.Upstream.Authentication = broker.Authentication{Method: broker.PrivateKeyJWT}
	n.Secret = input(privateKey("1"))
}

// ids returns the key ids that are published.
func (f *fixture) ids(t *testing.T, id string) []string {
	t.Helper()
	set, err := f.PublicKeys(t.Context(), id)
	if err != nil {
		t.Fatalf("PublicKeys(%q): %v", id, err)
	}
	var list []string
	for _, key := range set.Keys {
		var members map[string]string
		if err := json.Unmarshal(key, &members); err != nil {
			t.Fatal(err)
		}
		if members["d"] != "" {
			t.Error("a private key is published")
		}
		list = append(list, members["kid"])
	}
	return list
}

// TestPublicKeysThroughARotation has the new key from when it is staged and the old one
// until it is retired.
func TestPublicKeysThroughARotation(t *testing.T) {
	f := withKeys(t, brokertest.NewMemory(), brokertest.NewUpstream(), true)
	f.create(t, "acme", asKeyPair)
	want := func(step string, want ...string) {
		t.Helper()
		if got := f.ids(t, "acme"); !slices.Equal(got, want) {
			t.Errorf("%s: published %q, want %q", step, got, want)
		}
	}
	want("registered", "1")
	f.stage(t, "acme", privateKey("2"))
	want("staged", "1", "2")
	f.promote(t, "acme")
	want("promoted", "1", "2")
	f.stage(t, "acme", privateKey("3"))
	want("staged another", "1", "2", "3")
	f.stage(t, "acme", privateKey("4"))
	want("staged in place of it", "1", "2", "4")
	f.promote(t, "acme")
	want("promoted again", "2", "4")
	if err := f.RetireSecret(t.Context(), "acme", 2); err != nil {
		t.Fatal(err)
	}
	want("retired", "4")
}

// TestPublicKeysNeedNoSecret are published while no secret can be read.
func TestPublicKeysNeedNoSecret(t *testing.T) {
	f := withKeys(t, brokertest.NewMemory(), brokertest.NewUpstream(), true)
	f.create(t, "acme", asKeyPair)
	for _, key := range keysUnder(f.memory, "secrets/") {
		if err := f.memory.Destroy(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.ids(t, "acme"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("published %q", got)
	}
}

// TestPublicKeysOfOldRecords are those of records without the field: values are read
// once, and what can never be read is left out.
func TestPublicKeysOfOldRecords(t *testing.T) {
	memory, upstream := brokertest.NewMemory(), brokertest.NewUpstream()
	old := withKeys(t, memory, upstream, false)
	old.create(t, "acme", asKeyPair)
	old.stage(t, "acme", privateKey("2"))
	if strings.Contains(recordOf(t, memory, keyUnder(t, memory, "clients/")), "public_key") {
		t.Fatal("the old record has the field")
	}
	f := withKeys(t, memory, upstream, true)
	if got := f.ids(t, "acme"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("published %q, want both", got)
	}
	secrets := keysUnder(memory, "secrets/")
	for _, key := range secrets {
		if err := memory.Destroy(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.ids(t, "acme"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("published %q, want what was read before", got)
	}
	_, err := withKeys(t, memory, upstream, true).PublicKeys(t.Context(), "acme")
	wantReason(t, "all values gone", err, broker.ReasonSecretNotSet)
}

// TestPublicKeysAreWholeOrNone publishes no set that lacks a key only because the store
// is away: an authorization server would forget that key.
func TestPublicKeysAreWholeOrNone(t *testing.T) {
	memory, upstream := brokertest.NewMemory(), brokertest.NewUpstream()
	withKeys(t, memory, upstream, false).create(t, "acme", asKeyPair)
	f := withKeys(t, memory, upstream, true)
	f.get(t, "acme")
	f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.On(brokertest.OpRead, "secrets/"))
	_, err := f.PublicKeys(t.Context(), "acme")
	wantReason(t, "store away", err, broker.ReasonStoreUnreachable)
}

func TestPublicKeysOfNobody(t *testing.T) {
	f := withKeys(t, brokertest.NewMemory(), brokertest.NewUpstream(), true)
	f.create(t, "plain")
	f.create(t, "stopped", asKeyPair)
	if _, err := f.SetDisabled(t.Context(), "stopped", true); err != nil {
		t.Fatal(err)
	}
	f.create(t, "gone", asKeyPair)
	if _, err := f.DeleteClient(t.Context(), "gone", ""); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]broker.Reason{
		"plain": broker.ReasonSecretNotSet, "stopped": broker.ReasonClientDisabled, "gone": broker.ReasonClientDeleted,
		"nobody": broker.ReasonClientNotFound, "../x": broker.ReasonInvalidRequest,
	} {
		_, err := f.PublicKeys(t.Context(), id)
		wantReason(t, id, err, want)
	}
}

// TestPublicKeyIDIsTheAssertions is the client's key_id where it has one.
func TestPublicKeyIDIsTheAssertions(t *testing.T) {
	f := withKeys(t, brokertest.NewMemory(), brokertest.NewUpstream(), true)
	f.create(t, "acme", asKeyPair, func(n *broker.NewClient) { n.Upstream.Authentication.KeyID = `a"b` })
	if got := f.ids(t, "acme"); !slices.Equal(got, []string{`a"b`}) {
		t.Errorf("published %q", got)
	}
}

// TestUnusableKeyIsNotStaged writes nothing where the public half cannot be had.
func TestUnusableKeyIsNotStaged(t *testing.T) {
	f := withKeys(t, brokertest.NewMemory(), brokertest.NewUpstream(), true)
	f.create(t, "acme", asKeyPair)
	before := content(t, f.memory)
	_, err := f.StageSecret(t.Context(), "acme", input("{damaged"), "")
	wantReason(t, "stage", err, broker.ReasonSecretUnusable)
	if content(t, f.memory) != before {
		t.Error("something was written")
	}
	var e *broker.Error
	if errors.As(err, &e) && strings.Contains(e.Error(), "damaged") {
		t.Error("the error quotes the secret")
	}
}
