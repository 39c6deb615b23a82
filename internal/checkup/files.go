package checkup

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// soon is when the end of a certificate is worth a look: a third of its life, at most
// thirty days.
func soon(c *x509.Certificate) time.Duration {
	return min(c.NotAfter.Sub(c.NotBefore)/3, 30*24*time.Hour)
}

// day is how dates are written.
const day = "2006-01-02 15:04 UTC"

// Dates says whether a certificate is valid at a time.
func Dates(c *x509.Certificate, now time.Time) (Outcome, string) {
	until := c.NotAfter.UTC().Format(day)
	switch {
	case now.Before(c.NotBefore):
		return Bad, "valid from " + c.NotBefore.UTC().Format(day) + " only; is the clock right?"
	case !now.Before(c.NotAfter):
		return Bad, "expired at " + until
	case c.NotAfter.Sub(now) < soon(c):
		return Doubtful, fmt.Sprintf("valid until %s, which is in %s", until, about(c.NotAfter.Sub(now)))
	}
	return Good, "valid until " + until
}

func about(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// Names lists what a certificate says who its holder is.
func Names(c *x509.Certificate) []string {
	var names []string
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for _, n := range c.DNSNames {
		names = append(names, "dns:"+n)
	}
	for _, ip := range c.IPAddresses {
		names = append(names, "ip:"+ip.String())
	}
	for _, a := range c.EmailAddresses {
		names = append(names, "email:"+a)
	}
	if len(names) == 0 {
		names = append(names, "common name "+c.Subject.CommonName)
	}
	return names
}

// Certificates returns the certificates of a PEM file, in its order.
func Certificates(path string) ([]*x509.Certificate, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		hint := ""
		if bytes.Contains(raw, []byte("PRIVATE KEY")) {
			hint = ": it holds a private key; are the two files mixed up?"
		}
		return nil, fmt.Errorf("%s holds no certificate (PEM)%s", path, hint)
	}
	return list, nil
}

// KeyPair looks at a certificate and its key: dates, names, whether they fit, and who
// else may read the key. It returns the pair, nil if it cannot be used.
func (s *Sheet) KeyPair(certificateFile, keyFile string, now time.Time) *tls.Certificate {
	const name = "certificate"
	list, err := Certificates(certificateFile)
	if err != nil {
		s.Bad(name, "name the file with the certificate in PEM", err.Error())
		return nil
	}
	outcome, dates := Dates(list[0], now)
	seen := append([]string{dates}, Names(list[0])...)
	switch outcome {
	case Good:
		s.Good(name, seen...)
	case Doubtful:
		s.Doubtful(name, "renew it before then, in "+certificateFile, seen...)
	default:
		s.Bad(name, "renew it, in "+certificateFile, seen...)
	}
	if !s.PrivateFile("key", keyFile, false) {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(certificateFile, keyFile)
	if err != nil {
		s.Bad("key fits", "name the key that belongs to the certificate; after a renewal both files must be replaced", "certificate and key do not go together: "+strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	}
	s.Good("key fits", "certificate and key go together")
	return &pair
}

// Authorities looks at a file of authorities and returns them, nil if there are none.
func (s *Sheet) Authorities(name, path string, now time.Time) []*x509.Certificate {
	list, err := Certificates(path)
	if err != nil {
		s.Bad(name, "name a file with the authority's certificate in PEM", err.Error())
		return nil
	}
	worst, seen := Good, []string{}
	for _, c := range list {
		outcome, dates := Dates(c, now)
		subject := c.Subject.String()
		if !c.IsCA {
			outcome, dates = Doubtful, "is not marked as an authority"
		}
		seen = append(seen, subject+": "+dates)
		if slices.Index(severity, outcome) > slices.Index(severity, worst) {
			worst = outcome
		}
	}
	mend := ""
	if worst != Good {
		mend = "put the authority's present certificate into " + path
	}
	s.Add(worst, name, mend, seen...)
	return list
}

var severity = []Outcome{Good, Doubtful, Bad}

// PrivateFile looks at a file that is nobody else's to read; group says that the group may.
// It reports whether the file can be read by us.
func (s *Sheet) PrivateFile(name, path string, group bool) bool {
	file, err := os.Open(path)
	if err != nil {
		s.Bad(name, "put the file there, readable by the user that this runs as", err.Error())
		return false
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		s.Bad(name, "name a regular file", path+" is no regular file")
		return false
	}
	refused := os.FileMode(0o077)
	if group {
		refused = 0o037
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		s.Bad(name, "run `chmod 600 "+path+"`; whoever could read it has it: consider it known", fmt.Sprintf("%s has mode %04o: everybody on this machine can use it", path, mode))
	} else if mode&refused != 0 {
		s.Doubtful(name, "run `chmod 600 "+path+"` unless the group is meant", fmt.Sprintf("%s has mode %04o: its group can use it", path, mode))
	} else {
		s.Good(name, fmt.Sprintf("mode %04o", mode))
	}
	return true
}
