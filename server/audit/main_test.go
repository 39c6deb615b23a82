package audit_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childVariable says which of children this binary is to be, instead of the tests.
const childVariable = "TOKENBROKER_AUDIT_TEST_CHILD"

func TestMain(m *testing.M) {
	if child := children[os.Getenv(childVariable)]; child != nil {
		child(os.Args[1:])
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
