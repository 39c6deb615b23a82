package vault_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/test/realvault"
	"github.com/tokenbroker/tokenbroker/vault"
)

// kubernetesCorner logs in by a service account.
func kubernetesCorner(t *testing.T) (*corner, *kubeAPI) {
	t.Helper()
	c, api := ownCorner(t, realvault.InMemory()), newKubeAPI(t)
	c.auth = "kubernetes"
	c.must("POST", "sys/auth/kubernetes", map[string]any{"type": "kubernetes"})
	c.must("POST", "auth/kubernetes/config", map[string]any{
		"kubernetes_host": api.URL, "kubernetes_ca_cert": api.caPEM(), "token_reviewer_jwt": reviewerJWT, "disable_local_ca_jwt": true,
	})
	c.must("POST", "auth/kubernetes/role/"+c.role, c.roleSettings(map[string]any{
		"bound_service_account_names": "tokenbroker", "bound_service_account_namespaces": "prod", "audience": "vault",
	}))
	c.config.AppRole = vault.AppRole{}
	c.config.Kubernetes = &vault.Kubernetes{Role: c.role, TokenFile: file(t, api.serviceAccount("prod", "tokenbroker", nil))}
	return c, api
}

// claims are those of a JWT that the role accepts.
func claims() map[string]any {
	return map[string]any{"sub": "tokenbroker", "aud": "vault", "iss": "https://issuer.example"}
}

// jwtCorner logs in by a JWT.
func jwtCorner(t *testing.T) (*corner, *signer) {
	t.Helper()
	c, issuer := ownCorner(t, realvault.InMemory()), newSigner(t)
	c.auth = "jwt"
	c.must("POST", "sys/auth/jwt", map[string]any{"type": "jwt"})
	c.must("POST", "auth/jwt/config", map[string]any{"jwt_validation_pubkeys": issuer.publicKey()})
	c.must("POST", "auth/jwt/role/"+c.role, c.roleSettings(map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_subject": "tokenbroker", "bound_audiences": "vault",
	}))
	c.config.AppRole = vault.AppRole{}
	c.config.JWT = &vault.JWT{Role: c.role, TokenFile: file(t, issuer.sign(claims(), nil))}
	return c, issuer
}

// certCorner logs in by a certificate.
func certCorner(t *testing.T) (*corner, *devpki.Authority) {
	t.Helper()
	c := ownCorner(t, realvault.WithTLS(), realvault.InMemory())
	authority, err := devpki.New("callers")
	if err != nil {
		t.Fatal(err)
	}
	c.auth = "cert"
	c.must("POST", "sys/auth/cert", map[string]any{"type": "cert"})
	c.must("POST", "auth/cert/certs/"+c.role, c.roleSettings(map[string]any{
		"certificate": string(authority.PEM()), "allowed_uri_sans": "spiffe://example.org/tokenbroker",
	}))
	c.config.AppRole = vault.AppRole{}
	c.config.Cert = &vault.Cert{Role: c.role}
	c.config.ClientCertFile, c.config.ClientKeyFile = file(t, ""), file(t, "")
	c.newCertificate(authority, "spiffe://example.org/tokenbroker")
	return c, authority
}

// newCertificate replaces certificate and key.
func (c *corner) newCertificate(authority *devpki.Authority, identity string) {
	c.t.Helper()
	certificate, key, err := authority.Caller(identity)
	if err != nil {
		c.t.Fatal(err)
	}
	write(c.t, c.config.ClientCertFile, string(certificate))
	write(c.t, c.config.ClientKeyFile, string(key))
}

// roleSettings adds what is common to the roles of all methods.
func (c *corner) roleSettings(settings map[string]any) map[string]any {
	settings["token_policies"], settings["token_no_default_policy"], settings["token_ttl"] = c.role, true, "20m"
	return settings
}

// corners returns a way to make a corner for each method.
func corners() map[string]func(t *testing.T) *corner {
	return map[string]func(t *testing.T) *corner{
		"approle":    func(t *testing.T) *corner { return ownCorner(t, realvault.InMemory()) },
		"kubernetes": func(t *testing.T) *corner { c, _ := kubernetesCorner(t); return c },
		"jwt":        func(t *testing.T) *corner { c, _ := jwtCorner(t); return c },
		"cert":       func(t *testing.T) *corner { c, _ := certCorner(t); return c },
	}
}

