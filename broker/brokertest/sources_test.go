package brokertest_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

func TestReferences(t *testing.T) {
	references := brokertest.NewReferences()
	brokertest.TestReferences(t, references, references, "team")
}

func TestUnwrap(t *testing.T) {
	wrapping := brokertest.NewWrapping()
	brokertest.TestUnwrap(t, wrapping.Unwrap, wrapping)
}
