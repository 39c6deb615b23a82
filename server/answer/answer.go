// Package answer encodes a response once for the many calls that it is the answer to.
//
// It guards this invariant: what is sent for an [Answer] is the encoding of its message,
// and of the time. It knows nothing of tokens.
package answer

import (
	"time"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Answer is a message that is encoded already, but for the time at which it is sent. It
// is immutable and safe for concurrent use.
type Answer struct {
	wire buffer
	kind protoreflect.MessageType
	// clock is the number of the field that holds the time.
	clock protowire.Number
}

// Of encodes m, whose field of the number clock is unset and a google.protobuf.Timestamp.
// It keeps no part of m.
func Of(m proto.Message, clock protowire.Number) (*Answer, error) {
	wire, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &Answer{wire: buffer{wire}, kind: m.ProtoReflect().Type(), clock: clock}, nil
}

// At returns the message with the time now.
func (a *Answer) At(now time.Time) *Sent {
	s := &Sent{answer: a}
	s.tail.SliceBuffer = appendTime(s.room[:0], a.clock, now)
	s.wire = [2]mem.Buffer{&a.wire, &s.tail}
	return s
}

// Sent is an [Answer] at some time. It is immutable and safe for concurrent use.
type Sent struct {
	answer *Answer
	wire   [2]mem.Buffer
	tail   buffer
	room   [tailSize]byte // of tail, so that all is one object
}

// ProtoReflect implements proto.Message, so that what stands between handler and wire
// may read what is sent.
func (s *Sent) ProtoReflect() protoreflect.Message {
	m := s.answer.kind.New()
	wire := append(append([]byte(nil), s.answer.wire.SliceBuffer...), s.tail.SliceBuffer...)
	// What was encoded here can be decoded.
	_ = proto.Unmarshal(wire, m.Interface())
	return m
}

// buffer is a SliceBuffer that needs no object of its own.
type buffer struct{ mem.SliceBuffer }

// tailSize is the most that appendTime appends: two tags of a field and its length, and
// two tags and numbers.
const tailSize = 8 + 2*(1+10)

// appendTime appends a field with a google.protobuf.Timestamp. Encoded messages that
// follow each other are one message (Protocol Buffers, Encoding, "Last One Wins").
func appendTime(wire []byte, field protowire.Number, t time.Time) []byte {
	const seconds, nanos = 1, 2
	s, n := uint64(t.Unix()), uint64(t.Nanosecond())
	size := protowire.SizeTag(seconds) + protowire.SizeVarint(s) + protowire.SizeTag(nanos) + protowire.SizeVarint(n)
	wire = protowire.AppendVarint(protowire.AppendTag(wire, field, protowire.BytesType), uint64(size))
	wire = protowire.AppendVarint(protowire.AppendTag(wire, seconds, protowire.VarintType), s)
	return protowire.AppendVarint(protowire.AppendTag(wire, nanos, protowire.VarintType), n)
}

// Codec is a codec that encodes all but [Sent] as another one does, which is safe for
// concurrent use if that is. A server takes it with [google.golang.org/grpc.ForceServerCodecV2].
type Codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if s, ok := v.(*Sent); ok {
		return s.wire[:], nil // gRPC neither changes nor frees what is no buffer of a pool
	}
	return c.CodecV2.Marshal(v)
}