// outcomes collects what OnLogin is told.
type outcomes struct {
	mu   sync.Mutex
	list []string // guarded by mu
}

func (o *outcomes) add(method string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		o.list = append(o.list, method+" OK")
		return
	}
	o.list = append(o.list, method+" "+string(broker.ReasonOf(err)))
}

func (o *outcomes) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.list, ", ")
}

// TestEachMethod: a login works under the printed policy; a token revoked under
// 20 callers costs one login and no call; OnLogin hears of both.
func TestEachMethod(t *testing.T) {
	for name, makeCorner := range corners() {
		t.Run(name, func(t *testing.T) {
			c := makeCorner(t)
			var heard outcomes
			c.config.OnLogin = heard.add
			store := start(t, c.config)
			mustWrite(t, store, "clients/w0", object(1), 0)
			if got := c.logins(); got != 1 {
				t.Errorf("%d logins at start, want 1", got)
			}
			if end, byItself := store.TokenExpiry(); !byItself || time.Until(end) < 15*time.Minute || time.Until(end) > 20*time.Minute {
				t.Errorf("TokenExpiry() = %v, %v; want 20 min from now, by itself", end, byItself)
			}
			c.revokeAll()
			errs := make([]error, 20)
			var wait sync.WaitGroup
			for n := range errs {
				wait.Go(func() {
					if n%2 == 0 {
						_, errs[n] = store.Read(t.Context(), "clients/w0")
						return
					}
					_, errs[n] = store.Write(t.Context(), fmt.Sprintf("clients/r%d", n), object(n), 0)
				})
			}
			wait.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Errorf("calls after the token was revoked: %v", err)
			}
			if got := c.logins(); got != 2 {
				t.Errorf("%d logins after one revoked token, want 2", got)
			}
			if got, want := heard.String(), name+" OK, "+name+" OK"; got != want {
				t.Errorf("OnLogin was told %s, want %s", got, want)
			}
		})
	}
}

// TestEachMethodWithoutItsMount has the auth method unmounted, and the KV mount
// not in the policy.
func TestEachMethodWithoutItsMount(t *testing.T) {
	for name, makeCorner := range corners() {
		t.Run(name, func(t *testing.T) {
			c := makeCorner(t)
			c.PutPolicy(c.role, vault.Policy("elsewhere", ""))
			wantAll(t, start(t, c.config), broker.ReasonStoreMountMissing, "mount tokenbroker is missing, or the policy does not grant")
			c.must("DELETE", "sys/auth/"+c.auth, nil)
			store := start(t, c.config)
			wantAll(t, store, broker.ReasonStoreLoginFailed, "auth/"+c.auth+"/login: no auth method is mounted there ("+name+".mount)")
		})
	}
}

// TestEachMethodHangs: whoever calls meanwhile gets an answer in time.
func TestEachMethodHangs(t *testing.T) {
	release := make(chan struct{})
	silent := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(release) })
	authority, err := devpki.New("callers")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := authority.Caller("spiffe://example.org/tokenbroker")
	if err != nil {
		t.Fatal(err)
	}
	credential := file(t, "canary")
	base := vault.Config{Address: silent.URL, CAFile: file(t, pemOf(silent.Certificate())), Timeout: 2 * time.Second}
	tests := map[string]func(c *vault.Config){
		"approle": func(c *vault.Config) {
			c.AppRole = vault.AppRole{RoleIDFile: credential, SecretIDFile: credential}
		},
		"kubernetes": func(c *vault.Config) { c.Kubernetes = &vault.Kubernetes{Role: "r", TokenFile: credential} },
		"jwt":        func(c *vault.Config) { c.JWT = &vault.JWT{Role: "r", TokenFile: credential} },
		"cert": func(c *vault.Config) {
			c.Cert, c.ClientCertFile, c.ClientKeyFile = &vault.Cert{}, file(t, string(certificate)), file(t, string(key))
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := base
			change(&config)
			wantAll(t, start(t, config), broker.ReasonStoreUnreachable, silent.URL+": auth/"+name+"/login: no answer in time")
		})
	}
}

// refused is a login that Vault refuses.
type refused struct {
	name   string
	change func(c *corner)
	want   []string // parts of the detail
}

