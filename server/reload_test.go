package server_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/server"
)

// reloading is a world behind TLS whose files a test changes, in a bubble: the
// server looks at its files once a second.
type reloading struct {
	*world
	first, second *authority // of callers; the server's own certificate is of first
	files         server.TLSFiles
}

func inReloadingBubble(t *testing.T, test func(t *testing.T, r *reloading)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &reloading{first: newAuthority(t), second: newAuthority(t)}
		r.files = r.first.serverFiles(t)
		r.world = newWorld(t, setup{tls: &r.files, callers: []server.Caller{{Name: "operator", Identity: operatorIdentity, Role: server.RoleOperator}}})
		test(t, r)
	})
}

// serves returns the server's certificate of a new connection.
func (r *reloading) serves(t *testing.T) *x509.Certificate {
	t.Helper()
	time.Sleep(second + 1)
	conn := r.dialTLS(t, &tls.Config{RootCAs: r.first.pool(), ServerName: serverName, NextProtos: []string{"h2"}})
	must(t, conn.HandshakeContext(t.Context()))
	return conn.ConnectionState().PeerCertificates[0]
}

// admits reports whether a new connection with a caller's certificate of a works.
func (r *reloading) admits(t *testing.T, a *authority) bool {
	t.Helper()
	time.Sleep(second + 1)
	p := r.connectTLS(t, r.first, a.caller(t, operatorIdentity))
	return lookup(t, p) == nil
}

func TestServerCertificateIsReloaded(t *testing.T) {
	inReloadingBubble(t, func(t *testing.T, r *reloading) {
		old := r.serves(t)
		renewed := r.first.writeServerCertificate(t, r.files)
		if got := r.serves(t); !got.Equal(renewed.Leaf) || got.Equal(old) {
			t.Errorf("got the certificate %v, want the renewed one %v", got.SerialNumber, renewed.Leaf.SerialNumber)
		}
		if got := len(r.logs.lines(t, "TLS files in force")); got != 1 {
			t.Errorf("got %d lines about the reload, want 1", got)
		}
	})
}

func TestClientCAIsReloaded(t *testing.T) {
	inReloadingBubble(t, func(t *testing.T, r *reloading) {
		if !r.admits(t, r.first) || r.admits(t, r.second) {
			t.Fatal("the first authority must be trusted, and only that")
		}
		writeFile(t, r.files.ClientCAFile, append(r.first.pem(), r.second.pem()...))
		if !r.admits(t, r.first) || !r.admits(t, r.second) {
			t.Error("both authorities must be trusted now")
		}
		writeFile(t, r.files.ClientCAFile, r.second.pem())
		if r.admits(t, r.first) || !r.admits(t, r.second) {
			t.Error("only the second authority must be trusted now")
		}
	})
}

// TestAnIntervalBetweenLooks: a hundred handshakes in one second look at the files once.
func TestAnIntervalBetweenLooks(t *testing.T) {
	inReloadingBubble(t, func(t *testing.T, r *reloading) {
		old := r.serves(t)
		r.first.writeServerCertificate(t, r.files)
		conn := r.dialTLS(t, &tls.Config{RootCAs: r.first.pool(), ServerName: serverName, NextProtos: []string{"h2"}})
		must(t, conn.HandshakeContext(t.Context()))
		if got := conn.ConnectionState().PeerCertificates[0]; !got.Equal(old) {
			t.Error("the files were looked at again within a second")
		}
	})
}

