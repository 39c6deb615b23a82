package vault_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/harness"
	"github.com/tokenbroker/tokenbroker/vault"
)

// valid returns a configuration without problems; it is never connected to.
func valid() vault.Config {
	return vault.Config{Address: "https://vault.example.com:8200", TokenFile: "/run/token"}
}

func TestConfigValidate(t *testing.T) {
	appRole := vault.AppRole{RoleIDFile: "/run/role", SecretIDFile: "/run/secret"}
	tests := []struct {
		name   string
		change func(c *vault.Config)
		want   []string // parts of the error; none: valid
	}{
		{"token file", func(*vault.Config) {}, nil},
		{"approle", func(c *vault.Config) { c.TokenFile, c.AppRole = "", appRole }, nil},
		{"everything", func(c *vault.Config) {
			c.Namespace, c.Mount, c.Prefix, c.Timeout = "team/a/", "team/kv", "prod/eu.1", time.Minute
			c.CAFile, c.ClientCertFile, c.ClientKeyFile = "ca", "cert", "key"
		}, nil},
		{"http to loopback v4", func(c *vault.Config) { c.Address = "http://127.0.0.1:8200" }, nil},
		{"http to loopback v6", func(c *vault.Config) { c.Address = "http://[::1]:8200" }, nil},
		{"http to localhost", func(c *vault.Config) { c.Address = "http://localhost:8200" }, nil},
		{"http to a host", func(c *vault.Config) { c.Address = "http://vault:8200" }, []string{"address: must be an https URL"}},
		{"http to an address", func(c *vault.Config) { c.Address = "http://10.0.0.1:8200" }, []string{"only loopback is allowed"}},
		{"http to what begins like loopback", func(c *vault.Config) { c.Address = "http://127.0.0.1.example.com" }, []string{"only loopback is allowed"}},
		{"no address", func(c *vault.Config) { c.Address = "" }, []string{"address: is required"}},
		{"no scheme", func(c *vault.Config) { c.Address = "vault:8200" }, []string{"address: "}},
		{"socket", func(c *vault.Config) { c.Address = "unix:///run/vault" }, []string{"address: "}},
		{"not a URL", func(c *vault.Config) { c.Address = "https://[" }, []string{"address: is not a URL"}},
		{"query", func(c *vault.Config) { c.Address = "https://vault?x=1" }, []string{"address: must not have a query"}},
		{"password", func(c *vault.Config) { c.Address = "https://u:canary@vault" }, []string{"address: must not hold a user"}},
		{"half a certificate", func(c *vault.Config) { c.ClientKeyFile = "key" }, []string{"client_cert_file: "}},
		{"mount with a wildcard", func(c *vault.Config) { c.Mount = "kv/*" }, []string{"mount: "}},
		{"mount that goes up", func(c *vault.Config) { c.Mount = "kv/../sys" }, []string{"mount: "}},
		{"mount with outer slash", func(c *vault.Config) { c.Mount = "kv/" }, []string{"mount: "}},
		{"prefix that ends a string", func(c *vault.Config) { c.Prefix = `a" {}` }, []string{"prefix: "}},
		{"prefix with a plus", func(c *vault.Config) { c.Prefix = "a/+/b" }, []string{"prefix: "}},
		{"prefix of a dot", func(c *vault.Config) { c.Prefix = "./a" }, []string{"prefix: "}},
		{"namespace with space", func(c *vault.Config) { c.Namespace = "a b" }, []string{"namespace: "}},
		{"no login", func(c *vault.Config) { c.TokenFile = "" }, []string{"token_file: set exactly one of token_file, approle, kubernetes, jwt and cert"}},
		{"two logins", func(c *vault.Config) { c.AppRole = appRole }, []string{"approle: set exactly one of", "not token_file and approle"}},
		{"all logins", func(c *vault.Config) {
			c.AppRole, c.Kubernetes, c.JWT, c.Cert = appRole, &vault.Kubernetes{Role: "r"}, &vault.JWT{Role: "r", TokenFile: "t"}, &vault.Cert{}
		}, []string{"not token_file and approle and kubernetes and jwt and cert", "cert: needs client_cert_file"}},
		{"kubernetes", func(c *vault.Config) { c.TokenFile, c.Kubernetes = "", &vault.Kubernetes{Role: "r"} }, nil},
		{"kubernetes without a role", func(c *vault.Config) { c.TokenFile, c.Kubernetes = "", &vault.Kubernetes{Mount: "a b"} }, []string{"kubernetes.role: is required", "kubernetes.mount: "}},
		{"jwt", func(c *vault.Config) { c.TokenFile, c.JWT = "", &vault.JWT{Role: "r", TokenFile: "t", Mount: "jwt/ci"} }, nil},
		{"jwt without anything", func(c *vault.Config) { c.TokenFile, c.JWT = "", &vault.JWT{Mount: "../x"} }, []string{"jwt.role: is required", "jwt.token_file: is required", "jwt.mount: "}},
		{"cert", func(c *vault.Config) {
			c.TokenFile, c.Cert, c.ClientCertFile, c.ClientKeyFile = "", &vault.Cert{}, "cert", "key"
		}, nil},
		{"cert without TLS", func(c *vault.Config) {
			c.TokenFile, c.Cert, c.Address = "", &vault.Cert{Mount: "*"}, "http://127.0.0.1:8200"
		}, []string{
			"cert: needs client_cert_file", "cert: needs an https address", "cert.mount: ",
		}},
		{"approle without ids", func(c *vault.Config) { c.TokenFile, c.AppRole.Mount = "", "approle" }, []string{"approle.role_id_file: ", "approle.secret_id_file: "}},
		{"approle mount", func(c *vault.Config) { c.TokenFile, c.AppRole = "", appRole; c.AppRole.Mount = "a b" }, []string{"approle.mount: "}},
		{"negative timeout", func(c *vault.Config) { c.Timeout = -1 }, []string{"timeout: "}},
		{"endless timeout", func(c *vault.Config) { c.Timeout = time.Hour }, []string{"timeout: "}},
		{"all at once", func(c *vault.Config) { *c = vault.Config{Mount: "*", Prefix: "*", Timeout: -1} }, []string{"address: ", "mount: ", "prefix: ", "token_file: ", "timeout: "}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := valid()
			test.change(&c)
			err := c.Validate()
			if (err == nil) != (len(test.want) == 0) {
				t.Fatalf("Validate() = %v, want problems %q", err, test.want)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Validate() = %v, want %q in it", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("Validate() shows the password: %v", err)
			}
			if _, newErr := vault.New(c); err != nil && (newErr == nil || newErr.Error() != err.Error()) {
				t.Errorf("New() = %v, want the problems that Validate found: %v", newErr, err)
			}
		})
	}
}