func wantRefused(t *testing.T, c *corner, tests []refused) {
	t.Helper()
	sound := c.config
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.config = sound
			if sound.Kubernetes != nil {
				own := *sound.Kubernetes
				c.config.Kubernetes = &own
			}
			if sound.JWT != nil {
				own := *sound.JWT
				c.config.JWT = &own
			}
			test.change(c)
			wantAll(t, start(t, c.config), broker.ReasonStoreLoginFailed, append(test.want, "auth/"+c.auth+"/login: ")...)
		})
	}
	c.config = sound
}

func TestKubernetesRefused(t *testing.T) {
	c, api := kubernetesCorner(t)
	token := func(content string) func(c *corner) {
		return func(c *corner) { c.config.Kubernetes.TokenFile = file(t, content) }
	}
	wantRefused(t, c, []refused{
		{"role", func(c *corner) { c.config.Kubernetes.Role = "nobody" }, []string{"there is no role nobody (kubernetes.role)"}},
		{"expired", token(api.serviceAccount("prod", "tokenbroker", map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), []string{"(kubernetes.token_file) has expired"}},
		{"audience", token(api.serviceAccount("prod", "tokenbroker", map[string]any{"aud": "other"})), []string{"for another audience"}},
		{"account", token(api.serviceAccount("prod", "canary", nil)), []string{"does not name the service account"}},
		{"namespace", token(api.serviceAccount("canary", "tokenbroker", nil)), []string{"does not name the namespace"}},
		{"signature", token(newKubeAPI(t).serviceAccount("prod", "tokenbroker", nil)), []string{"was not accepted by Kubernetes"}},
		{"no JWT", token("canary"), []string{"(kubernetes.token_file)"}},
	})

	// Projected tokens are replaced: the next login takes the new one.
	old := c.config.Kubernetes.TokenFile
	write(t, old, "canary")
	store := start(t, c.config)
	wantAll(t, store, broker.ReasonStoreLoginFailed, "kubernetes.token_file")
	write(t, old, api.serviceAccount("prod", "tokenbroker", nil))
	recovers(t, store)
}

func TestJWTRefused(t *testing.T) {
	c, issuer := jwtCorner(t)
	token := func(content string) func(c *corner) {
		return func(c *corner) { c.config.JWT.TokenFile = file(t, content) }
	}
	wantRefused(t, c, []refused{
		{"role", func(c *corner) { c.config.JWT.Role = "nobody" }, []string{"there is no role nobody (jwt.role)"}},
		{"expired", token(issuer.sign(claims(), map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), []string{"(jwt.token_file) has expired"}},
		{"audience", token(issuer.sign(claims(), map[string]any{"aud": "canary"})), []string{"for another audience"}},
		{"subject", token(issuer.sign(claims(), map[string]any{"sub": "canary"})), []string{"another subject"}},
		{"signature", token(newSigner(t).sign(claims(), nil)), []string{"none that is signed by a key that the method knows"}},
		{"no JWT", token("canary"), []string{"(jwt.token_file) is none that is signed"}},
	})
	path := c.config.JWT.TokenFile
	write(t, path, "canary")
	store := start(t, c.config)
	wantAll(t, store, broker.ReasonStoreLoginFailed, "jwt.token_file")
	write(t, path, issuer.sign(claims(), nil))
	recovers(t, store)
}

func TestCertRefused(t *testing.T) {
	c, authority := certCorner(t)
	stranger, err := devpki.New("strangers")
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, c, []refused{
		{"role", func(c *corner) { c.config.Cert = &vault.Cert{Role: "nobody"} }, []string{"is not one of role nobody (cert.role)", "there is no such role"}},
		{"authority", func(c *corner) { c.newCertificate(stranger, "spiffe://example.org/tokenbroker") }, []string{"(client_cert_file) is not one of role"}},
		{"name", func(c *corner) { c.newCertificate(authority, "spiffe://example.org/other") }, []string{"(client_cert_file) is not one of role"}},
	})

	// A replaced certificate is shown at the next login, although connections with
	// the old one are open.
	store := start(t, c.config)
	wantAll(t, store, broker.ReasonStoreLoginFailed, "client_cert_file")
	c.newCertificate(authority, "spiffe://example.org/tokenbroker")
	recovers(t, store)
	c.config.Cert = &vault.Cert{} // Vault finds the role
	mustWrite(t, start(t, c.config), "meta", object(1), 0)
}
