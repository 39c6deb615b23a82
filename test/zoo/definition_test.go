package zoo_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/oauth/profile"
	"github.com/tokenbroker/tokenbroker/test/zoo"
)

// TestDefinitions holds every snippet to the vocabulary of profiles.
func TestDefinitions(t *testing.T) {
	for _, origin := range []string{"https://127.0.0.1:8443", "http://127.0.0.1:8080"} {
		for _, quirk := range zoo.Quirks() {
			p, err := profile.Parse("zoo-"+quirk.Name+".yaml", []byte(quirk.Definition(origin)))
			if err != nil {
				t.Errorf("%s: %v\n%s", quirk.Name, err, quirk.Definition(origin))
			} else if p.Endpoints.Token != origin+"/zoo/"+quirk.Name+"/token" {
				t.Errorf("%s: the token endpoint is %s", quirk.Name, p.Endpoints.Token)
			}
		}
	}
}