func TestNewReadsTheFiles(t *testing.T) {
	noPEM := filepath.Join(t.TempDir(), "no.pem")
	if err := os.WriteFile(noPEM, []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(c *vault.Config)
		want   string
	}{
		{"missing CA", func(c *vault.Config) { c.CAFile = "/nonexistent/ca" }, "ca_file: "},
		{"CA without a certificate", func(c *vault.Config) { c.CAFile = noPEM }, "holds no PEM certificate"},
		{"missing certificate", func(c *vault.Config) { c.ClientCertFile, c.ClientKeyFile = "/nonexistent/cert", noPEM }, "client_cert_file: "},
		{"certificate without a certificate", func(c *vault.Config) { c.ClientCertFile, c.ClientKeyFile = noPEM, noPEM }, "client_cert_file: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := valid()
			test.change(&c)
			_, err := vault.New(c)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("New() = %v, want %q", err, test.want)
			}
		})
	}
}

func TestPolicy(t *testing.T) {
	tests := []struct {
		golden, mount, prefix string
		places                []vault.Place
	}{
		{"testdata/policy.hcl", "tokenbroker", "", nil},
		{"testdata/policy_prefix.hcl", "team/kv", "prod/eu", nil},
		{"testdata/policy_places.hcl", "tokenbroker", "", []vault.Place{{Mount: "crm/kv", Prefix: "oauth"}, {Mount: "secrets"}}},
	}
	for _, test := range tests {
		t.Run(test.golden, func(t *testing.T) {
			got := vault.Policy(test.mount, test.prefix, test.places...)
			want, err := os.ReadFile(test.golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("Policy(%q, %q) = %s\nwant the content of the golden file", test.mount, test.prefix, got)
			}
			for _, forbidden := range []string{`"delete"`, `"patch"`, `"sudo"`, `"root"`, "undelete/"} {
				if strings.Contains(got, forbidden) {
					t.Errorf("Policy(%q, %q) grants %s", test.mount, test.prefix, forbidden)
				}
			}
		})
	}
}

// TestClientCertificate: the certificate is shown, and read anew from its files
// for each connection.
func TestClientCertificate(t *testing.T) {
	authority, err := harness.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, err := authority.Loopback("vault")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	fake := &fakeVault{records: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":{"keys":[]}}`) }}
	fake.Server = httptest.NewUnstartedServer(fake)
	fake.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	fake.Config.ErrorLog = log.New(io.Discard, "", 0)
	fake.StartTLS()
	t.Cleanup(fake.Close)

	config := fake.config(t)
	config.CAFile = authority.CAFile
	_, err = start(t, config).List(t.Context(), "")
	wantReason(t, "List without a certificate", err, broker.ReasonStoreUnreachable, "refused the TLS handshake")

	config.ClientCertFile, config.ClientKeyFile = file(t, ""), file(t, "")
	if _, err := vault.New(config); err == nil {
		t.Error("New took an empty certificate")
	}
	for _, pair := range [][2]string{{certFile, config.ClientCertFile}, {keyFile, config.ClientKeyFile}} {
		content, err := os.ReadFile(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		write(t, pair[1], string(content))
	}
	if _, err := start(t, config).List(t.Context(), ""); err != nil {
		t.Errorf("List with a certificate: %v", err)
	}
}
