// Package plugintest is the suite that every implementation of RotatorService must
// pass (proto/tokenbroker/rotator/v1). A team runs it against its own, in whatever
// language that is written, and a client of its provider that nobody else uses:
//
//	func TestRotator(t *testing.T) {
//		plugintest.TestRotator(t, func(t *testing.T) plugintest.Subject { … })
//	}
package plugintest
