// Package answer encodes a response once for the many calls that it is the answer to.
//
// It guards this invariant: what is sent for an [Answer] is the encoding of its message,
// and of the time. It knows nothing of tokens.
package answer

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Form is what the answers of one method have in common. It is immutable and safe for
// concurrent use.
type Form struct {
	kind protoreflect.MessageType
	// clock is the number of the field with the time, long of the one with a long text.
	clock, long protowire.Number
}

// FormOf returns the form of messages like m. clock names their field with the time, a
// google.protobuf.Timestamp, and long a string that is most of a message. It panics if
// there are no such fields.
func FormOf(m proto.Message, clock, long protoreflect.Name) *Form {
	message := m.ProtoReflect()
	number := func(name protoreflect.Name, kind protoreflect.Kind) protowire.Number {
		field := message.Descriptor().Fields().ByName(name)
		if field == nil || field.Kind() != kind || field.IsList() {
			panic(fmt.Sprintf("answer: %s has no field %s that can be used", message.Descriptor().FullName(), name))
		}
		return field.Number()
	}
	return &Form{kind: message.Type(), clock: number(clock, protoreflect.MessageKind), long: number(long, protoreflect.StringKind)}
}

// Answer is a message that is encoded already, but for the time at which it is sent. It
// is immutable and safe for concurrent use.
type Answer struct {
	form *Form
	// front is all but the long text and the time; long is the text, which somebody else
	// may have too: it is most of what a server with many answers keeps.
	front, long buffer
	room        [roomSize]byte // of front if that fits, so that both lie together
}

// roomSize is enough for most of what is not the long text.
const roomSize = 160

// Answer encodes m, whose fields with the time and the long text are unset. It keeps no
// part of m, but it keeps text, which must not be changed any more.
func (f *Form) Answer(m proto.Message, text []byte) (*Answer, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("answer: the text is not UTF-8")
	}
	a := &Answer{form: f, long: buffer{text}}
	front, err := proto.MarshalOptions{}.MarshalAppend(a.room[:0], m)
	if err != nil {
		return nil, err
	}
	front = protowire.AppendVarint(protowire.AppendTag(front, f.long, protowire.BytesType), uint64(len(text)))
	a.front.SliceBuffer = front
	return a, nil
}

// At returns the message with the time now.
func (a *Answer) At(now time.Time) *Sent {
	s := &Sent{answer: a}
	s.tail.SliceBuffer = appendTime(s.room[:0], a.form.clock, now)
	s.wire = [3]mem.Buffer{&a.front, &a.long, &s.tail}
	return s
}

// Sent is an [Answer] at some time. It is immutable and safe for concurrent use.
type Sent struct {
	answer *Answer
	wire   [3]mem.Buffer
	tail   buffer
	room   [tailSize]byte // of tail, so that all is one object
}

// ProtoReflect implements proto.Message, so that what stands between handler and wire
// may read what is sent.
func (s *Sent) ProtoReflect() protoreflect.Message {
	m := s.answer.form.kind.New()
	wire := slices.Concat(s.answer.front.SliceBuffer, s.answer.long.SliceBuffer, s.tail.SliceBuffer)
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
