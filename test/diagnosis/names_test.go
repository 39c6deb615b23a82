package diagnosis_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers DNS queries over UDP on loopback: with the addresses that tests gave
// a name, with a failure of its own for names below "broken.test", and else that there is
// no such name. It is safe for concurrent use.
type nameServer struct {
	conn net.PacketConn
	done chan struct{}

	mu        sync.Mutex
	addresses map[string][]netip.Addr // name without final dot → addresses; guarded by mu
}

func startNameServer() (*nameServer, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the name server: %w", err)
	}
	s := &nameServer{conn: conn, done: make(chan struct{}), addresses: map[string][]netip.Addr{}}
	go s.serve()
	return s, nil
}

func (s *nameServer) close() {
	_ = s.conn.Close()
	<-s.done
}

// resolver returns a resolver that asks s alone.
func (s *nameServer) resolver() *net.Resolver {
	address := s.conn.LocalAddr().String()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", address)
	}}
}

// set gives name these addresses.
func (s *nameServer) set(name string, addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range addresses {
		s.addresses[name] = append(s.addresses[name], netip.MustParseAddr(a))
	}
}

func (s *nameServer) serve() {
	defer close(s.done)
	packet := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(packet)
		if err != nil {
			return // closed
		}
		if answer, err := s.answer(packet[:n]); err == nil {
			_, _ = s.conn.WriteTo(answer, from) // who asked asks again
		}
	}
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var asked dnsmessage.Message
	if err := asked.Unpack(query); err != nil || len(asked.Questions) != 1 {
		return nil, fmt.Errorf("not one question: %w", err)
	}
	question := asked.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name.String(), "."))
	answer := dnsmessage.Message{Questions: asked.Questions}
	answer.Header = dnsmessage.Header{ID: asked.ID, Response: true, RecursionDesired: true, RecursionAvailable: true}
	s.mu.Lock()
	addresses, known := s.addresses[name]
	s.mu.Unlock()
	switch {
	case strings.HasSuffix(name, "broken.test"):
		answer.RCode = dnsmessage.RCodeServerFailure
	case !known:
		answer.RCode = dnsmessage.RCodeNameError
	}
	header := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 1}
	for _, a := range addresses {
		switch {
		case a.Is4() && question.Type == dnsmessage.TypeA:
			answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && question.Type == dnsmessage.TypeAAAA:
			answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return answer.Pack()
}
