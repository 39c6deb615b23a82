// Package diagnosis_test is a catalogue of what breaks when a token is looked up: each
// fault is injected for real, into a real store, a real network and real servers, and the
// check of the lookup, asked through the border, must name its cause. Beside it stand
// set-ups that are odd but healthy, of which the check must report no failure.
//
// Everything stays on loopback: names are resolved by a name server of this package.
package diagnosis_test

import (
	"fmt"
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/test/realvault"
)

// names is the name server that the whole test binary asks.
var names *nameServer

func TestMain(m *testing.M) {
	var err error
	if names, err = startNameServer(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// The process has one resolver, and package net has one place to change it.
	net.DefaultResolver = names.resolver()
	goleak.VerifyTestMain(realvault.Closing(served{m}))
}

// served is a *testing.M whose Run ends the name server.
type served struct{ m *testing.M }

// Run runs the tests.
func (s served) Run() int {
	defer names.close()
	return s.m.Run()
}
