package identity_test

import (
	"os"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/server/identity"
)

// TestCausesAreDocumented: an operator who finds one in the log finds it there too.
func TestCausesAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/identity.md")
	must(t, err)
	for _, cause := range identity.Causes() {
		if !strings.Contains(string(document), "`"+string(cause)+"`") {
			t.Errorf("docs/identity.md does not name %s", cause)
		}
	}
}
