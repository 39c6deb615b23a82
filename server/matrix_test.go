package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// demanded is which permissions each method's sample needs, written down once more
// from docs/access.md: all of them, for the client that it names.
var demanded = map[string][]string{
	"GetToken": {"token.get"}, "WatchToken": {"token.watch"}, "RevokeTokens": {"token.revoke"}, "ResetUpstream": {"client.write"}, "CreateClient": {"client.write", "secret.stage"}, "GetClient": {"client.read"}, "ListClients": {"client.read"},
	"UpdateClient": {"client.write"}, "DeleteClient": {"client.delete"}, "UndeleteClient": {"client.delete"}, "PurgeClient": {"client.delete", "secret.retire"},
	"DisableClient": {"client.write"}, "EnableClient": {"client.write"},
	"ImportClients": {"client.write"}, "ListProviders": {"client.read"}, "GetProvider": {"client.read"},
	"StageSecret": {"secret.stage"}, "VerifySecret": {"secret.verify"}, "PromoteSecret": {"secret.promote"}, "RetireSecret": {"secret.retire"},
	"RollbackSecret": {"secret.rollback"}, "RotateSecret": {"secret.promote", "secret.stage", "secret.verify", "secret.retire"},
	"AbortRotation": {"secret.rollback"}, "AdoptSecret": {"secret.stage"},
	"GetRotation": {"client.read"}, "ListRotations": {"client.read"}, "WatchRotation": {"client.read"},
	"ListSecretVersions": {"client.read"}, "CheckLookup": {"lookup.check"}, "StreamCheck": {"lookup.check"}, "SweepLookups": {"lookup.check"}, "ExplainError": {"lookup.check"},
	"StartAuthorization": {"authorization.start"}, "CompleteAuthorization": {"authorization.complete"}, "ImportAuthorization": {"authorization.import"},
	"GetAuthorization": {"authorization.read"}, "ListAuthorizations": {"authorization.read"},
	"RevokeAuthorization": {"authorization.revoke"}, "DeleteSubject": {"authorization.revoke"},
}

// cell is one table of the matrix and what it means, worked out without package access.
type cell struct {
	callers     string // the row's, as YAML
	permissions []string
	subjects    string // the row's, as YAML; "" for none
	clients     string // the row's, as YAML
	// grants says whether the row is for a caller, and whether its pattern matches the
	// client: by name, or by the label that the client has.
	grantsCaller   func(name string) bool
	matchesName    func(id string) bool
	matchesLabelOf func(id string) bool
}

func (c cell) text() string {
	return fmt.Sprintf("callers:\n  - {name: a, identities: [\"jwt:%s#a\"]}\n  - {name: b, identities: [\"jwt:%s#b\"]}\nrules:\n  - {%s, permissions: [%s], %s%s}\n...\n",
		issuerName, issuerName, c.callers, strings.Join(c.permissions, ", "), c.clients, c.subjects)
}

// allows is the oracle: what is not granted is denied.
func (c cell) allows(caller, method, id string) bool {
	if caller != "a" && caller != "b" {
		return false
	}
	needed, ours := demanded[method]
	if !ours {
		return true // reflection and WhoAmI: whoever is listed
	}
	for _, permission := range needed {
		if !c.grantsCaller(caller) || !slices.Contains(c.permissions, permission) {
			return false
		}
		switch {
		case namesSubject[method] && c.subjects == "":
			return false
		case method == "DeleteSubject":
			return c.clients == `clients: ["*"]`
		case slices.Contains([]string{"ListClients", "ListRotations", "ImportClients", "ListProviders", "GetProvider", "SweepLookups", "ExplainError"}, method): // any client at all
		case c.matchesName(id):
		case method != "CreateClient" && c.matchesLabelOf(id):
		default:
			return false
		}
	}
	return true
}

// namesSubject are the methods whose samples name a subject by themselves.
var namesSubject = map[string]bool{"StartAuthorization": true, "ImportAuthorization": true, "GetAuthorization": true, "RevokeAuthorization": true, "DeleteSubject": true}

// ofSubjects reports whether a row with these permissions may have subjects.
func ofSubjects(permissions []string) bool {
	return slices.ContainsFunc(permissions, func(p string) bool {
		return p == "token.get" || p == "token.watch" || strings.HasPrefix(p, "authorization.")
	})
}

