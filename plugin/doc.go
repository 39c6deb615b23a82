// Package plugin lets rotators that others wrote change secrets: it calls a
// RotatorService (proto/tokenbroker/rotator/v1) over mutual TLS and is a
// [broker.Rotator] to the broker.
//
// It guards two invariants. Secrets go only to a peer whose certificate the
// configured authorities vouch for, or that is on this machine. And it never says of
// a call that nothing happened unless that is certain: the call surely was not sent,
// or the rotator said so with a code that means it. It repeats no call by itself.
package plugin
