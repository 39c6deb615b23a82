package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

func TestNamesOfACertificate(t *testing.T) {
	named := func(of ...string) func(testing.TB) *x509.Certificate {
		return func(t testing.TB) *x509.Certificate { return names(t, of...) }
	}
	common := func(change func(*x509.Certificate)) func(testing.TB) *x509.Certificate {
		return func(t testing.TB) *x509.Certificate {
			template := names(t)
			change(template)
			return template
		}
	}
	as := func(name string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: name} }
	}
	commonName := asn1.ObjectIdentifier{2, 5, 4, 3}
	tests := []struct {
		name string
		made func(testing.TB) *x509.Certificate
		// want without common names, and with; "" is the same.
		want, wantCommon string
	}{
		{"SPIFFE id", named(crm), crm, ""},
		{"SPIFFE id in capitals", named("SPIFFE://example.org/crm"), crm, ""},
		{"SPIFFE id and DNS name", named(crm, "crm.example.org"), crm + " dns:crm.example.org", ""},
		{"another URI", named("https://web.example.org/id"), "https://web.example.org/id", ""},
		{"two other URIs", named("https://a.example.org/", "https://b.example.org/"), "https://a.example.org/ https://b.example.org/", ""},
		{"DNS names", named("CRM.example.org", "b.example.org"), "dns:crm.example.org dns:b.example.org", ""},
		{"two SPIFFE ids", named(crm, "spiffe://example.org/erp"), "ambiguous_identity", ""},
		{"a SPIFFE id twice", named(crm, crm), "ambiguous_identity", ""},
		{"SPIFFE id and another URI", named(crm, "https://web.example.org/id"), "ambiguous_identity", ""},
		{"another URI and SPIFFE id, with a DNS name", named("urn:x", crm, "crm.example.org"), "ambiguous_identity", ""},
		{"SPIFFE id with a port", named("spiffe://example.org:443/crm"), "invalid_identity", ""},
		{"SPIFFE id with a query", named("spiffe://example.org/crm?a=b"), "invalid_identity", ""},
		{"SPIFFE id with a fragment", named("spiffe://example.org/crm#b"), "invalid_identity", ""},
		{"SPIFFE id with a user", named("spiffe://a@example.org/crm"), "invalid_identity", ""},
		{"SPIFFE id with dots", named("spiffe://example.org/a/../crm"), "invalid_identity", ""},
		{"SPIFFE id with a percent sign", named("spiffe://example.org/%63rm"), "invalid_identity", ""},
		{"SPIFFE id in capitals within", named("spiffe://EXAMPLE.org/crm"), "invalid_identity", ""},
		{"SPIFFE id with a slash at its end", named("spiffe://example.org/crm/"), "invalid_identity", ""},
		{"SPIFFE id of a trust domain", named("spiffe://example.org"), "invalid_identity", ""},
		{"SPIFFE id that is none, with a DNS name", named("spiffe:///crm", "crm.example.org"), "invalid_identity", ""},
		{"SPIFFE id of who signs", func(t testing.TB) *x509.Certificate {
			template := names(t, crm)
			template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign
			return template
		}, "invalid_identity", ""},
		{"URI that poses as a DNS name", named("dns:crm.example.org"), "no_identity", ""},
		{"URI that poses as a common name", named("cn:crm"), "no_identity", ""},
		{"URI that poses as a user", named("unix:uid=0"), "no_identity", ""},
		{"URI that poses as a token", named("jwt://i.example.org/#s"), "no_identity", ""},
		{"URI that poses as plaintext", named("insecure-loopback://x"), "no_identity", ""},
		{"address", common(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }), "no_identity", ""},
		{"mail address", common(func(c *x509.Certificate) { c.EmailAddresses = []string{"crm@example.org"} }), "no_identity", ""},
		{"names of a kind unknown", common(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 4, 0x88, 2, 0x2a, 3}}}
		}), "no_identity", ""},
		{"common name", common(as("crm")), "no_identity", "cn:crm"},
		{"common name of several words", common(as("CRM app")), "no_identity", "cn:CRM app"},
		{"common name that poses as another", common(as("crm cn:erp")), "no_identity", "cn:crm cn:erp"},
		{"common name and a DNS name", named("crm.example.org"), "dns:crm.example.org", ""},
		{"no name", common(as("")), "no_identity", ""},
		{"common name with a line break", common(as("crm\nerp")), "no_identity", ""},
		{"common name with a space at its end", common(as("crm ")), "no_identity", ""},
		{"two common names", common(func(c *x509.Certificate) {
			c.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: commonName, Value: "crm"}, {Type: commonName, Value: "erp"}}}
		}), "no_identity", "ambiguous_identity"},
	}
	f, ca := newFiles(t), authority(t, "of callers")
	cfg := f.simple(t, []*devpki.Authority{ca})
	without := f.serve(t, cfg)
	cfg.CommonNames = true
	with := f.serve(t, cfg)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			certificate := issue(t, ca, test.made(t))
			if got := without.connect(t, certificate).who(t); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			want := test.wantCommon
			if want == "" {
				want = test.want
			}
			if got := with.connect(t, certificate).who(t); got != want {
				t.Errorf("with common names: got %q, want %q", got, want)
			}
		})
	}
}

