package identity_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

func TestRevocation(t *testing.T) {
	root := authority(t, "root")
	below := intermediate(t, root, "below")
	direct, indirect := issue(t, root, names(t, crm)), issue(t, below, names(t, crm), below)
	other := issue(t, root, names(t, crm))
	under := []*devpki.Authority{root}
	both := []*devpki.Authority{root, below}
	of := func(list ...*x509.Certificate) []*x509.Certificate { return list }
	ago := func(l *x509.RevocationList) {
		l.ThisUpdate, l.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	number := func(n int64) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(time.Duration(n-100) * time.Second) }
	}
	der := func(content []byte) []byte {
		block, _ := pem.Decode(content)
		return block.Bytes
	}
	tests := []struct {
		name        string
		authorities []*devpki.Authority
		lists       [][]byte
		// what is said of a certificate of the root, and of one of the intermediate.
		direct, indirect string
	}{
		{"nothing", under, [][]byte{revoke(t, root, nil)}, crm, crm},
		{"another", under, [][]byte{revoke(t, root, of(other.Leaf))}, crm, crm},
		{"the leaf", under, [][]byte{revoke(t, root, of(other.Leaf, direct.Leaf))}, "revoked", crm},
		{"the leaf, DER", under, [][]byte{der(revoke(t, root, of(direct.Leaf)))}, "revoked", crm},
		{"the intermediate", under, [][]byte{revoke(t, root, of(below.Certificate()))}, crm, "revoked"},
		{"the intermediate, which is in the bundle", both, [][]byte{revoke(t, root, of(below.Certificate()))}, crm, "revoked"},
		{"a leaf of the intermediate", both, [][]byte{revoke(t, root, nil), revoke(t, below, of(indirect.Leaf))}, crm, "revoked"},
		{"the number of another issuer", both, [][]byte{revoke(t, below, of(direct.Leaf))}, crm, crm},
		{"the newer list lifts", under, [][]byte{revoke(t, root, of(direct.Leaf), number(1)), revoke(t, root, nil, number(2))}, crm, crm},
		{"the newer list stands first", under, [][]byte{revoke(t, root, of(direct.Leaf), number(2)), revoke(t, root, nil, number(1))}, "revoked", crm},
		{"a list that has expired", under, [][]byte{revoke(t, root, nil, ago)}, "revocation_list_expired", "revocation_list_expired"},
		{"a list that has expired and revokes", under, [][]byte{revoke(t, root, of(direct.Leaf), ago)}, "revoked", "revocation_list_expired"},
		{"the intermediate's has expired", both, [][]byte{revoke(t, root, nil), revoke(t, below, nil, ago)}, crm, "revocation_list_expired"},
		{"one that has expired was replaced", under, [][]byte{revoke(t, root, of(direct.Leaf), ago), revoke(t, root, nil)}, crm, crm},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFiles(t)
			s := f.serve(t, f.simple(t, test.authorities, test.lists...))
			if got := s.connect(t, direct).who(t); got != test.direct {
				t.Errorf("of the root: got %q, want %q", got, test.direct)
			}
			if got := s.connect(t, indirect).who(t); got != test.indirect {
				t.Errorf("of the intermediate: got %q, want %q", got, test.indirect)
			}
			stale := 0
			if test.direct == "revocation_list_expired" || test.indirect == "revocation_list_expired" {
				stale = 1
			}
			must(t, s.TLS.Reload())
			if got := s.logs.count("revocation list expired"); got != stale {
				t.Errorf("got %d log lines about lists that expired, want %d", got, stale)
			}
		})
	}
}

func TestStaleListsMayBeAccepted(t *testing.T) {
	f, ca := newFiles(t), authority(t, "of callers")
	good, revoked := issue(t, ca, names(t, crm)), issue(t, ca, names(t, crm))
	cfg := f.simple(t, []*devpki.Authority{ca}, revoke(t, ca, []*x509.Certificate{revoked.Leaf}, func(l *x509.RevocationList) {
		l.ThisUpdate, l.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}))
	cfg.CRLExpired = identity.AcceptStale
	s := f.serve(t, cfg)
	if got := s.connect(t, good).who(t); got != crm {
		t.Errorf("got %q, want %q", got, crm)
	}
	if got := s.connect(t, revoked).who(t); got != "revoked" {
		t.Errorf("got %q, want revoked", got)
	}
	if got := s.logs.count("revocation list expired"); got != 1 {
		t.Errorf("got %d log lines, want 1", got)
	}
}

