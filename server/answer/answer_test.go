package answer_test

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/answer"
)

var codec = answer.Codec{CodecV2: encoding.GetCodecV2(protocodec.Name)}

var form = answer.FormOf(&pb.GetTokenResponse{}, "server_time", "access_token")

var sentAt = time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC)

// response returns what is encoded once, and what is sent.
func response() (shared, sent *pb.GetTokenResponse) {
	shared = &pb.GetTokenResponse{AccessToken: "token", TokenType: "Bearer", Scopes: []string{"read", "write"}, SecretVersion: 3}
	sent = proto.CloneOf(shared)
	sent.ServerTime = timestamppb.New(sentAt)
	return shared, sent
}

func mustEncode(t testing.TB, m *pb.GetTokenResponse) *answer.Answer {
	t.Helper()
	short := proto.CloneOf(m)
	short.AccessToken = ""
	a, err := form.Answer(short, []byte(m.GetAccessToken()))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func decoded(t *testing.T, message any) *pb.GetTokenResponse {
	t.Helper()
	wire, err := codec.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Free()
	got := &pb.GetTokenResponse{}
	if err := codec.Unmarshal(wire, got); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestAnswerIsSentAsItsMessage(t *testing.T) {
	shared, want := response()
	a := mustEncode(t, shared)
	shared.AccessToken = "changed later"
	for _, tc := range []struct {
		name    string
		message any
	}{{"encoded", a.At(sentAt)}, {"not encoded", want}} {
		t.Run(tc.name, func(t *testing.T) {
			if got := decoded(t, tc.message); !proto.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestTimesAreSentAsTheyAre(t *testing.T) {
	shared, want := response()
	a := mustEncode(t, shared)
	for _, tc := range []struct {
		name string
		at   time.Time
	}{
		{"whole second", time.Unix(1_800_000_000, 0)},
		{"epoch", time.Unix(0, 0)},
		{"last nanosecond", time.Unix(1_800_000_000, 999_999_999)},
		{"before 1970", time.Unix(-1, 5)},
		{"year 9999", time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want.ServerTime = timestamppb.New(tc.at)
			if got := decoded(t, a.At(tc.at)); !proto.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestAnswerIsReadAsItsMessage checks that what stands between handler and wire sees
// the message.
func TestAnswerIsReadAsItsMessage(t *testing.T) {
	shared, want := response()
	var sent any = mustEncode(t, shared).At(sentAt)
	message, ok := sent.(proto.Message)
	if !ok {
		t.Fatal("it is no message")
	}
	if got := message.ProtoReflect().Interface(); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestSendingLeavesAnAnswerAsItIs has many callers read and free one answer, as gRPC does.
func TestSendingLeavesAnAnswerAsItIs(t *testing.T) {
	shared, _ := response()
	a := mustEncode(t, shared)
	var running sync.WaitGroup
	for i := range 16 {
		running.Go(func() {
			_, want := response()
			at := sentAt.Add(time.Duration(i) * time.Millisecond)
			want.ServerTime = timestamppb.New(at)
			wire, err := codec.Marshal(a.At(at))
			if err != nil {
				t.Error(err)
				return
			}
			reader := wire.Reader()
			text, err := io.ReadAll(reader)
			got := &pb.GetTokenResponse{}
			if err := errors.Join(err, proto.Unmarshal(text, got), reader.Close()); err != nil || !proto.Equal(got, want) {
				t.Errorf("got %v, error %v; want %v", got, err, want)
			}
			wire.Free()
		})
	}
	running.Wait()
}

func TestUnsoundMessageIsRefused(t *testing.T) {
	if _, err := form.Answer(&pb.GetTokenResponse{TokenType: "\xff"}, nil); err == nil {
		t.Error("a string that is not UTF-8 was encoded")
	}
	if _, err := form.Answer(&pb.GetTokenResponse{}, []byte{0xff}); err == nil {
		t.Error("a long text that is not UTF-8 was encoded")
	}
}

// TestSizes has messages that fit beside their answer, and longer ones.
func TestSizes(t *testing.T) {
	for size := range 300 {
		want := &pb.GetTokenResponse{AccessToken: strings.Repeat("a", 7*size), TokenType: strings.Repeat("t", size), ServerTime: timestamppb.New(sentAt)}
		shared := proto.CloneOf(want)
		shared.ServerTime = nil
		if got := decoded(t, mustEncode(t, shared).At(sentAt)); !proto.Equal(got, want) {
			t.Fatalf("size %d: got %v, want %v", size, got, want)
		}
	}
}

// TestFormsNeedTheirFields: a name that is none is seen when the program starts.
func TestFormsNeedTheirFields(t *testing.T) {
	for _, names := range [][2]protoreflect.Name{{"server_tim", "access_token"}, {"server_time", "secret_version"}, {"token_id", "access_token"}, {"server_time", "scopes"}} {
		t.Run(string(names[0]+" "+names[1]), func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("the form was made")
				}
			}()
			answer.FormOf(&pb.GetTokenResponse{}, names[0], names[1])
		})
	}
}

func BenchmarkMarshal(b *testing.B) {
	shared, _ := response()
	a := mustEncode(b, shared)
	for _, bc := range []struct {
		name    string
		message func() any
	}{{"encoded", func() any { return a.At(sentAt) }}, {"not encoded", func() any { _, sent := response(); return sent }}} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				wire, err := codec.Marshal(bc.message())
				if err != nil {
					b.Fatal(err)
				}
				wire.Free()
			}
		})
	}
}