// cells are rows of every permission alone, of all but one, and of the roles' sets, for
// every kind of caller and client that a row can have.
func cells() []cell {
	always, never := func(string) bool { return true }, func(string) bool { return false }
	is := func(want string) func(string) bool { return func(got string) bool { return got == want } }
	isNot := func(want string) func(string) bool { return func(got string) bool { return got != want } }
	var all []string
	for _, p := range access.Permissions() {
		all = append(all, p.String())
	}
	sets := [][]string{all}
	for i, p := range all {
		sets = append(sets, []string{p}, slices.Concat(all[:i], all[i+1:]))
	}
	var list []cell
	for _, permissions := range sets {
		for _, who := range []cell{
			{callers: "callers: [a]", grantsCaller: is("a")},
			{callers: `callers: ["*"]`, grantsCaller: always},
			{callers: "callers: [a, b]", grantsCaller: always},
		} {
			for _, what := range []cell{
				{clients: "clients: [acme]", matchesName: is("acme"), matchesLabelOf: never},
				{clients: `clients: ["prefix:ac"]`, matchesName: func(id string) bool { return strings.HasPrefix(id, "ac") }, matchesLabelOf: never},
				{clients: `clients: ["*"]`, matchesName: always, matchesLabelOf: never},
				{clients: `clients: ["*"], except: {clients: [acme]}`, matchesName: isNot("acme"), matchesLabelOf: never},
				{clients: `clients: ["label:team=crm"]`, matchesName: never, matchesLabelOf: is("acme")},
				{clients: `clients: ["label:team=erp"]`, matchesName: never, matchesLabelOf: never},
			} {
				c := cell{who.callers, permissions, "", what.clients, who.grantsCaller, what.matchesName, what.matchesLabelOf}
				list = append(list, c)
				if ofSubjects(permissions) {
					c.subjects = `, subjects: ["` + sampleSubject + `"]`
					list = append(list, c)
				}
			}
		}
	}
	return list
}

// named returns m's sample with the client of that id in the place of acme.
func named(t *testing.T, m method, id string) proto.Message {
	t.Helper()
	request := sample(t, m)
	message := request.ProtoReflect()
	if client := message.Descriptor().Fields().ByName("client"); client != nil && client.Message() != nil {
		message = message.Mutable(client).Message()
	}
	if check := message.Descriptor().Fields().ByName("check"); check != nil {
		message = message.Mutable(check).Message()
	}
	for _, field := range []protoreflect.Name{"client", "name"} {
		if f := message.Descriptor().Fields().ByName(field); f != nil && f.Kind() == protoreflect.StringKind && message.Has(f) {
			message.Set(f, protoreflect.ValueOfString("clients/"+id))
		}
	}
	return request
}

// TestAccessMatrix calls every method of the API with every identity under every cell,
// for a client that there is and one that there is not. The race detector sees the same
// code in each and makes it ten times as slow: with it every seventh cell is tried, which
// is each kind of row, and `make test` runs all without.
func TestAccessMatrix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.yaml")
	put := func(text string) { must(t, os.WriteFile(path, []byte(text), 0o600)) }
	put(cells()[0].text())
	table, err := access.NewReloader(path, nil)
	must(t, err)
	i := newIssuer(t)
	writing := newWorld(t, setup{})
	writing.register(t, writing.peer, "acme", func(c *pb.Client) { c.Labels = map[string]string{"team": "crm"} })
	w := newWorld(t, setup{access: table, bearer: i.verifier(), prepare: func(w *world) { w.memory, w.store = writing.memory, brokertest.NewFaulty(writing.memory) }})
	// What is let in must not change what the next case sees.
	w.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.On(brokertest.OpWrite, ""))
	identities := map[string]string{"a": i.token("a", nil), "b": i.token("b", nil), "c": i.token("c", nil), "": ""}
	methods := slices.DeleteFunc(registered(t, w.server), func(m method) bool { return !m.ours() && !strings.Contains(m.full, "reflection") })
	tried, allowed := 0, 0
	for i, c := range cells() {
		if raced && i%7 != 0 {
			continue
		}
		put(c.text())
		must(t, table.Reload())
		for caller, token := range identities {
			ctx := t.Context()
			if token != "" {
				ctx = withBearer(ctx, token)
			}
			for _, m := range methods {
				name := m.full[strings.LastIndexByte(m.full, '/')+1:]
				for _, id := range []string{"acme", "none"} {
					tried++
					_, err := w.invoke(ctx, m, named(t, m, id))
					got := problemOf(err)
					want := c.allows(caller, name, id)
					denied := got.code == codes.PermissionDenied || got.code == codes.Unauthenticated
					if name == "WhoAmI" {
						want = true // over plaintext everybody has an identity
					}
					if want == denied {
						t.Errorf("%s\n%q calls %s for %s: got %v, want it let in: %t", c.text(), caller, m.full, id, err, want)
					}
					if want {
						allowed++
					}
				}
			}
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d cases, %d of them let in", tried, allowed)
	if tried < 10_000 || allowed < tried/20 {
		t.Errorf("tried %d cases, of which %d are let in: too few to mean anything", tried, allowed)
	}
}
