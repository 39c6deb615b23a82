// Package answer encodes a response once for the many calls that it is the answer to.
//
// It guards this invariant: what is sent for an [Answer] is the encoding of its message.
// It knows nothing of tokens.
package answer

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Answer is a message that is encoded already. What stands between handler and wire may
// read it as the message that it is. It is immutable and safe for concurrent use; nobody
// may change the message any more.
type Answer struct {
	proto.Message
	wire mem.BufferSlice
}

// Of encodes m. A message that cannot be encoded is refused when it is sent.
func Of(m proto.Message) *Answer {
	a := &Answer{Message: m}
	if wire, err := proto.Marshal(m); err == nil {
		a.wire = mem.BufferSlice{mem.SliceBuffer(wire)}
	}
	return a
}

// Codec is a codec that encodes all but [Answer] as another one does, which is safe for
// concurrent use if that is. A server takes it with [google.golang.org/grpc.ForceServerCodecV2].
type Codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	a, ok := v.(*Answer)
	switch {
	case !ok:
		return c.CodecV2.Marshal(v)
	case a.wire == nil:
		return c.CodecV2.Marshal(a.Message)
	default:
		return a.wire, nil // gRPC neither changes nor frees what is no buffer of a pool
	}
}
