// Package audit writes down every decision before anything is revealed, in a way
// that shows afterwards whether somebody changed it.
//
// Each entry is one JSON line that ends in a keyed hash over itself and the line
// before it. Every ten seconds, and at the end, a checkpoint signs all lines since
// the one before. Entries hold no secret and no token, only a token's id. A call
// returns when the kernel has taken the entry by at least one sink; else the
// decision must not be carried out.
//
// It cannot show that a process was kept from writing at all, and whoever has the
// key file can forge. docs/audit.md says what else it does not show.
package audit
