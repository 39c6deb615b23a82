package zoo_test

import (
	"cmp"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
	"github.com/tokenbroker/tokenbroker/test/zoo"
)

// world is a broker with one client, at one quirk of a zoo of its own.
type world struct {
	zoo    *zoo.Zoo
	server *zoo.Server
	quirk  zoo.Quirk
	broker *broker.Broker
}

// clientID is the client's name at the broker.
const clientID = "visitor"

// newWorld makes the broker with the quirk's profile as the only one beside the built-in ones, and registers the client: with that
// profile, or by the standards alone. change may alter its settings.
func newWorld(t *testing.T, quirk zoo.Quirk, byProfile bool, change func(*broker.NewClient)) *world {
	t.Helper()
	w := &world{zoo: zoo.New(), quirk: quirk}
	var err error
	if w.server, err = zoo.Serve("127.0.0.1:0", false, w.zoo); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.server.Close() })
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "zoo-"+quirk.Name+".yaml"), []byte(quirk.Definition(w.server.Origin)), 0o600); err != nil {
		t.Fatal(err)
	}
	profiles, err := profile.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	timeout := 6 * time.Second // the machine may be loaded
	if quirk.Name == "never-answers" {
		timeout = 2 * time.Second
	}
	upstream := oauth.New(oauth.Config{RootCAs: pool(t, w.server.CA), AllowHTTPLoopback: true, Timeout: timeout, Profiles: profiles})
	t.Cleanup(upstream.Close)
	store, err := embedded.Open(embedded.Config{File: filepath.Join(t.TempDir(), "store.db"), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if w.broker, err = broker.New(broker.Config{
		Store: store, RequestToken: upstream.RequestToken, RevokeToken: upstream.RevokeToken, CheckSecret: oauth.CheckSecret, CheckEndpoint: upstream.CheckEndpoint,
		PublicKey: oauth.PublicKey, Providers: profiles, AuthorizationServer: upstream, CallbackURL: callback,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.broker.Close)
	client := broker.NewClient{
		ID: clientID, Secret: broker.SecretInput{Value: secret.NewString(cmp.Or(quirk.Secret, zoo.ClientSecret))},
		Upstream: broker.Upstream{ClientID: zoo.ClientID, Provider: "zoo-" + quirk.Name, DefaultScopes: []string{"read"}, AllowedScopes: []string{"write"}},
	}
	if !byProfile {
		client.Upstream.Provider = ""
		client.Upstream.TokenEndpoint = w.endpoint("token")
		client.Upstream.Authentication.Method = broker.ClientSecretBasic
	}
	if change != nil {
		change(&client)
	}
	if _, err := w.broker.CreateClient(t.Context(), client); err != nil {
		t.Fatalf("CreateClient: %v", err)
	}
	return w
}

func (w *world) endpoint(name string) string {
	return w.server.Origin + "/zoo/" + w.quirk.Name + "/" + name
}

// opens reports whether the quirk's API takes the token.
func (w *world) opens(t *testing.T, token *broker.Token) bool {
	t.Helper()
	v := visitor{t, w.zoo, w.quirk.Name}
	return v.works(token.Access.RevealString())
}
