// Command rotatorexample is an example of a RotatorService that a team writes for its
// own provider: complete, with mutual TLS, and small enough to begin with. The README
// says how to run it; its test runs the suite that every such service must pass.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	rotatorv1 "github.com/tokenbroker/tokenbroker/proto/tokenbroker/rotator/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "rotatorexample:", err)
		os.Exit(1)
	}
}

// settings are the flags. Secrets stand in files.
type settings struct {
	listen, certificate, key, clientCA, broker string
	provider, providerToken, derivationKey     string
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("rotatorexample", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.listen, "listen", "127.0.0.1:7446", "host:port to serve on")
	flags.StringVar(&s.certificate, "certificate", "", "own certificate, PEM `FILE`")
	flags.StringVar(&s.key, "key", "", "its key, PEM `FILE`")
	flags.StringVar(&s.clientCA, "client-ca", "", "authorities of the broker's certificate, PEM `FILE`")
	flags.StringVar(&s.broker, "broker", "", "the one `URI` in the broker's certificate, such as spiffe://example.org/tokenbroker")
	flags.StringVar(&s.provider, "provider", "", "`URL` of the provider")
	flags.StringVar(&s.providerToken, "provider-token", "", "`FILE` with the token of the provider's management API")
	flags.StringVar(&s.derivationKey, "derivation-key", "", "`FILE` with 32 bytes or more that secrets follow from")
	if err := flags.Parse(args); err != nil {
		return err
	}
	token, err := os.ReadFile(s.providerToken)
	if err != nil {
		return fmt.Errorf("-provider-token: %w", err)
	}
	key, err := os.ReadFile(s.derivationKey)
	if err != nil {
		return fmt.Errorf("-derivation-key: %w", err)
	}
	if len(key) < 32 || s.provider == "" || s.broker == "" {
		return errors.New("-provider, -broker and a -derivation-key of 32 bytes are needed")
	}
	files, err := s.tls()
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(files)), grpc.MaxRecvMsgSize(256<<10), grpc.UnaryInterceptor(onlyFor(s.broker)))
	rotatorv1.RegisterRotatorServiceServer(server, &rotator{management: newManagement(s.provider, string(bytes.TrimSpace(token))), key: key})
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "serving on", listener.Addr())
	stop := context.AfterFunc(ctx, server.GracefulStop)
	defer stop()
	return server.Serve(listener)
}

func (s settings) tls() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(s.certificate, s.key)
	if err != nil {
		return nil, fmt.Errorf("-certificate and -key: %w", err)
	}
	authorities, err := os.ReadFile(s.clientCA)
	if err != nil {
		return nil, fmt.Errorf("-client-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("-client-ca: no certificate in %s", s.clientCA)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}

// onlyFor lets in whose verified certificate has the URI: others of the same authority
// are not the broker. What they are told means to the broker that nothing was done.
func onlyFor(broker string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		p, _ := peer.FromContext(ctx)
		info, ok := p.AuthInfo.(credentials.TLSInfo)
		if !ok || len(info.State.VerifiedChains) == 0 || !slices.ContainsFunc(certificateURIs(info), func(uri string) bool { return uri == broker }) {
			return nil, status.Error(codes.PermissionDenied, "this peer is not the broker")
		}
		return next(ctx, request)
	}
}

func certificateURIs(info credentials.TLSInfo) (uris []string) {
	for _, uri := range info.State.PeerCertificates[0].URIs {
		uris = append(uris, uri.String())
	}
	return uris
}
