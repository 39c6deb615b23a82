package oauth_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// FuzzProofs looks for a proof that is taken although it is not signed, for a panic, and
// for an error that quotes what it is about.
func FuzzProofs(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	for _, seed := range []string{
		"", "a.b.c", "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7fX0.e30.c2ln", "eyJhbGciOiJub25lIn0.e30.",
		"eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwiY3J2IjoiUC0yNTYiLCJ4IjoiQUEiLCJ5IjoiQUEifX0.e30.AA",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, proof string) {
		thumbprint, err := oauth.CheckDPoPProof(proof, proofEndpoint, now)
		if err == nil {
			t.Errorf("%q is taken, with the key %s", proof, thumbprint)
			return
		}
		if broker.ReasonOf(err) != broker.ReasonDPoPProofInvalid || thumbprint != "" {
			t.Errorf("CheckDPoPProof(%q) = %q, %v", proof, thumbprint, err)
		}
		if len(proof) > 20 && strings.Contains(err.Error(), proof) {
			t.Errorf("the error quotes the proof: %v", err)
		}
	})
}

// FuzzIDTokens looks for a token that is taken although it is for nobody here.
func FuzzIDTokens(f *testing.F) {
	client := oauth.New(oauth.Config{})
	f.Cleanup(client.Close)
	for _, seed := range []string{"", "a.b.c", "e30.e30.", "e30.eyJhdWQiOltdfQ.x", "e30.eyJhdWQiOlsxXSwiZXhwIjoxZTk5OX0.x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		err := client.CheckIDToken(secret.NewString(token), "https://issuer.example", "nobody-here", "nonce")
		if broker.ReasonOf(err) != broker.ReasonIDTokenInvalid {
			t.Errorf("CheckIDToken(%q) = %v", token, err)
		}
	})
}
