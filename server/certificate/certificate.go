// Package certificate holds the certificate of a listener for others than callers, such
// as that of public keys, and reads it again when its files change. Callers' listeners
// have package identity.
package certificate

import (
	"crypto/tls"
	"os"
	"sync"
	"time"
)

// lookInterval is how often the files are looked at, at most.
const lookInterval = time.Second

// Files is a pair of files, read again when one of them changes. What cannot be read, as
// a certificate whose key is not written yet, leaves the last good one in force. Safe for
// concurrent use; make one with [Open].
type Files struct {
	certificateFile, keyFile string

	mu     sync.Mutex // guards the rest
	looked time.Time
	seen   [2]os.FileInfo
	pair   *tls.Certificate
}

// Open reads the certificate chain and its key, both PEM. Its error is about the files.
func Open(certificateFile, keyFile string) (*Files, error) {
	c := &Files{certificateFile: certificateFile, keyFile: keyFile}
	_, err := c.Get(nil)
	return c, err
}

// Get is a tls.Config.GetCertificate.
func (c *Files) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair != nil && time.Since(c.looked) < lookInterval {
		return c.pair, nil
	}
	c.looked = time.Now()
	var now [2]os.FileInfo
	changed := c.pair == nil
	for i, path := range []string{c.certificateFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return c.lastLocked(err)
		}
		before := c.seen[i]
		now[i] = info
		changed = changed || before == nil || !os.SameFile(info, before) || !info.ModTime().Equal(before.ModTime()) || info.Size() != before.Size()
	}
	if !changed {
		return c.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(c.certificateFile, c.keyFile)
	if err != nil {
		return c.lastLocked(err)
	}
	c.pair, c.seen = &pair, now
	return c.pair, nil
}

func (c *Files) lastLocked(err error) (*tls.Certificate, error) {
	if c.pair == nil {
		return nil, err
	}
	return c.pair, nil
}
