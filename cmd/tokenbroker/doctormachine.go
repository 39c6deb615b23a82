package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// audit looks at the key and the sinks of the audit log. It makes nothing.
func (d *doctor) audit(cfg auditConfig) {
	if cfg.InsecureOff {
		d.Doubtful("audit", "configure a sink", "insecure_off: nobody can tell afterwards who got what")
		return
	}
	if _, err := os.Stat(cfg.KeyFile); errors.Is(err, os.ErrNotExist) {
		d.writable("audit.key_file", cfg.KeyFile)
	} else if d.PrivateFile("audit.key_file", cfg.KeyFile, false) {
		if _, err := audit.LoadKey(cfg.KeyFile); err != nil {
			d.Bad("audit.key_file", "put the key back; without it the files cannot be proven", err.Error())
		}
	}
	if cfg.File.Path != "" {
		d.writable("audit.file.path", cfg.File.Path)
	}
	if cfg.Syslog == "" {
		return
	}
	network, address, _ := syslogAddress(cfg.Syslog) // validated with the configuration
	sink, err := audit.DialSyslog(network, address)
	if err != nil {
		d.Bad("audit.syslog", "start the daemon, or correct the address: calls are refused that cannot be recorded", err.Error())
		return
	}
	_ = sink.Close()
	d.Good("audit.syslog", cfg.Syslog+" takes the connection")
}

// writable says whether a file can be appended to, or made.
func (d *doctor) writable(name, path string) {
	const mend = "let the user that this runs as write there: calls are refused that cannot be recorded"
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		folder := filepath.Dir(path)
		if err := unix.Access(folder, unix.W_OK|unix.X_OK); err != nil {
			d.Bad(name, mend, fmt.Sprintf("%s is not there, and cannot be made in %s: %v", path, folder, err))
			return
		}
		d.Good(name, path+" will be made")
	case err != nil:
		d.Bad(name, mend, err.Error())
	case !info.Mode().IsRegular():
		d.Bad(name, "name a regular file", path+" is no regular file")
	case unix.Access(path, unix.W_OK) != nil:
		d.Bad(name, mend, path+" cannot be written")
	default:
		d.Good(name, path+" can be written")
	}
}

// ports says whether the addresses are free, or taken by the server itself.
func (d *doctor) ports(ctx context.Context, cfg *config) {
	running := false
	if cfg.Listen.Address != "" {
		running = d.port(ctx, "listen.address", cfg.Listen.Address, func() (string, error) { return d.itself(ctx, cfg) })
	}
	beside := func() (string, error) {
		if running {
			return "in use, as by the running server", nil
		}
		return "", errors.New("in use, and the server does not run")
	}
	if address := cfg.Admin.address(); address != "" {
		who := beside
		if cfg.Admin.Address == "" && !running {
			who = func() (string, error) {
				return "in use; the server does without this default where it is not free", nil
			}
		}
		d.port(ctx, "admin.address", address, who)
	}
	if cfg.JWKS.Address != "" {
		d.port(ctx, "jwks.address", cfg.JWKS.Address, beside)
	}
	if path := cfg.Listen.UNIXSocket.Path; path != "" && !running {
		d.writableFolder("listen.unix_socket.path", path)
	}
}

// port tries to listen; who says who else does. It reports whether it is the server.
func (d *doctor) port(ctx context.Context, name, address string, who func() (string, error)) bool {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err == nil {
		_ = listener.Close()
		d.Good(name, address+" is free")
		return false
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		d.Bad(name, "the address must be one of this machine's, and one that this user may listen on", err.Error())
		return false
	}
	by, err := who()
	if err != nil {
		d.Bad(name, "stop what listens there, or configure another address", fmt.Sprintf("%s: %v", address, err))
		return false
	}
	d.Good(name, address+": "+by)
	return true
}

// itself asks what listens on the API's address whether it is the server that the
// configuration describes.
func (d *doctor) itself(ctx context.Context, cfg *config) (string, error) {
	var said strings.Builder
	health := healthCommand{Timeout: 3 * time.Second}
	err := health.ask(ctx, &process{stdout: &said, stderr: io.Discard}, cfg)
	if err != nil && said.Len() == 0 {
		return "", fmt.Errorf("in use, and not by the server that the configuration describes: %w", err)
	}
	return "the server itself, which says " + strings.TrimSpace(said.String()), nil
}

// writableFolder says whether a socket can be made.
func (d *doctor) writableFolder(name, path string) {
	if folder := filepath.Dir(path); unix.Access(folder, unix.W_OK|unix.X_OK) != nil {
		d.Bad(name, "let the user that this runs as write there", folder+" cannot be written")
		return
	}
	d.Good(name, path+" can be made")
}
