// Package brokertest holds what tests of the broker and of its adapters share:
// the conformance suite that every [broker.Store] must pass ([TestStore]), a
// store in memory ([Memory]), a store that fails on demand ([Faulty],
// [EachFault]), an authorization server without a network ([Upstream]), and where
// secrets come from besides requests ([Wrapping], [References]) with the suites that
// the real ones pass too ([TestUnwrap], [TestReferences]).
//
// The fakes keep the contracts of package broker to the letter, and where a
// contract leaves a choice they take the one that is harder on the caller. They
// start no goroutines, use no clocks but time.Now and timers, and so run in a
// testing/synctest bubble.
package brokertest
