package audit

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	// syslogTag is how the daemon and [Verify] know our lines.
	syslogTag = "tokenbroker"
	// syslogPriority is facility authpriv (10), severity informational (6).
	syslogPriority = "<86>"
	// syslogPatience is how long a daemon may take for a group of lines; one that took
	// longer is left alone for syslogPause, so that calls do not wait for it again and
	// again.
	syslogPatience = 200 * time.Millisecond
	syslogPause    = 10 * time.Second
	// syslogDialPatience is how long a connection may take.
	syslogDialPatience = 2 * time.Second
)

const (
	errSyslogDown  = fileError("is not connected")
	errSyslogStuck = fileError("does not read")
)

// Syslog is a [Sink] that sends each line as one message of facility authpriv.
//
// It is not log/syslog, which waits for a daemon that does not read for as long as
// that pleases.
type Syslog struct {
	network, address string        // "" for the local daemon
	host             string        // "" for the local daemon, which knows it
	message          []byte        // scratch; used by Write alone
	patience         time.Duration // syslogPatience, except in tests

	mu    sync.Mutex // guards the next two; not held while connecting
	conn  net.Conn   // nil while there is none
	pause time.Time  // no connection is made before
}

// DialSyslog connects to the local syslog, or to address over network ("udp", "tcp",
// "unixgram", "unix") if they are not empty.
func DialSyslog(network, address string) (*Syslog, error) {
	s := &Syslog{network: network, address: address, patience: syslogPatience}
	if network != "" && !isUnix(network) {
		s.host, _ = os.Hostname() // without a name the daemon takes the address
		if s.host == "" {
			s.host = "-"
		}
	}
	if err := s.connect(); err != nil {
		return nil, fmt.Errorf("audit syslog: %w", err)
	}
	return s, nil
}

func isUnix(network string) bool { return network == "unixgram" || network == "unix" }

// connect connects unless there is a connection.
func (s *Syslog) connect() error {
	s.mu.Lock()
	there, paused := s.conn != nil, time.Now().Before(s.pause)
	s.mu.Unlock()
	if there {
		return nil
	}
	if paused {
		return errSyslogStuck
	}
	var errs []error
	for _, place := range s.places() {
		conn, err := net.DialTimeout(place[0], place[1], syslogDialPatience)
		if err == nil {
			s.keep(conn)
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// keep makes conn the connection unless somebody else was faster.
func (s *Syslog) keep(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = conn.Close() // nothing was sent on it
		return
	}
	s.conn = conn
}

// places are where the daemon may listen, in the order of trying, as in log/syslog.
func (s *Syslog) places() (places [][2]string) {
	if s.network != "" {
		return [][2]string{{s.network, s.address}}
	}
	for _, network := range []string{"unixgram", "unix"} {
		for _, path := range []string{"/dev/log", "/var/run/syslog", "/var/run/log"} {
			places = append(places, [2]string{network, path})
		}
	}
	return places
}

func (s *Syslog) connection() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

// disconnect gives up conn because of err.
func (s *Syslog) disconnect(conn net.Conn, err error) {
	_ = conn.Close() // it has failed already
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == conn {
		s.conn = nil
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		s.pause = time.Now().Add(syslogPause)
	}
}

// Name implements [Sink].
func (s *Syslog) Name() string {
	if s.network == "" {
		return "syslog"
	}
	return "syslog " + s.network + " " + s.address
}

// Write implements [Sink]. A local daemon that was restarted is connected to at
// once; for one behind a network Check does it, because that takes time.
func (s *Syslog) Write(lines []byte) error {
	now := time.Now()
	for line := range bytes.Lines(lines) {
		err := s.send(now, line)
		if err != nil && (s.network == "" || isUnix(s.network)) {
			if err = s.connect(); err == nil {
				err = s.send(now, line)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Syslog) send(now time.Time, line []byte) error {
	conn := s.connection()
	if conn == nil {
		return errSyslogDown
	}
	m := append(s.message[:0], syslogPriority...)
	if s.host == "" { // RFC 3164 without a host, as local daemons expect it
		m = now.AppendFormat(m, time.Stamp)
	} else {
		m = append(now.AppendFormat(m, time.RFC3339), ' ')
		m = append(m, s.host...)
	}
	m = strconv.AppendInt(append(append(m, ' '), syslogTag+"["...), int64(os.Getpid()), 10)
	m = append(append(m, "]: "...), line...) // its newline ends the message on a stream
	s.message = m
	err := conn.SetWriteDeadline(now.Add(s.patience))
	if err == nil {
		_, err = conn.Write(m)
	}
	if err != nil {
		// Also after a timeout: part of a message may have gone out.
		s.disconnect(conn, err)
	}
	return err
}

// Sync implements [Sink]; durability is the daemon's affair.
func (s *Syslog) Sync() error { return nil }

// Check implements [Sink]: it connects again.
func (s *Syslog) Check() error { return s.connect() }

// Close implements [Sink].
func (s *Syslog) Close() error {
	if conn := s.connection(); conn != nil {
		s.disconnect(conn, nil)
	}
	return nil
}