// TestHandshakes: what must not even become a connection, and what may although it is
// nobody's.
func TestHandshakes(t *testing.T) {
	f, ca, other := newFiles(t), authority(t, "of callers"), authority(t, "of callers")
	s := f.serve(t, f.simple(t, []*devpki.Authority{ca}))
	now := time.Now()
	valid := func(from, until time.Duration) *x509.Certificate {
		template := names(t, crm)
		template.NotBefore, template.NotAfter = now.Add(from), now.Add(until)
		return template
	}
	forServers := names(t, crm)
	forServers.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	below := intermediate(t, ca, "below")
	for name, test := range map[string]struct {
		certificate *tls.Certificate
		want        string
	}{
		"sound":              {issue(t, ca, names(t, crm)), crm},
		"of an intermediate": {issue(t, below, names(t, crm), below), crm},
		"none":               {nil, "no_certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := s.connect(t, test.certificate).who(t); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	for name, test := range map[string]struct {
		certificate *tls.Certificate
		want        string
	}{
		"of another authority of that name":    {issue(t, other, names(t, crm)), "unknown certificate authority"},
		"of an intermediate that is not shown": {issue(t, below, names(t, crm)), "unknown certificate authority"},
		"expired":                              {issue(t, ca, valid(-2*time.Hour, -time.Hour)), "expired certificate"},
		"not yet valid":                        {issue(t, ca, valid(time.Hour, 2*time.Hour)), "expired certificate"},
		"for servers":                          {issue(t, ca, forServers), "bad certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := s.connect(t, test.certificate).who(t); !strings.HasPrefix(got, "handshake: ") {
				t.Errorf("got %q, want no connection", got)
			}
			// In TLS 1.3 the client learns why with its first read.
			roots := x509.NewCertPool()
			roots.AddCert(f.serving.Certificate())
			config := tlsConfig(roots, test.certificate)
			config.NextProtos = []string{"h2"}
			conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", s.address)
			must(t, err)
			defer conn.Close()
			if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	t.Run("plaintext", func(t *testing.T) {
		if got := dial(t, s.address, nil).who(t); !strings.HasPrefix(got, "handshake: ") {
			t.Errorf("got %q, want no connection", got)
		}
	})
}

// TestTrustDomains: an authority for one trust domain must not speak for another.
func TestTrustDomains(t *testing.T) {
	f := newFiles(t)
	a, b, plain := authority(t, "a"), authority(t, "b"), authority(t, "plain")
	cfg := f.settings()
	cfg.TrustBundles = []identity.TrustBundle{
		{Name: "a", CAFile: f.write(t, "a.pem", a.PEM()), TrustDomain: "a.example.org"},
		{Name: "b", CAFile: f.write(t, "b.pem", b.PEM()), TrustDomain: "b.example.org"},
		{Name: "plain", CAFile: f.write(t, "plain.pem", plain.PEM())},
	}
	s := f.serve(t, cfg)
	const inA, inB, inC, web, dns = "spiffe://a.example.org/x", "spiffe://b.example.org/x", "spiffe://c.example.org/x", "https://web.example.org/x", "x.example.org"
	tests := []struct {
		by         *devpki.Authority
		name, want string
	}{
		{a, inA, inA},
		{a, inB, "wrong_trust_domain"},
		{a, inC, "wrong_trust_domain"},
		{a, web, web},
		{a, dns, "dns:" + dns},
		{b, inA, "wrong_trust_domain"},
		{b, inB, inB},
		{plain, inA, "wrong_trust_domain"},
		{plain, inB, "wrong_trust_domain"},
		{plain, inC, inC},
		{plain, web, web},
	}
	for _, test := range tests {
		t.Run(test.by.Certificate().Subject.CommonName+" "+test.name, func(t *testing.T) {
			if got := s.connect(t, issue(t, test.by, names(t, test.name))).who(t); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	// An intermediate of another domain's authority does not help.
	below := intermediate(t, b, "a")
	if got := s.connect(t, issue(t, below, names(t, inA), below)).who(t); got != "wrong_trust_domain" {
		t.Errorf("by an intermediate: got %q, want wrong_trust_domain", got)
	}
}
