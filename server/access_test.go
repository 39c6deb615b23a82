package server_test

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server"
)

// TestAccess calls every method that the server registers as every kind of peer.
// What each demands is written down here once more, method by method only where it
// is not the rule.
func TestAccess(t *testing.T) {
	w, a, operator := overSockets(t)
	w.register(t, operator, "acme")
	w.stage(t, operator, "acme", "secret-2 of acme")
	peers := []struct {
		name        string
		certificate *tls.Certificate
		role        server.Role // "" is nobody
	}{
		{"operator", a.caller(t, operatorIdentity), server.RoleOperator},
		{"caller", a.caller(t, callerIdentity), server.RoleCaller},
		{"no certificate", nil, ""},
		{"unknown name", a.caller(t, "spiffe://example.org/stranger"), ""},
		{"no name", a.issue(t, names{}), ""},
		{"both", a.issue(t, names{uris: []string{operatorIdentity, callerIdentity}}), ""},
	}
	for _, as := range peers {
		p := w.connectTLS(t, a, as.certificate)
		for _, m := range registered(t, w.server) {
			t.Run(as.name+m.full, func(t *testing.T) {
				_, err := p.invoke(t.Context(), m, sample(t, m))
				want := codes.OK
				switch {
				case strings.HasPrefix(m.full, "/grpc.health."):
				case strings.HasSuffix(m.full, "/WhoAmI") && (as.role != "" || as.name == "unknown name"): // is told its own names
				case as.role == "":
					want = codes.Unauthenticated
				case as.role == server.RoleCaller && m.ours() && !forCallers(m):
					want = codes.PermissionDenied
				}
				switch got := problemOf(err).code; {
				case want == codes.Unauthenticated:
					requireProblem(t, err, want, broker.ReasonCallerUnauthenticated)
				case want == codes.PermissionDenied:
					requireProblem(t, err, want, broker.ReasonCallerNotAllowed)
				case got == codes.Unauthenticated || got == codes.PermissionDenied:
					t.Errorf("got %v, want admission", err)
				}
			})
		}
	}
}

// TestAccessTableIsWhatTheServerRegisters finds rows of methods that are gone and
// methods without a row.
func TestAccessTableIsWhatTheServerRegisters(t *testing.T) {
	w := newWorld(t, setup{})
	rows := server.AccessRows()
	slices.Sort(rows)
	var methods []string
	for _, m := range registered(t, w.server) {
		methods = append(methods, m.full)
	}
	if !slices.Equal(rows, methods) {
		t.Errorf("rows of the access table:\ngot  %q\nwant %q", rows, methods)
	}
}

// TestAMissingRowRefuses takes each row away in turn: not even an operator may
// call a method that nobody has thought about.
func TestAMissingRowRefuses(t *testing.T) {
	w := newWorld(t, setup{})
	for _, m := range registered(t, w.server) {
		t.Run(m.full, func(t *testing.T) {
			server.WithoutAccessRow(m.full, func() {
				_, err := w.invoke(t.Context(), m, sample(t, m))
				requireProblem(t, err, codes.PermissionDenied, broker.ReasonCallerNotAllowed)
			})
		})
	}
}

func TestPlaintextRoles(t *testing.T) {
	for role, want := range map[server.Role]codes.Code{server.RoleOperator: codes.NotFound, server.RoleCaller: codes.PermissionDenied} {
		t.Run(string(role), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{role: role})
				for _, m := range registered(t, w.server) {
					if strings.HasSuffix(m.full, "/GetClient") {
						_, err := w.invoke(t.Context(), m, sample(t, m))
						if got := problemOf(err).code; got != want {
							t.Errorf("got %v, want %v", got, want)
						}
					}
				}
			})
		})
	}
}

// forCallers reports whether the role of callers has the method.
func forCallers(m method) bool {
	return strings.HasSuffix(m.full, "/GetToken") || strings.HasSuffix(m.full, "/WatchToken")
}

// TestARefusalTellsNothing compares what a caller learns of a client that exists
// and of one that does not: permission comes before existence.
func TestARefusalTellsNothing(t *testing.T) {
	w, a, operator := overSockets(t)
	w.register(t, operator, "acme")
	for _, identity := range []string{callerIdentity, "spiffe://example.org/stranger"} {
		p := w.connectTLS(t, a, a.caller(t, identity))
		for _, m := range registered(t, w.server) {
			if !m.ours() || identity == callerIdentity && forCallers(m) {
				continue
			}
			t.Run(identity+m.full, func(t *testing.T) {
				_, err := p.invoke(t.Context(), m, sample(t, m))
				first := problemOf(err)
				_, err = p.invoke(t.Context(), m, m.input.New().Interface())
				second := problemOf(err)
				delete(first.metadata, "request_id")
				delete(second.metadata, "request_id")
				if first.code != second.code || first.message != second.message || len(first.metadata) != len(second.metadata) || first.details != second.details {
					t.Errorf("got %+v for a client that exists and %+v for an empty request, want the same", first, second)
				}
			})
		}
	}
}
