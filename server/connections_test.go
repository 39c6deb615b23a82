package server_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

// TestAPeerThatNeverReads makes many calls and takes no answer. The server holds as
// many as there are streams, others go on, and nothing is left when it is gone.
func TestAPeerThatNeverReads(t *testing.T) {
	const streams, calls = 8, 40
	w := newWorld(t, setup{socket: true, limits: server.Limits{MaxConcurrentStreams: streams}})
	w.register(t, w.peer, "acme")
	before := goleak.IgnoreCurrent()
	conn, err := w.dial(t.Context())
	must(t, err)
	request, err := proto.Marshal(&pb.GetClientRequest{Name: "clients/acme"})
	must(t, err)
	_, err = conn.Write([]byte(http2.ClientPreface))
	must(t, err)
	framer := http2.NewFramer(conn, conn)
	must(t, framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	for n := range uint32(calls) {
		writeCall(t, framer, 1+2*n, pb.ClientService_GetClient_FullMethodName, request)
	}
	// What is more than the streams is refused, once all the rest is under way.
	for refused := 0; refused < calls-streams; {
		frame, err := framer.ReadFrame()
		must(t, err)
		switch f := frame.(type) {
		case *http2.RSTStreamFrame:
			if f.ErrCode != http2.ErrCodeRefusedStream {
				t.Fatalf("stream %d was reset with %v", f.StreamID, f.ErrCode)
			}
			refused++
		case *http2.DataFrame:
			t.Fatalf("stream %d got %d bytes of data without a window", f.StreamID, f.Length)
		}
	}
	for range 3 {
		if err := lookup(t, w.peer); err != nil {
			t.Errorf("another peer: %v", err)
		}
	}
	must(t, conn.Close())
	goleak.VerifyNone(t, before)
	must(t, w.stop()) // its workers have written their last lines
	answered := 0
	for _, line := range w.logs.lines(t, "rpc") {
		if line["method"] == pb.ClientService_GetClient_FullMethodName {
			answered++
		}
	}
	if answered != streams {
		t.Errorf("%d calls of the peer were answered, want %d", answered, streams)
	}
}

// writeCall begins a call on a stream and sends its request.
func writeCall(t *testing.T, framer *http2.Framer, stream uint32, method string, request []byte) {
	t.Helper()
	var header bytes.Buffer
	encoder := hpack.NewEncoder(&header)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		must(t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	must(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: header.Bytes(), EndHeaders: true}))
	must(t, framer.WriteData(stream, true, append([]byte{0, 0, 0, 0, byte(len(request))}, request...)))
}

func TestTooManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{MaxConnections: 9, MaxConnectionsPerPeer: 2}})
		must(t, healthy(t, w.peer))
		second := w.connect(t, plaintext())
		must(t, healthy(t, second))
		third, err := w.dial(t.Context())
		must(t, err)
		if n, err := third.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read %d bytes, %v; want the connection closed", n, err)
		}
		must(t, healthy(t, w.peer))
		must(t, second.conn.Close())
		synctest.Wait()
		must(t, healthy(t, w.connect(t, plaintext())))
	})
}

// TestRevokedOnAnOpenConnection through the whole server: the next call is refused,
// the log says why and the peer does not learn it.
func TestRevokedOnAnOpenConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newAuthority(t), newAuthority(t)
		files := a.serverFiles(t)
		w := newWorld(t, setup{tls: &files, callers: []server.Caller{{Name: "operator", Identity: operatorIdentity, Role: server.RoleOperator}}})
		p, stranger, unlisted := w.connectTLS(t, a, a.caller(t, operatorIdentity)), w.connectTLS(t, a, nil), w.connectTLS(t, a, a.caller(t, "dns:x.example.org"))
		must(t, healthy(t, p))
		w.register(t, p, "acme")
		refused := func(p *peer, cause string) {
			t.Helper()
			err := lookup(t, p)
			requireProblem(t, err, codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
			if got, _ := w.logs.last(t)["cause"].(string); !strings.Contains(got, cause) {
				t.Errorf("got the cause %q, want %s", got, cause)
			}
			if strings.Contains(err.Error(), cause) {
				t.Errorf("the peer is told %v", err)
			}
		}
		refused(stranger, string(identity.CauseNoCertificate))
		refused(unlisted, "dns:x.example.org")
		writeFile(t, files.ClientCAFile, b.pem())
		time.Sleep(second + 1)
		refused(p, string(identity.CauseUnknownAuthority))
		must(t, healthy(t, p))
		writeFile(t, files.ClientCAFile, a.pem())
		must(t, w.server.ReloadIdentities())
		must(t, lookup(t, p))
	})
}

// TestUNIXAlone: a server for a sidecar, whose only peers are users.
func TestUNIXAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	me := fmt.Sprintf("unix:uid=%d", os.Getuid())
	s, err := server.New(server.Config{Broker: newBroker(t), UNIX: true, Callers: []server.Caller{{Name: "me", Identity: me, Role: server.RoleOperator}}})
	must(t, err)
	listener, err := identity.ListenUnix(path, 0o600)
	must(t, err)
	stop := serve(s, listener)
	w := &world{listener: listener}
	p := w.connect(t, plaintext())
	if err := lookup(t, p); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	must(t, p.conn.Close())
	must(t, stop())
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there (%v)", err)
	}
}
