package broker_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(counted{m}) }

// counted prints the figures that `make fault` shows once the tests have run.
type counted struct{ *testing.M }

func (c counted) Run() int {
	code := c.M.Run()
	fmt.Print(faultFigures(), grantFaultFigures())
	return code
}
