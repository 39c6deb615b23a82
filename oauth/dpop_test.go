package oauth_test

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// proofParts are what a proof is made of; change them to make a bad one.
type proofParts struct {
	key       crypto.Signer
	algorithm jose.SignatureAlgorithm
	typ       string
	claims    map[string]any
}

const proofEndpoint = "https://as.example/token"

func makeProof(t *testing.T, change func(*proofParts)) string {
	t.Helper()
	p := proofParts{key: keys().p256, algorithm: jose.ES256, typ: "dpop+jwt", claims: map[string]any{
		"htm": "POST", "htu": proofEndpoint, "iat": time.Now().Unix(), "jti": "canary-7f3a9c",
	}}
	if change != nil {
		change(&p)
	}
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType(jose.ContentType(p.typ))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: p.algorithm, Key: p.key}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(p.claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// reheaded puts another header before a proof, whose signature is then wrong.
func reheaded(t *testing.T, change func(map[string]any)) string {
	t.Helper()
	parts := strings.Split(makeProof(t, nil), ".")
	text, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	var header map[string]any
	if err := json.Unmarshal(text, &header); err != nil {
		t.Fatal(err)
	}
	change(header)
	return base64.RawURLEncoding.EncodeToString([]byte(marshal(header))) + "." + parts[1] + "." + parts[2]
}

func TestCheckDPoPProof(t *testing.T) {
	now := time.Now()
	claim := func(name string, value any) string {
		return makeProof(t, func(p *proofParts) {
			p.claims = maps.Clone(p.claims)
			if p.claims[name] = value; value == nil {
				delete(p.claims, name)
			}
		})
	}
	jwk := func(change func(map[string]any)) string {
		return reheaded(t, func(header map[string]any) { change(header["jwk"].(map[string]any)) })
	}
	tests := []struct {
		name, proof, text string // "" if it is taken
	}{
		{"good", makeProof(t, nil), ""},
		{"RSA", makeProof(t, func(p *proofParts) { p.key, p.algorithm = keys().rsa, jose.PS256 }), ""},
		{"Ed25519", makeProof(t, func(p *proofParts) { p.key, p.algorithm = keys().ed, jose.EdDSA }), ""},
		{"with a nonce", claim("nonce", "n"), ""},
		{"htu normalised", claim("htu", "HTTPS://AS.example:443/token"), ""},
		{"htu with a query", claim("htu", proofEndpoint+"?a=b#c"), ""},
		{"nothing", "", "not a compact JWT"},
		{"an opaque token", "canary-7f3a9c", "not a compact JWT"},
		{"huge", strings.Repeat("a", 9000), "more than 8192 bytes"},
		{"another typ", makeProof(t, func(p *proofParts) { p.typ = "JWT" }), "typ"},
		{"no typ", reheaded(t, func(h map[string]any) { delete(h, "typ") }), "typ"},
		{"unsigned", reheaded(t, func(h map[string]any) { h["alg"] = "none" }), "alg"},
		{"by HMAC", reheaded(t, func(h map[string]any) { h["alg"] = "HS256" }), "alg"},
		{"no key", reheaded(t, func(h map[string]any) { delete(h, "jwk") }), "no jwk"},
		{"key of another type", reheaded(t, func(h map[string]any) { h["jwk"] = "x" }), "no jwk"},
		{"the private key in it", jwk(func(k map[string]any) { k["d"] = "canary-7f3a9c" }), "the private key in it"},
		{"a symmetric key", jwk(func(k map[string]any) { k["kty"], k["k"] = "oct", "AAAA" }), "the private key in it"},
		{"a point off the curve", jwk(func(k map[string]any) { k["x"] = k["y"] }), "not a public key"},
		{"another's key", reheaded(t, func(h map[string]any) {
			text, _ := jose.JSONWebKey{Key: keys().p384.Public()}.MarshalJSON()
			h["jwk"] = json.RawMessage(text)
		}), "signature"},
		{"a changed header", reheaded(t, func(h map[string]any) { h["kid"] = "x" }), "signature"},
		{"another method", claim("htm", "GET"), "htm must be POST"},
		{"lower case", claim("htm", "post"), "htm must be POST"},
		{"another endpoint", claim("htu", "https://as.example/tokens"), "htu must be " + proofEndpoint},
		{"another host", claim("htu", "https://evil.example/token"), "htu must be"},
		{"another port", claim("htu", "https://as.example:8443/token"), "htu must be"},
		{"no htu", claim("htu", nil), "htu must be"},
		{"no jti", claim("jti", nil), "no jti"},
		{"no iat", claim("iat", nil), "no iat"},
		{"old", claim("iat", now.Add(-3*time.Minute).Unix()), "too old"},
		{"very old", claim("iat", -1e300), "too old"},
		{"from the future", claim("iat", now.Add(2*time.Minute).Unix()), "from the future"},
		{"iat of another type", claim("iat", "now"), "claims"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			thumbprint, err := oauth.CheckDPoPProof(tt.proof, proofEndpoint+"?tenant=1", now)
			if tt.text == "" {
				if raw, _ := base64.RawURLEncoding.DecodeString(thumbprint); err != nil || len(raw) != 32 {
					t.Errorf("CheckDPoPProof = %q, %v", thumbprint, err)
				}
				return
			}
			e := wantReason(t, err, broker.ReasonDPoPProofInvalid, tt.text)
			if thumbprint != "" || e.Told["htu"] != proofEndpoint {
				t.Errorf("CheckDPoPProof = %q, told %v", thumbprint, e.Told)
			}
		})
	}
}

