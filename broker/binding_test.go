package broker_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// boundFixture is one whose client has tokens that are bound; proofs are "KEY:NONCE".
func boundFixture(t *testing.T, binding broker.TokenBinding, edits ...func(*broker.NewClient)) *fixture {
	t.Helper()
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.CheckDPoPProof = func(proof, htu string) (string, error) {
			key, _, ok := strings.Cut(proof, ":")
			if !ok || htu != endpoint {
				return "", &broker.Error{Reason: broker.ReasonDPoPProofInvalid, Detail: "for " + htu}
			}
			return "thumbprint-of-" + key, nil
		}
		cfg.CheckSecret = checkAnySecret
	})
	f.create(t, "acme", append(edits, func(n *broker.NewClient) {
		if n.Upstream.TokenBinding = binding; binding == broker.BoundByCertificate {
			n.Upstream.Authentication.Method = broker.TLSClientAuth
		}
	})...)
	return f
}

func proving(proof string) broker.TokenQuery {
	return broker.TokenQuery{ClientID: "acme", DPoPProof: proof}
}

// TestProofs: each key has its tokens, a warm one is served to who proves the key, and a
// proof is sent once.
func TestProofs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := boundFixture(t, broker.BoundByDPoP)
		f.upstream.Always(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.TokenType = "DPoP" }})
		_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "no proof", err, broker.ReasonDPoPProofRequired)
		if got := broker.AsError(err).Told["htu"]; got != endpoint {
			t.Errorf("told htu %q, want %q", got, endpoint)
		}
		_, _, err = f.GetToken(t.Context(), proving("junk"))
		wantReason(t, "a bad proof", err, broker.ReasonDPoPProofInvalid)
		ids := map[string]string{}
		for _, proof := range []string{"a:1", "b:1", "a:2", "b:2"} {
			token, _, err := f.GetToken(t.Context(), proving(proof))
			if err != nil {
				t.Fatalf("%s: %v", proof, err)
			}
			key := proof[:1]
			if ids[key] == "" {
				ids[key] = token.ID
			}
			if ids[key] != token.ID {
				t.Errorf("%s got %s, want the warm %s", proof, token.ID, ids[key])
			}
		}
		if ids["a"] == ids["b"] || f.upstream.Count() != 2 {
			t.Errorf("two keys have the tokens %v by %d requests", ids, f.upstream.Count())
		}
		time.Sleep(55 * time.Minute) // in the window of refreshes
		for _, proof := range []string{"a:3", "a:4"} {
			if _, _, err := f.GetToken(t.Context(), proving(proof)); err != nil {
				t.Errorf("%s: %v", proof, err)
			}
		}
		synctest.Wait()
		if got := f.upstream.Count(); got != 2 {
			t.Errorf("%d requests, want none in the background", got)
		}
		time.Sleep(6 * time.Minute)
		asked := f.upstream.Count()
		f.upstream.Script(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamUnavailable}})
		_, _, err = f.GetToken(t.Context(), proving("a:5"))
		wantReason(t, "a server that is away", err, broker.ReasonUpstreamUnavailable)
		if got := f.upstream.Count() - asked; got != 1 {
			t.Errorf("the proof was sent %d times, want once", got)
		}
	})
}

// TestANonce is told to the caller, who may call again at once.
func TestANonce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := boundFixture(t, broker.BoundByDPoP)
		f.upstream.Script(
			brokertest.Step{Err: &broker.Error{Reason: broker.ReasonDPoPNonceRequired, Told: map[string]string{"dpop_nonce": "n-1"}}},
			brokertest.Step{Edit: func(r *broker.TokenResponse) { r.TokenType = "DPoP" }},
		)
		_, _, err := f.GetToken(t.Context(), proving("a:1"))
		wantReason(t, "without nonce", err, broker.ReasonDPoPNonceRequired)
		if got := broker.AsError(err).Told["dpop_nonce"]; got != "n-1" {
			t.Errorf("told the nonce %q", got)
		}
		if _, _, err := f.GetToken(t.Context(), proving("a:2")); err != nil {
			t.Errorf("with it: %v", err)
		}
	})
}

// TestBindings: who gets a token that is bound, or is not.
func TestBindings(t *testing.T) {
	der := []byte("a certificate")
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	sum := sha256.Sum256(der)
	known := base64.RawURLEncoding.EncodeToString(sum[:])
	opaque := func(*broker.TokenResponse) {}
	bound := func(thumbprint string) func(*broker.TokenResponse) {
		return func(r *broker.TokenResponse) { r.CertificateThumbprint = thumbprint }
	}
	byKey := func(r *broker.TokenResponse) { r.KeyThumbprint = "thumbprint-of-a" }
	tests := []struct {
		name    string
		binding broker.TokenBinding
		edit    func(*broker.TokenResponse)
		query   broker.TokenQuery
		want    broker.Reason
		told    string
	}{
		{"unbound", "", opaque, broker.TokenQuery{}, "", ""},
		{"bound to a certificate, unasked for", "", bound("x"), broker.TokenQuery{CertificateThumbprint: "x"}, broker.ReasonTokenBoundElsewhere, "x"},
		{"bound to a key, unasked for", "", byKey, broker.TokenQuery{}, broker.ReasonTokenBoundElsewhere, "thumbprint-of-a"},
		{"the caller's certificate", broker.BoundByCertificate, bound("x"), broker.TokenQuery{CertificateThumbprint: "x"}, "", ""},
		{"another certificate", broker.BoundByCertificate, bound("x"), broker.TokenQuery{CertificateThumbprint: "y"}, broker.ReasonTokenBoundElsewhere, "x"},
		{"no certificate", broker.BoundByCertificate, bound("x"), broker.TokenQuery{}, broker.ReasonTokenBoundElsewhere, "x"},
		{"opaque, the client's certificate", broker.BoundByCertificate, opaque, broker.TokenQuery{CertificateThumbprint: known}, "", ""},
		{"opaque, another certificate", broker.BoundByCertificate, opaque, broker.TokenQuery{CertificateThumbprint: "y"}, broker.ReasonTokenBoundElsewhere, known},
		{"a bearer token for a key", broker.BoundByDPoP, opaque, proving("a:1"), broker.ReasonTokenNotBound, ""},
		{"the caller's key", broker.BoundByDPoP, byKey, proving("a:1"), "", ""},
		{"another key", broker.BoundByDPoP, byKey, proving("b:1"), broker.ReasonTokenBoundElsewhere, "thumbprint-of-a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := boundFixture(t, test.binding, func(n *broker.NewClient) { n.Secret = input(certificate) })
				f.upstream.Always(brokertest.Step{Edit: test.edit})
				test.query.ClientID = "acme"
				for i, replica := range []*fixture{f, f, f.replica(t)} {
					if i == 2 && test.binding == broker.BoundByDPoP {
						continue // it checks no proofs
					}
					_, _, err := replica.GetToken(t.Context(), test.query)
					wantReason(t, "GetToken", err, test.want)
					told := broker.AsError(err).Told
					if err != nil && told["certificate_thumbprint"]+told["key_thumbprint"] != test.told {
						t.Errorf("told %v, want %q", told, test.told)
					}
				}
				if got := f.upstream.Count(); got > 1 {
					t.Errorf("%d requests, want 1", got)
				}
			})
		})
	}
}
