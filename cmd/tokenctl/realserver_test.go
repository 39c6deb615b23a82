package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/server"
)

// real is the real server over a store in memory, and somebody who operates it.
type real struct {
	*operator
	memory   *brokertest.Memory
	wrapping *brokertest.Wrapping
	// references has secrets that are owned elsewhere.
	references *brokertest.References
}

// exampleProfile is a directory of one profile, which fills the token endpoint.
type exampleProfile struct{}

// Provider implements broker.Providers.
func (exampleProfile) Provider(name string) (broker.Provider, bool) {
	return broker.Provider{
		Name: "example", Title: "Example Inc.", BuiltIn: true, Sources: []string{"https://docs.example.com"}, Unverified: []string{"nothing was"},
		Variables:  []broker.ProviderVariable{{Name: "tenant", Description: "Whose it is.", Example: "acme"}, {Name: "region", Default: "eu"}},
		GrantTypes: []broker.GrantType{broker.ClientCredentials}, AuthenticationMethods: []broker.AuthenticationMethod{broker.ClientSecretPost},
		Definition: "name: example\n",
	}, name == "example"
}

// Names implements broker.Providers.
func (exampleProfile) Names() []string { return []string{"example"} }

// Complete implements broker.Providers.
func (exampleProfile) Complete(u *broker.Upstream, _ *broker.TokenPolicy, _ *broker.RotationSettings) []broker.FieldViolation {
	tenant := u.ProviderVariables["tenant"]
	if u.Provider != "example" || tenant == "" {
		return []broker.FieldViolation{{Field: `client.provider_variables["tenant"]`, Problem: "is required"}}
	}
	if u.TokenEndpoint == "" {
		u.TokenEndpoint = "https://" + tenant + ".example.com/token"
	}
	if u.Authentication.Method == "" {
		u.Authentication.Method = broker.ClientSecretPost
	}
	return nil
}

func newReal(t *testing.T) *real {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r := &real{operator: newOperator(t), memory: brokertest.NewMemory(), wrapping: brokertest.NewWrapping(), references: brokertest.NewReferences()}
	b, err := broker.New(broker.Config{
		Store: r.memory, RequestToken: brokertest.NewUpstream().RequestToken, Unwrap: r.wrapping.Unwrap, References: r.references,
		Providers: exampleProfile{}, CheckSecret: func(broker.Authentication, secret.Value) error { return nil },
	})
	must(err)
	t.Cleanup(b.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s, err := server.New(server.Config{Broker: b, Plaintext: true, Callers: []server.Caller{{Name: "operator", Identity: server.InsecureIdentity, Role: server.RoleOperator}}})
	must(err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	t.Cleanup(func() { stop(); must(<-served) })
	r.write(".config/tokenctl/config.yaml", "current: test\ncontexts:\n  test: {address: \""+listener.Addr().String()+"\", insecure_plaintext: true}\n")
	return r
}

// file writes a file below the operator's home and returns where it is.
func (r *real) file(name, content string) string {
	r.t.Helper()
	r.write(name, content)
	return filepath.Join(r.home, name)
}

// remove removes what file wrote.
func (r *real) remove(name string) {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.home, name)); err != nil {
		r.t.Fatal(err)
	}
}
