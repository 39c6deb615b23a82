package checkup_test

import (
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/checkup"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
)

func TestDates(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	year := &x509.Certificate{NotBefore: begin, NotAfter: begin.AddDate(1, 0, 0)}
	hour := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(time.Hour)}
	tests := []struct {
		name string
		of   *x509.Certificate
		at   time.Time
		want checkup.Outcome
		text string
	}{
		{"before", year, begin.Add(-time.Second), checkup.Bad, "is the clock right?"},
		{"at its beginning", year, begin, checkup.Good, "valid until 2027-01-01"},
		{"a month to go", year, year.NotAfter.AddDate(0, 0, -29), checkup.Doubtful, "in 29 days"},
		{"a month and a day to go", year, year.NotAfter.AddDate(0, 0, -31), checkup.Good, "valid until"},
		{"one of an hour, half way", hour, begin.Add(30 * time.Minute), checkup.Good, "valid until"},
		{"one of an hour, at its end", hour, begin.Add(50 * time.Minute), checkup.Doubtful, "in 0 h"},
		{"over", year, year.NotAfter, checkup.Bad, "expired at 2027-01-01"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got, text := checkup.Dates(test.of, test.at); got != test.want || !strings.Contains(text, test.text) {
				t.Errorf("%s: %q, want %s: %q", got, text, test.want, test.text)
			}
		})
	}
}

func TestNames(t *testing.T) {
	c := &x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/crm"}}, DNSNames: []string{"crm.example"}}
	if got, want := checkup.Names(c), []string{"spiffe://example.org/crm", "dns:crm.example"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	c = &x509.Certificate{}
	c.Subject.CommonName = "crm"
	if got := checkup.Names(c); !slices.Equal(got, []string{"common name crm"}) {
		t.Errorf("%q", got)
	}
}

// TestFiles looks at certificates and keys as they should be, and are not.
func TestFiles(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	put := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, err := devpki.New("test")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := ca.Caller("spiffe://example.org/crm")
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := ca.Caller("spiffe://example.org/other")
	if err != nil {
		t.Fatal(err)
	}
	certificateFile, keyFile, caFile := put("me.pem", certificate), put("key.pem", key), put("ca.pem", ca.PEM())
	tests := []struct {
		name string
		look func(*checkup.Sheet)
		want checkup.Outcome // the worst
		text string
	}{
		{"pair", func(s *checkup.Sheet) { s.KeyPair(certificateFile, keyFile, now) }, checkup.Good, "spiffe://example.org/crm"},
		{"pair in a hundred years", func(s *checkup.Sheet) { s.KeyPair(certificateFile, keyFile, now.AddDate(100, 0, 0)) }, checkup.Bad, "expired at"},
		{"another's key", func(s *checkup.Sheet) { s.KeyPair(certificateFile, put("other.pem", otherKey), now) }, checkup.Bad, "do not go together"},
		{"mixed up", func(s *checkup.Sheet) { s.KeyPair(keyFile, certificateFile, now) }, checkup.Bad, "mixed up"},
		{"no file", func(s *checkup.Sheet) { s.KeyPair(filepath.Join(dir, "none"), keyFile, now) }, checkup.Bad, "no such file"},
		{"authority", func(s *checkup.Sheet) { s.Authorities("ca", caFile, now) }, checkup.Good, "CN=test"},
		{"no authority", func(s *checkup.Sheet) { s.Authorities("ca", certificateFile, now) }, checkup.Doubtful, "not marked as an authority"},
		{"not PEM", func(s *checkup.Sheet) { s.Authorities("ca", put("text", []byte("hello")), now) }, checkup.Bad, "holds no certificate"},
		{"torn", func(s *checkup.Sheet) {
			s.Authorities("ca", put("torn.pem", []byte("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n")), now)
		}, checkup.Bad, "torn.pem"},
		{"folder", func(s *checkup.Sheet) { s.PrivateFile("key", dir, false) }, checkup.Bad, "no regular file"},
		{"for the group", func(s *checkup.Sheet) { s.PrivateFile("key", chmod(t, put("g", nil), 0o640), false) }, checkup.Doubtful, "its group"},
		{"for a group that may", func(s *checkup.Sheet) { s.PrivateFile("key", chmod(t, put("g", nil), 0o640), true) }, checkup.Good, "mode 0640"},
		{"for all", func(s *checkup.Sheet) { s.PrivateFile("key", chmod(t, put("a", nil), 0o604), true) }, checkup.Bad, "everybody"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			told := 0
			s := &checkup.Sheet{Part: "files", Tell: func(checkup.Look) { told++ }}
			test.look(s)
			worst, text := checkup.Good, ""
			for _, l := range s.Looks() {
				if l.Outcome == checkup.Bad || l.Outcome == checkup.Doubtful && worst == checkup.Good {
					worst = l.Outcome
				}
				if (l.Outcome == checkup.Good) != (l.Mend == "") || l.Part != "files" {
					t.Errorf("%+v: what mends it, or its part, does not fit", l)
				}
				text += strings.Join(l.Seen, "\n")
			}
			if worst != test.want || !strings.Contains(text, test.text) || told != len(s.Looks()) {
				t.Errorf("%s, told %d of %d: %q; want %s with %q", worst, told, len(s.Looks()), text, test.want, test.text)
			}
			if strings.Contains(text, "PRIVATE") {
				t.Error("a key is on the sheet")
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCount(t *testing.T) {
	s := &checkup.Sheet{}
	s.Good("a", "x")
	s.Doubtful("b", "mend", "x")
	s.Bad("c", "mend", "x")
	s.Bad("d", "mend", "x")
	s.Skipped("e", "why")
	s.KernelClock()
	if s.Count(checkup.Bad) != 2 || len(s.Looks()) != 6 || s.Looks()[5].Name != "clock" || s.Looks()[5].Outcome == checkup.Bad {
		t.Errorf("%+v", s.Looks())
	}
}
