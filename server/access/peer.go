package access

import "sync/atomic"

// Peer is who a connection or a credential was verified to be: identities, which each
// generation of the table may give to another caller. It is safe for concurrent use.
type Peer struct {
	identities []string
	last       atomic.Pointer[resolved]
}

// resolved is what one table said about a peer.
type resolved struct {
	table  *Table
	caller Caller
	ok     bool
}

// NewPeer returns a peer with verified identities, spelled as by [DNSIdentity] and its
// siblings.
func NewPeer(identities ...string) *Peer { return &Peer{identities: identities} }

// Identities returns what the peer was verified to be; none for a nil peer. The list
// must not be changed.
func (p *Peer) Identities() []string {
	if p == nil {
		return nil
	}
	return p.identities
}

// Caller returns who the peer is in t: as [Table.Identify], looked up once for each
// table. It keeps the last table alive that it was asked about. A nil peer is nobody.
func (p *Peer) Caller(t *Table) (Caller, bool) {
	if p == nil || t == nil {
		return Caller{}, false
	}
	if last := p.last.Load(); last != nil && last.table == t {
		return last.caller, last.ok
	}
	found, ok := t.Identify(p.identities...)
	p.last.Store(&resolved{t, found, ok})
	return found, ok
}
