package client_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/client"
)

// TestNothingPrintsTheToken: neither by itself nor within a struct of somebody's.
func TestNothingPrintsTheToken(t *testing.T) { synctest.Test(t, nothingPrintsTheToken) }

func nothingPrintsTheToken(t *testing.T) {
	f := newFake(t)
	c := f.connect(t)
	source := c.Source(acme)
	token := must[*client.Token](t)(source.Get(t.Context()))
	rt := must[*client.RoundTripper](t)(source.RoundTripper(&api{}, "https://api.example.com"))
	_, err := source.RoundTripper(nil)
	_, refusal := rt.RoundTrip(request(t, http.MethodGet, "https://other.example.com", nil))
	synctest.Wait() // fmt looks into the structs of others without their locks
	if token.Access.Reveal() != canary+"-1" {
		t.Fatal("the token has no canary")
	}
	type wrapper struct {
		Public  any
		private any
		token   *client.Token
		value   client.Token
		secret  client.Secret
	}
	for _, value := range []any{c, source, token, *token, token.Access, rt, source.PerRPCCredentials(), err, refusal} {
		wrapped := wrapper{value, value, token, *token, token.Access}
		var log strings.Builder
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "value", value, "wrapped", wrapped)
		encoded, _ := json.Marshal(value) // what cannot be encoded shows nothing
		texts := []string{log.String(), string(encoded)}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			texts = append(texts, fmt.Sprintf(verb, value), fmt.Sprintf(verb, wrapped), fmt.Sprintf(verb, &wrapped))
		}
		for _, text := range texts {
			if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
				t.Errorf("%T prints the token: %s", value, text)
			}
		}
	}
}

// TestReasonsExist compares the constants with the broker's own table.
func TestReasonsExist(t *testing.T) {
	reasons, recoveries := map[string]bool{}, map[string]bool{}
	for _, info := range broker.Reasons() {
		reasons[string(info.Reason)], recoveries[string(info.Recovery)] = true, true
	}
	for what, known := range map[string]map[string]bool{"Reason": reasons, "Recovery": recoveries} {
		constants := regexp.MustCompile(what+`\w+ +`+what+` += "(\w+)"`).FindAllStringSubmatch(string(must[[]byte](t)(os.ReadFile("errors.go"))), -1)
		if len(constants) < 8 {
			t.Errorf("found %d constants of type %s", len(constants), what)
		}
		for _, c := range constants {
			if !known[c[1]] {
				t.Errorf("%s %s is unknown to the broker", what, c[1])
			}
		}
	}
}