// TestTwoBundlesWithOneAuthority: a list counts whichever of the bundles has it.
func TestTwoBundlesWithOneAuthority(t *testing.T) {
	f, ca := newFiles(t), authority(t, "of callers")
	certificate := issue(t, ca, names(t, crm))
	cfg := f.settings()
	bundle := f.write(t, "ca.pem", ca.PEM())
	cfg.TrustBundles = []identity.TrustBundle{
		{Name: "without", CAFile: bundle},
		{Name: "with", CAFile: bundle, CRLFiles: []string{f.write(t, "crl.pem", revoke(t, ca, []*x509.Certificate{certificate.Leaf}))}},
	}
	if got := f.serve(t, cfg).connect(t, certificate).who(t); got != "revoked" {
		t.Errorf("got %q, want revoked", got)
	}
}

// TestListsThatAreRefused at a start; later the last good one stays (reload_test.go).
func TestListsThatAreRefused(t *testing.T) {
	f, ca, other, namesake := newFiles(t), authority(t, "of callers"), authority(t, "another"), authority(t, "of callers")
	leaf := issue(t, ca, names(t, crm)).Leaf
	extension := func(id asn1.ObjectIdentifier, critical bool, value []byte) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
		}
	}
	entry := func(id asn1.ObjectIdentifier, critical bool) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: []byte{5, 0}}}
		}
	}
	point, delta := asn1.ObjectIdentifier{2, 5, 29, 28}, asn1.ObjectIdentifier{2, 5, 29, 27}
	unknown := asn1.ObjectIdentifier{1, 2, 3}
	list := func(changes ...func(*x509.RevocationList)) []byte {
		return revoke(t, ca, []*x509.Certificate{leaf}, changes...)
	}
	whole := list()
	tests := []struct {
		name    string
		content []byte
		want    string // "" if it is taken
	}{
		{"whole", whole, ""},
		{"an unknown extension", list(extension(unknown, false, []byte{5, 0})), ""},
		{"a point of distribution", list(extension(point, true, []byte{0x30, 0})), ""},
		{"certificates of users only", list(extension(point, true, []byte{0x30, 3, 0x81, 1, 0xff})), ""},
		{"empty", nil, "revocation list 1"},
		{"something else", []byte("<html>404</html>"), "revocation list 1"},
		{"an authority", ca.PEM(), "holds a CERTIFICATE"},
		{"half-written", whole[:len(whole)/2], "of which 0 are whole"},
		{"second half-written", append(append([]byte{}, whole...), whole[:len(whole)/2]...), "holds 2 PEM blocks, of which 1 are whole"},
		{"of another authority", revoke(t, other, nil), "none of the bundle's authorities"},
		{"of another authority of that name", revoke(t, namesake, nil), "verification"},
		{"delta", list(extension(delta, true, []byte{2, 1, 1})), "delta list"},
		{"delta, not critical", list(extension(delta, false, []byte{2, 1, 1})), "delta list"},
		{"indirect", list(extension(point, true, []byte{0x30, 3, 0x84, 1, 0xff})), "indirect list"},
		{"attribute certificates", list(extension(point, true, []byte{0x30, 3, 0x85, 1, 0xff})), "attribute certificates"},
		{"some reasons", list(extension(point, true, []byte{0x30, 4, 0x83, 2, 1, 6})), "some reasons"},
		{"a point that cannot be read", list(extension(point, true, []byte{0x30, 9})), "cannot be read"},
		{"an unknown critical extension", list(extension(unknown, true, []byte{5, 0})), "unknown critical extension 1.2.3"},
		{"an entry of another issuer", list(entry(asn1.ObjectIdentifier{2, 5, 29, 29}, true)), "indirect"},
		{"an entry with an unknown critical extension", list(entry(unknown, true)), "unknown critical extension 1.2.3"},
		{"an entry with an unknown extension", list(entry(unknown, false)), ""},
		{"of tomorrow", list(func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)
		}), "yet to come"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := identity.NewReloader(f.simple(t, []*devpki.Authority{ca}, test.content), slog.New(slog.DiscardHandler))
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got %v, want it taken", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "crl.pem") && len(test.content) > 0):
				t.Errorf("got %v, want an error that names crl.pem and %s", err, test.want)
			}
		})
	}
}
