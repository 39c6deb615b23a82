//go:build !linux

package identity

import (
	"errors"
	"io/fs"
	"net"
	"time"
)

var errNoPeerCredentials = errors.New("UNIX sockets are served on Linux only: it tells the user at the other end by SO_PEERCRED")

// ListenUnix refuses: without SO_PEERCRED nobody could be identified.
func ListenUnix(string, fs.FileMode) (net.Listener, error) { return nil, errNoPeerCredentials }

func peerUID(*net.UnixConn) (uint32, error) { return 0, errNoPeerCredentials }

// setUserTimeout does nothing: keepalive ends the connection, only later.
func setUserTimeout(net.Conn, time.Duration) error { return errNotTCP }