// TestThumbprintOfProofs compares with RFC 7638 as go-jose has it.
func TestThumbprintOfProofs(t *testing.T) {
	got, err := oauth.CheckDPoPProof(makeProof(t, nil), proofEndpoint, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sum, err := (&jose.JSONWebKey{Key: keys().p256.Public()}).Thumbprint(crypto.SHA256)
	if want := base64.RawURLEncoding.EncodeToString(sum); err != nil || got != want {
		t.Errorf("thumbprint = %s, want %s, %v", got, want, err)
	}
}

func TestDPoPAnswers(t *testing.T) {
	nonce := func(status int, body string) http.HandlerFunc {
		return answer(status, body, "DPoP-Nonce", "nonce-1")
	}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		bare    bool          // no proof is sent
		reason  broker.Reason // "" for a token
		text    string
		told    string
	}{
		{"bound", answer(200, `{"access_token":"at","token_type":"dpop"}`), false, "", "DPoP", ""},
		{"not bound", answer(200, `{"access_token":"at","token_type":"Bearer"}`), false, "", "Bearer", ""},
		{"bound without proof", answer(200, `{"access_token":"at","token_type":"DPoP"}`), true, broker.ReasonTokenTypeUnsupported, "type DPoP", ""},
		{"nonce wanted", nonce(400, `{"error":"use_dpop_nonce"}`), false, broker.ReasonDPoPNonceRequired, "use_dpop_nonce", "nonce-1"},
		{"nonce wanted by a challenge", answer(401, "", "WWW-Authenticate", `DPoP error="use_dpop_nonce"`, "DPoP-Nonce", "nonce-1"), false, broker.ReasonDPoPNonceRequired, "use_dpop_nonce", "nonce-1"},
		{"nonce wanted without one", answer(400, `{"error":"use_dpop_nonce"}`), false, broker.ReasonUpstreamMalformed, "no nonce", ""},
		{"nonce that cannot be", answer(400, `{"error":"use_dpop_nonce"}`, "DPoP-Nonce", `a"b`), false, broker.ReasonUpstreamMalformed, "no nonce", ""},
		{"nonce too long", answer(400, `{"error":"use_dpop_nonce"}`, "DPoP-Nonce", strings.Repeat("n", 2000)), false, broker.ReasonUpstreamMalformed, "no nonce", ""},
		{"nonce wanted of no proof", nonce(400, `{"error":"use_dpop_nonce"}`), true, broker.ReasonRequestRejected, "token_binding", ""},
		{"proof refused", answer(400, `{"error":"invalid_dpop_proof","error_description":"iat"}`), false, broker.ReasonDPoPProofInvalid, "invalid_dpop_proof: iat", ""},
		{"proof wanted", answer(400, `{"error":"invalid_dpop_proof"}`), true, broker.ReasonRequestRejected, "token_binding", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = append(got, r.Header.Values("DPoP")...)
				tt.handler(w, r)
			})
			req := tokenRequest(server)
			proof := makeProof(t, func(p *proofParts) { p.claims["htu"] = server.URL + "/token" })
			if !tt.bare {
				req.Grant.DPoPProof = proof
			}
			token, err := client.RequestToken(t.Context(), req)
			if !tt.bare && (len(got) != 1 || got[0] != proof) || tt.bare && len(got) > 0 {
				t.Errorf("the server got %d proofs", len(got))
			}
			if tt.reason == "" {
				if err != nil || token.TokenType != tt.text {
					t.Errorf("token = %+v, %v", token, err)
				}
				return
			}
			e := wantReason(t, err, tt.reason, tt.text)
			if e.Told["dpop_nonce"] != tt.told || tt.told != "" && e.Told["htu"] != server.URL+"/token" {
				t.Errorf("told = %v, want the nonce %q", e.Told, tt.told)
			}
		})
	}
}

// TestProofsStayAtTheTokenEndpoint: they are for that and for one request.
func TestProofsStayAtTheTokenEndpoint(t *testing.T) {
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("DPoP") != "" {
			t.Errorf("%s got a proof", r.URL.Path)
		}
		answer(200, `{"active":true,"device_code":"d","user_code":"u","verification_uri":"https://as.example/","expires_in":60}`)(w, r)
	})
	req := tokenRequest(server)
	req.Grant.DPoPProof = makeProof(t, nil)
	if _, err := client.AuthorizeDevice(t.Context(), req); err != nil {
		t.Error(err)
	}
	if _, err := client.Introspect(t.Context(), broker.IntrospectionRequest{Endpoint: server.URL + "/introspect", Client: req, Token: secret.NewString("at")}); err != nil {
		t.Error(err)
	}
	req.Grant.DPoPProof = "canary\r\nX: y"
	_, err := client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonDPoPProofInvalid, "compact JWT")
}
