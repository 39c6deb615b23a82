package vault_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/test/realvault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(realvault.Closing(m)) }
