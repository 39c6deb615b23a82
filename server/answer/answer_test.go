package answer_test

import (
	"bytes"
	"sync"
	"testing"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/answer"
)

var codec = answer.Codec{CodecV2: encoding.GetCodecV2(protocodec.Name)}

func response() *pb.GetTokenResponse {
	return &pb.GetTokenResponse{AccessToken: "token", TokenType: "Bearer", Scopes: []string{"read", "write"}, SecretVersion: 3}
}

func TestAnswerIsSentAsItsMessage(t *testing.T) {
	a := answer.Of(response())
	for _, tc := range []struct {
		name    string
		message any
	}{{"encoded", a}, {"not encoded", response()}} {
		t.Run(tc.name, func(t *testing.T) {
			wire, err := codec.Marshal(tc.message)
			if err != nil {
				t.Fatal(err)
			}
			defer wire.Free()
			got := &pb.GetTokenResponse{}
			if err := codec.Unmarshal(wire, got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, response()) {
				t.Errorf("got %v, want %v", got, response())
			}
		})
	}
}

// TestAnswerIsReadAsItsMessage checks that what stands between handler and wire sees
// the message.
func TestAnswerIsReadAsItsMessage(t *testing.T) {
	var sent any = answer.Of(response())
	message, ok := sent.(proto.Message)
	if !ok {
		t.Fatal("it is no message")
	}
	if got, want := message.ProtoReflect().Interface(), response(); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestSendingLeavesAnAnswerAsItIs has many callers read and free one answer, as gRPC does.
func TestSendingLeavesAnAnswerAsItIs(t *testing.T) {
	a := answer.Of(response())
	want, err := proto.Marshal(response())
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			wire, err := codec.Marshal(a)
			if err != nil {
				t.Error(err)
				return
			}
			reader := wire.Reader()
			got := make([]byte, reader.Remaining())
			if _, err := reader.Read(got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %x, error %v; want %x", got, err, want)
			}
			if err := reader.Close(); err != nil {
				t.Error(err)
			}
			wire.Free()
		})
	}
	running.Wait()
}

func TestUnsoundMessageIsRefused(t *testing.T) {
	if _, err := codec.Marshal(answer.Of(&pb.GetTokenResponse{AccessToken: "\xff"})); err == nil {
		t.Error("a string that is not UTF-8 was sent")
	}
}

func BenchmarkMarshal(b *testing.B) {
	for _, bc := range []struct {
		name    string
		message any
	}{{"encoded", answer.Of(response())}, {"not encoded", response()}} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				wire, err := codec.Marshal(bc.message)
				if err != nil {
					b.Fatal(err)
				}
				wire.Free()
			}
		})
	}
}
