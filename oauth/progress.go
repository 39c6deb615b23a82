package oauth

import (
	"context"
	"crypto/tls"
	"net/http/httptrace"
	"sync/atomic"
)

// stage is how far a request got.
type stage int32

const (
	stageStarting    stage = iota
	stageResolving         // the endpoint's or the proxy's name
	stageConnecting        // TCP, to the endpoint or the proxy
	stageHandshaking       // TLS, to the endpoint or an https proxy
	stageShaken            // that handshake is done
	stageTunnelling        // TLS to the endpoint through an https proxy
	stageSending
	stageWaiting
	stageAnswered // the first byte is there
	stageReading  // the header is, too
)

// String says what was being done, for "timed out while ...".
func (s stage) String() string {
	switch s {
	case stageResolving:
		return "resolving the host name"
	case stageConnecting:
		return "connecting"
	case stageHandshaking, stageTunnelling:
		return "shaking hands by TLS"
	case stageSending:
		return "sending the request"
	case stageWaiting:
		return "waiting for the answer"
	case stageAnswered, stageReading:
		return "reading the answer"
	default:
		return "preparing the connection"
	}
}

// progress remembers the furthest stage. Only the furthest counts: a dial that the
// transport started for this request may go on after another connection became
// free for it. Safe for concurrent use, as the transport's callbacks need.
type progress struct{ at atomic.Int32 }

func (p *progress) stage() stage { return stage(p.at.Load()) }

func (p *progress) reach(s stage) {
	for {
		now := p.at.Load()
		if now >= int32(s) || p.at.CompareAndSwap(now, int32(s)) {
			return
		}
	}
}

// trace returns the callbacks of a request on ctx. What comes when ctx is over is no answer:
// a server may write one because the connection is being closed.
func (p *progress) trace(ctx context.Context) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSStart:     func(httptrace.DNSStartInfo) { p.reach(stageResolving) },
		ConnectStart: func(_, _ string) { p.reach(stageConnecting) },
		TLSHandshakeStart: func() {
			if p.stage() >= stageShaken {
				p.reach(stageTunnelling)
				return
			}
			p.reach(stageHandshaking)
		},
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				p.reach(stageShaken)
			}
		},
		GotConn:      func(httptrace.GotConnInfo) { p.reach(stageSending) },
		WroteRequest: func(httptrace.WroteRequestInfo) { p.reach(stageWaiting) },
		GotFirstResponseByte: func() {
			if ctx.Err() == nil {
				p.reach(stageAnswered)
			}
		},
	}
}
