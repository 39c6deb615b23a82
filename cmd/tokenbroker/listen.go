package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

// listenConfig says where the API is served, and how callers are identified there.
type listenConfig struct {
	// Address is host:port; 127.0.0.1:7443 by default, and nothing over TCP if it is "".
	Address string `yaml:"address"`
	// CertificateFile, KeyFile and ClientCAFile are PEM files, and CRLFiles revocation
	// lists. They are read again when they change.
	CertificateFile string   `yaml:"certificate_file"`
	KeyFile         string   `yaml:"key_file"`
	ClientCAFile    string   `yaml:"client_ca_file"`
	CRLFiles        []string `yaml:"crl_files"`
	// TrustBundles take the place of ClientCAFile and CRLFiles.
	TrustBundles []identity.TrustBundle `yaml:"trust_bundles"`
	// CRLExpired is refuse or accept; refuse by default.
	CRLExpired identity.StaleLists `yaml:"crl_expired"`
	// CommonNames makes identities of the common names of certificates without any
	// subject alternative name.
	CommonNames bool `yaml:"common_names"`
	// InsecurePlaintext serves without TLS, on a loopback address only.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// UNIXSocket serves users of this machine, by their numbers.
	UNIXSocket unixSocketConfig `yaml:"unix_socket"`
}

// unixSocketConfig is a socket in the file system.
type unixSocketConfig struct {
	// Path of the socket; none if it is "".
	Path string `yaml:"path"`
	// Mode in octal; 0600 by default: only the server's own user may connect.
	Mode string `yaml:"mode"`
}

// mode returns Mode parsed.
func (u unixSocketConfig) mode() (fs.FileMode, error) {
	if u.Mode == "" {
		return 0o600, nil
	}
	mode, err := strconv.ParseUint(u.Mode, 8, 32)
	if err != nil || mode > 0o777 || mode&0o600 != 0o600 {
		return 0, fmt.Errorf("is %q; it must be octal and let the owner read and write, such as \"0600\"", u.Mode)
	}
	return fs.FileMode(mode), nil
}

// tls returns what a TLS listener is made of; nil if there is none.
func (l *listenConfig) tls() *server.TLSFiles {
	if l.InsecurePlaintext || l.Address == "" {
		return nil
	}
	return l.files()
}

func (l *listenConfig) files() *server.TLSFiles {
	return &server.TLSFiles{
		CertificateFile: l.CertificateFile, KeyFile: l.KeyFile, ClientCAFile: l.ClientCAFile, CRLFiles: l.CRLFiles,
		TrustBundles: l.TrustBundles, CRLExpired: l.CRLExpired, CommonNames: l.CommonNames,
	}
}

func (l *listenConfig) validate(add func(key, format string, args ...any)) {
	if _, err := l.UNIXSocket.mode(); err != nil {
		add("listen.unix_socket.mode", "%v", err)
	}
	if l.UNIXSocket.Path == "" && l.UNIXSocket.Mode != "" {
		add("listen.unix_socket.path", "is required with mode")
	}
	host, _, err := net.SplitHostPort(l.Address)
	switch {
	case l.Address == "" && l.UNIXSocket.Path == "":
		add("listen.address", "is empty, and there is no listen.unix_socket: there is nothing to listen on")
		return
	case l.Address == "":
		if l.InsecurePlaintext || l.secured() {
			add("listen.address", "is empty: what says how to serve TCP has no effect; remove it")
		}
		return
	case err != nil:
		add("listen.address", "is %q; it must be host:port", l.Address)
	}
	if l.InsecurePlaintext {
		if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() {
			add("listen.insecure_plaintext", "plaintext is served on loopback only, and %s is not", l.Address)
		}
		if l.secured() {
			add("listen.insecure_plaintext", "cannot be combined with certificate files; remove one or the other")
		}
		return
	}
	l.files().Check(func(key, format string, args ...any) { add("listen."+key, format, args...) })
	files := l.files().Files()
	for _, key := range slices.Sorted(maps.Keys(files)) {
		mustRead(add, "listen."+key, files[key])
	}
}

// secured reports whether anything is said that is about TLS.
func (l *listenConfig) secured() bool {
	return l.CertificateFile+l.KeyFile+l.ClientCAFile+string(l.CRLExpired) != "" || len(l.CRLFiles)+len(l.TrustBundles) > 0 || l.CommonNames
}

// presents tells add if no peer can have an identity that is listed.
func (l *listenConfig) presents(listed string, add func(format string, args ...any)) {
	switch source := access.SourceOf(listed); {
	case source == access.FromPlaintext && (!l.InsecurePlaintext || l.Address == ""):
		add("%s needs listen.insecure_plaintext", listed)
	case source == access.FromUNIX && l.UNIXSocket.Path == "":
		add("%s needs listen.unix_socket", listed)
	case source == access.FromCommonName && (!l.CommonNames || l.tls() == nil):
		add("%s needs listen.common_names", listed)
	}
}

// listen opens what the configuration names; on an error nothing is left open.
func (l *listenConfig) listen() (_ []net.Listener, err error) {
	var listeners []net.Listener
	defer func() {
		if err != nil {
			for _, listener := range listeners {
				err = errors.Join(err, listener.Close())
			}
		}
	}()
	if l.Address != "" {
		listener, err := net.Listen("tcp", l.Address)
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, listener)
	}
	if l.UNIXSocket.Path != "" {
		mode, err := l.UNIXSocket.mode()
		if err != nil {
			return listeners, err
		}
		listener, err := identity.ListenUnix(l.UNIXSocket.Path, mode)
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}
