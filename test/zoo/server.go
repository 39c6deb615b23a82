package zoo

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
)

// Server serves something on one address. Close ends it.
type Server struct {
	// Origin is where it listens: "https://127.0.0.1:8443".
	Origin string
	// CA is the authority of its certificate, PEM; nil without TLS.
	CA []byte

	server *http.Server
	done   chan struct{} // closed when nobody is served any more
}

// Serve serves handler on address, which must be one of loopback, with a certificate of a new authority or, if plain, without TLS.
func Serve(address string, plain bool, handler http.Handler) (*Server, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("address: %q is not one of loopback, such as 127.0.0.1:0", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Origin: "http://" + listener.Addr().String(), done: make(chan struct{}),
		server: &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 10 * time.Second},
	}
	if !plain {
		if listener, err = s.secure(listener, host); err != nil {
			return nil, err
		}
	}
	go func() {
		defer close(s.done)
		_ = s.server.Serve(listener) // it ends with Close
	}()
	return s, nil
}

// secure puts TLS over a listener, which it closes when that fails.
func (s *Server) secure(listener net.Listener, host string) (net.Listener, error) {
	authority, err := devpki.New("provider zoo")
	if err == nil {
		var certificate, key []byte
		if certificate, key, err = authority.Server(host, "localhost"); err == nil {
			var pair tls.Certificate
			if pair, err = tls.X509KeyPair(certificate, key); err == nil {
				s.Origin, s.CA = "https://"+listener.Addr().String(), authority.PEM()
				return tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}), nil
			}
		}
	}
	_ = listener.Close()
	return nil, err
}

// Close ends the server and the requests that are under way.
func (s *Server) Close() error {
	err := s.server.Close()
	<-s.done
	return err
}
