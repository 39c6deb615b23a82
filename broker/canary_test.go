package broker_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// canaries collects everything that a Broker tells, and looks for secrets in it.
type canaries struct {
	spellings []string
}

func newCanaries(secrets ...string) *canaries {
	c := &canaries{}
	for _, s := range secrets {
		decimal := fmt.Sprint([]byte(s))
		c.spellings = append(c.spellings, s, hex.EncodeToString([]byte(s)), strings.ToUpper(hex.EncodeToString([]byte(s))),
			base64.StdEncoding.EncodeToString([]byte(s)), base64.RawURLEncoding.EncodeToString([]byte(s)), url.QueryEscape(s), decimal[1:len(decimal)-1])
	}
	return c
}

// told looks at a value in all the ways in which it could end in a log.
func (c *canaries) told(t *testing.T, what string, values ...any) {
	t.Helper()
	var texts []string
	for _, value := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			texts = append(texts, fmt.Sprintf(verb, value))
		}
		if encoded, err := json.Marshal(value); err == nil {
			texts = append(texts, string(encoded))
		}
		if err, ok := value.(error); ok {
			for ; err != nil; err = errors.Unwrap(err) {
				texts = append(texts, err.Error(), fmt.Sprintf("%+v", err))
			}
		}
	}
	for _, text := range texts {
		for _, spelling := range c.spellings {
			if strings.Contains(text, spelling) {
				t.Errorf("%s tells a secret: %.500s", what, text)
			}
		}
	}
}

// TestNothingTellsASecret goes through all operations, done well and done badly,
// with marked secrets and tokens.
func TestNothingTellsASecret(t *testing.T) { synctest.Test(t, nothingTellsASecret) }

func nothingTellsASecret(t *testing.T) {
	const first, second, third, access = "canary-first-7f3a9c", "canary-second-1b2d", "canary-third-99e0", "canary-access-c0ffee"
	c := newCanaries(first, second, third, access, `canary-"quoted"\key`)
	f := newFixture(t)
	f.upstream.Always(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.AccessToken = secret.NewString(access) }})
	ctx := t.Context()
	n := newClient("acme")
	for _, bad := range []string{first + "\n", "\x01" + first, first + "\xff", "-----BEGIN " + first, strings.Repeat(first, 10_000)} {
		n.Secret = input(bad)
		created, err := f.CreateClient(ctx, n)
		c.told(t, "CreateClient with a bad secret", created, err, n)
	}
	n.Secret = input(first)
	created, err := f.CreateClient(ctx, n)
	wantReason(t, "CreateClient", err, "")
	c.told(t, "CreateClient", created, n)
	f.upstream.Register(n.Upstream.ClientID, first)
	token, warnings, err := f.GetToken(ctx, broker.TokenQuery{ClientID: "acme"})
	wantReason(t, "GetToken", err, "")
	c.told(t, "GetToken", token, warnings)
	for _, stagedSecret := range []string{first, second, "{" + second, second + " "} {
		staged, err := f.StageSecret(ctx, "acme", input(stagedSecret), "")
		c.told(t, "StageSecret", staged, err)
	}
	verified, warnings, err := f.VerifySecret(ctx, "acme", 0)
	wantReason(t, "VerifySecret of what the server does not know", err, broker.ReasonClientRejected)
	c.told(t, "VerifySecret", verified, warnings, err)
	f.upstream.Register(n.Upstream.ClientID, second)
	verified, warnings, err = f.VerifySecret(ctx, "acme", 0)
	wantReason(t, "VerifySecret", err, "")
	c.told(t, "VerifySecret", verified, warnings)
	promoted, err := f.PromoteSecret(ctx, broker.Promotion{ClientID: "acme", DropTokens: true})
	wantReason(t, "PromoteSecret", err, "")
	c.told(t, "PromoteSecret", promoted)
	for _, edit := range []func(*broker.Client){
		func(*broker.Client) {}, func(c *broker.Client) { c.Upstream.TokenEndpoint = "https://evil.example/" },
		func(c *broker.Client) { c.Upstream.Authentication.Method = broker.PrivateKeyJWT },
	} {
		for _, s := range []broker.SecretInput{{}, input(third)} {
			u := broker.ClientUpdate{ID: "acme", Secret: s, Edit: edit}
			updated, err := f.UpdateClient(ctx, u)
			c.told(t, "UpdateClient", updated, err, u)
		}
	}
	for name, damaged := range map[string]string{
		"foreign": `{"password":"` + first + `"}`, "no JSON": first, "number": `{"schema":1,"uid":"u","write_id":"w","number":"` + first + `","value":"` + first + `"}`,
		"value": `{"schema":1,"uid":"u","write_id":"w","number":1,"value":["` + first + `"]}`, "cut off": `{"value":"` + first,
		"schema": `{"schema":"` + first + `"}`, "key": `{"schema":1,"uid":"u","write_id":"w","` + first + `":{}}`,
	} {
		for _, key := range append(keysUnder(f.memory, "secrets/"), keysUnder(f.memory, "clients/")...) {
			memory := f.memory.Clone()
			memory.Put(key, damaged)
			b := open(t, memory, brokertest.NewFaulty(memory), f.upstream, nil)
			for operation, err := range withID(t, b, "acme") {
				c.told(t, operation+" with a damaged record: "+name, err)
			}
			report, err := b.CheckLookup(ctx, broker.LookupCheck{ClientID: "acme", Depth: broker.DepthSecret, Permitted: broker.DepthAPI})
			c.told(t, "CheckLookup", report, err)
			page, err := b.ListClients(ctx, broker.ListQuery{})
			c.told(t, "ListClients", page, err)
			c.told(t, "the log", b.log.String())
		}
	}
	report, err := f.CheckLookup(ctx, broker.LookupCheck{ClientID: "acme", Depth: broker.DepthSecret, Permitted: broker.DepthAPI})
	c.told(t, "CheckLookup", report, err)
	for _, v := range f.get(t, "acme").Secrets {
		c.told(t, "RetireSecret", f.RetireSecret(ctx, "acme", v.Number))
	}
	for _, r := range f.upstream.Requests() {
		c.told(t, "a request", r, r.TokenRequest)
	}
	c.told(t, "the log", f.log.String())
	synctest.Wait() // nothing is at work on what is printed
	c.told(t, "the Broker", f.Broker)
}

// TestFaultsTellNoSecret repeats the flows of [TestEachFault]: failures are where
// things are printed that nobody thought of.
func TestFaultsTellNoSecret(t *testing.T) {
	c := newCanaries(password, "next-secret", "updated-secret")
	for _, flow := range faultFlows {
		t.Run(flow.name, func(t *testing.T) {
			var memory *brokertest.Memory
			brokertest.EachFaultOn(t, func(*testing.T) broker.Store {
				memory = brokertest.NewMemory()
				return memory
			}, func(t *testing.T, run *brokertest.Run) {
				f := processes(t, memory)(run.Store)
				flow.prepare(t, f)
				f = processes(t, memory)(run.Store) // knows nothing yet
				run.Start()
				err := flow.do(t.Context(), f)
				run.Stop()
				c.told(t, flow.name, err)
				c.told(t, "the log", f.log.String())
			})
		})
	}
}