// TestBrokenFilesKeepTheOldOnes writes each file in a way that must not be taken;
// what was served stays, one error is logged, and whole files mend it.
func TestBrokenFilesKeepTheOldOnes(t *testing.T) {
	certificate := func(r *reloading) string { return r.files.CertificateFile }
	key := func(r *reloading) string { return r.files.KeyFile }
	bundle := func(r *reloading) string { return r.files.ClientCAFile }
	half := func(content []byte) []byte { return content[:len(content)/2] }
	tests := []struct {
		name  string
		path  func(*reloading) string
		spoil func(t *testing.T, r *reloading, whole []byte) []byte
	}{
		{"certificate empty", certificate, func(*testing.T, *reloading, []byte) []byte { return nil }},
		{"certificate half-written", certificate, func(_ *testing.T, _ *reloading, whole []byte) []byte { return half(whole) }},
		{"certificate of another key", certificate, func(t *testing.T, r *reloading, _ []byte) []byte {
			return certificatePEM(r.first.issue(t, names{dns: []string{serverName}, usage: x509.ExtKeyUsageServerAuth}).Certificate[0])
		}},
		{"key half-written", key, func(_ *testing.T, _ *reloading, whole []byte) []byte { return half(whole) }},
		{"another key", key, func(t *testing.T, _ *reloading, _ []byte) []byte { return keyPEM(t, newKey(t)) }},
		{"CA empty", bundle, func(*testing.T, *reloading, []byte) []byte { return nil }},
		{"CA is something else", bundle, func(*testing.T, *reloading, []byte) []byte { return []byte("<html>404</html>") }},
		{"CA half-written", bundle, func(_ *testing.T, _ *reloading, whole []byte) []byte { return half(whole) }},
		{"second CA half-written", bundle, func(_ *testing.T, r *reloading, _ []byte) []byte {
			return append(r.second.pem(), half(r.first.pem())...)
		}},
		{"first CA half-written", bundle, func(_ *testing.T, r *reloading, _ []byte) []byte {
			return append(append(half(r.first.pem()), '\n'), r.second.pem()...)
		}},
		{"CA with a certificate that is none", bundle, func(_ *testing.T, r *reloading, _ []byte) []byte {
			return append(r.second.pem(), certificatePEM([]byte("none"))...)
		}},
		{"CA with a key", bundle, func(t *testing.T, r *reloading, _ []byte) []byte {
			return append(r.second.pem(), keyPEM(t, newKey(t))...)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inReloadingBubble(t, func(t *testing.T, r *reloading) {
				before, path := r.serves(t), test.path(r)
				whole, err := os.ReadFile(path)
				must(t, err)
				writeFile(t, path, test.spoil(t, r, whole))
				if got := r.serves(t); !got.Equal(before) {
					t.Error("the server's certificate changed")
				}
				if !r.admits(t, r.first) || r.admits(t, r.second) {
					t.Error("who is trusted changed")
				}
				failures := r.logs.lines(t, "TLS files not taken; the last good ones stay in force")
				if len(failures) != 1 || failures[0]["level"] != "ERROR" || failures[0]["cause"] == nil {
					t.Errorf("got the log lines %v, want one error for all looks", failures)
				}
				renewed := r.first.writeServerCertificate(t, r.files)
				writeFile(t, r.files.ClientCAFile, r.second.pem())
				if got := r.serves(t); !got.Equal(renewed.Leaf) || !r.admits(t, r.second) {
					t.Error("whole files were not taken")
				}
			})
		})
	}
}

func TestMissingFilesKeepTheOldOnes(t *testing.T) {
	inReloadingBubble(t, func(t *testing.T, r *reloading) {
		before := r.serves(t)
		must(t, os.Remove(r.files.CertificateFile))
		if got := r.serves(t); !got.Equal(before) || !r.admits(t, r.first) {
			t.Error("the server changed though a file is gone")
		}
	})
}

// TestFilesWrittenWithinOneTick changes a file without a new modification time.
func TestFilesWrittenWithinOneTick(t *testing.T) {
	inReloadingBubble(t, func(t *testing.T, r *reloading) {
		r.serves(t)
		info, err := os.Stat(r.files.ClientCAFile)
		must(t, err)
		must(t, os.WriteFile(r.files.ClientCAFile, append(r.first.pem(), r.second.pem()...), 0o600))
		must(t, os.Chtimes(r.files.ClientCAFile, time.Time{}, info.ModTime()))
		if !r.admits(t, r.second) {
			t.Error("the second authority is not trusted")
		}
	})
}

// TestClientCABundleMayHoldComments: bundles of distributions name each certificate.
func TestClientCABundleMayHoldComments(t *testing.T) {
	inReloadingBubble(t, func(t *testing.T, r *reloading) {
		bundle := bytes.Join([][]byte{[]byte("# the first\n"), r.first.pem(), []byte("\n# the second\n"), r.second.pem(), []byte("# the end")}, nil)
		writeFile(t, r.files.ClientCAFile, bundle)
		if !r.admits(t, r.first) || !r.admits(t, r.second) {
			t.Error("not both authorities are trusted")
		}
	})
}

// TestNoSessionIsResumed: a resumed session would skip an authority that was
// removed since.
func TestNoSessionIsResumed(t *testing.T) {
	inReloadingBubble(t, func(t *testing.T, r *reloading) {
		config := &tls.Config{
			RootCAs: r.first.pool(), ServerName: serverName, NextProtos: []string{"h2"}, ClientSessionCache: tls.NewLRUClientSessionCache(4),
			Certificates: []tls.Certificate{*r.first.caller(t, operatorIdentity)},
		}
		for range 3 {
			conn := r.dialTLS(t, config)
			must(t, conn.HandshakeContext(t.Context()))
			if _, err := conn.Read(make([]byte, 16)); err != nil { // tickets come with the first data
				t.Fatal(err)
			}
			if conn.ConnectionState().DidResume {
				t.Error("a session was resumed")
			}
		}
	})
}
