package identity

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h, which package syscall lacks.
const tcpUserTimeout = 18

// setUserTimeout ends a TCP connection whose peer acknowledges nothing, or keeps its
// window shut, for that long (RFC 5482; tcp(7)).
func setUserTimeout(conn net.Conn, timeout time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return errNotTCP
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var optionErr error
	err = raw.Control(func(fd uintptr) {
		optionErr = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(timeout.Milliseconds()))
	})
	if err == nil {
		err = optionErr
	}
	return err
}

// noUser is what stands for a user that the kernel cannot name.
const noUser = 1<<32 - 1

// peerUID returns the user that connected, as the kernel noted it then (unix(7),
// SO_PEERCRED). It is the user in this process's user namespace.
func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *syscall.Ucred
	var optionErr error
	err = raw.Control(func(fd uintptr) {
		credentials, optionErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err == nil {
		err = optionErr
	}
	if err != nil {
		return 0, fmt.Errorf("credentials of the peer: %w", err)
	}
	if credentials.Uid == noUser {
		return 0, errors.New("credentials of the peer: the kernel does not name its user")
	}
	return credentials.Uid, nil
}
