package identity

import (
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TLS names the files of a TLS listener, which are read again when they change, and
// says which certificates it takes.
type TLS struct {
	// CertificateFile and KeyFile are the server's own chain and key, PEM.
	CertificateFile, KeyFile string
	// ClientCAFile holds the authorities that callers' certificates must come from, PEM,
	// and CRLFiles their revocation lists: the simple form of one trust bundle.
	ClientCAFile string
	CRLFiles     []string
	// TrustBundles take the place of ClientCAFile and CRLFiles.
	TrustBundles []TrustBundle
	// CRLExpired says what becomes of certificates whose issuer's revocation list has
	// expired; "" is [RefuseStale].
	CRLExpired StaleLists
	// CommonNames makes an identity of the common name of certificates that have no
	// subject alternative name.
	CommonNames bool
	// Observe, if not nil, is told at the start and at each look whether a changed file
	// could not be taken, and whether a revocation list in force has expired. It must
	// not call the Reloader.
	Observe func(failing, stale bool) `json:"-"`
}

// TrustBundle is authorities with their revocation lists.
type TrustBundle struct {
	// Name stands in logs.
	Name string `yaml:"name"`
	// CAFile holds the authorities, PEM: anchors, and authorities below them whose
	// revocation lists are among CRLFiles.
	CAFile string `yaml:"ca_file"`
	// CRLFiles are revocation lists, PEM or DER. Certificates of an issuer
	// that has none here are not checked for revocation.
	CRLFiles []string `yaml:"crl_files"`
	// TrustDomain, if not "", is the only SPIFFE trust domain whose ids these
	// authorities may issue, and they are the only ones who may.
	TrustDomain string `yaml:"trust_domain"`
}

// StaleLists says what becomes of certificates whose issuer's revocation list was to
// be replaced by now.
type StaleLists string

// The choices.
const (
	// RefuseStale refuses them: whoever can keep a list from being replaced could else
	// keep a stolen certificate in use.
	RefuseStale StaleLists = "refuse"
	// AcceptStale goes by the list as it is.
	AcceptStale StaleLists = "accept"
)

// clientBundle is the name of the bundle that ClientCAFile makes.
const clientBundle = "client_ca_file"

// bundles returns the bundles of either form.
func (c *TLS) bundles() []TrustBundle {
	if c.ClientCAFile != "" {
		return []TrustBundle{{Name: clientBundle, CAFile: c.ClientCAFile, CRLFiles: c.CRLFiles}}
	}
	return c.TrustBundles
}

// Check tells add everything that is wrong with the settings themselves, by keys such
// as "trust_bundles[0].name"; what is in the files it does not look at.
func (c *TLS) Check(add func(key, format string, args ...any)) {
	const why = "is required, because callers are identified by mutual TLS"
	if c.CertificateFile == "" {
		add("certificate_file", why)
	}
	if c.KeyFile == "" {
		add("key_file", why)
	}
	switch {
	case c.ClientCAFile == "" && len(c.TrustBundles) == 0:
		add("client_ca_file", why)
	case c.ClientCAFile != "" && len(c.TrustBundles) > 0:
		add("trust_bundles", "cannot be combined with client_ca_file; make that a bundle too")
	case len(c.CRLFiles) > 0 && len(c.TrustBundles) > 0:
		add("crl_files", "cannot be combined with trust_bundles; each bundle has its own")
	}
	if !slices.Contains([]StaleLists{"", RefuseStale, AcceptStale}, c.CRLExpired) {
		add("crl_expired", "is %q; it must be %s or %s", c.CRLExpired, RefuseStale, AcceptStale)
	}
	names, domains := map[string]int{}, map[string]int{}
	for i, b := range c.TrustBundles {
		key := fmt.Sprintf("trust_bundles[%d].", i)
		if b.Name == "" {
			add(key+"name", "is required")
		} else if first, taken := names[b.Name]; taken {
			add(key+"name", "%q is that of trust_bundles[%d] already", b.Name, first)
		} else {
			names[b.Name] = i
		}
		if b.CAFile == "" {
			add(key+"ca_file", "is required")
		}
		if b.TrustDomain == "" {
			continue
		}
		// What is not spelled as in a SPIFFE id would never match one.
		if domain, err := spiffeid.TrustDomainFromString(b.TrustDomain); err != nil || domain.Name() != b.TrustDomain {
			add(key+"trust_domain", "is %q; it must be a SPIFFE trust domain such as example.org", b.TrustDomain)
		} else if first, taken := domains[b.TrustDomain]; taken {
			add(key+"trust_domain", "%q is that of trust_bundles[%d] already; put the authorities into one bundle", b.TrustDomain, first)
		} else {
			domains[b.TrustDomain] = i
		}
	}
}

// Files returns the key of each file that the settings name, and its path; "" for a
// file that is missing in the settings.
func (c *TLS) Files() map[string]string {
	files := map[string]string{"certificate_file": c.CertificateFile, "key_file": c.KeyFile, "client_ca_file": c.ClientCAFile}
	for i, path := range c.CRLFiles {
		files[fmt.Sprintf("crl_files[%d]", i)] = path
	}
	for i, b := range c.TrustBundles {
		files[fmt.Sprintf("trust_bundles[%d].ca_file", i)] = b.CAFile
		for j, path := range b.CRLFiles {
			files[fmt.Sprintf("trust_bundles[%d].crl_files[%d]", i, j)] = path
		}
	}
	return files
}

func (c *TLS) settings() settings {
	s := settings{commonNames: c.CommonNames, acceptStaleLists: c.CRLExpired == AcceptStale, domains: map[string]int{}}
	for i, b := range c.TrustBundles {
		if b.TrustDomain != "" {
			s.domains[b.TrustDomain] = i
		}
	}
	return s
}
