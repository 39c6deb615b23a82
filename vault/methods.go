package vault

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/kubernetes"

	"github.com/tokenbroker/tokenbroker/broker"
)

// method is one of Vault's auth methods, with the credentials for it. Only Run
// uses it, so it need not be safe for concurrent use.
type method interface {
	// key is the method's key in the configuration file.
	key() string
	// path is where it is logged in to.
	path() string
	// login asks client once, never again for a lost answer. Its error is a
	// *broker.Error if there was nothing to ask with.
	login(ctx context.Context, client *api.Client) (*api.Secret, error)
	// causes says what its refusals mean; the first match wins.
	causes() []cause
}

// cause names the cause of one kind of refusal. As in [rule], what Vault wrote is
// only matched: some methods quote the credential.
type cause struct {
	status int
	text   string // part of a message; empty matches any
	detail string
}

// newMethod returns the configured method, nil for a token file.
func newMethod(config Config) method {
	switch {
	case config.AppRole.used():
		return &appRoleMethod{config: config.AppRole}
	case config.Kubernetes != nil:
		return kubernetesMethod{*config.Kubernetes}
	case config.JWT != nil:
		return jwtMethod{*config.JWT}
	case config.Cert != nil:
		return certMethod{*config.Cert, config.ClientCertFile}
	}
	return nil
}

func loginPath(mount string) string { return "auth/" + mount + "/login" }

// authorized returns a copy of client that sends token and shares the transport.
func authorized(client *api.Client, token string) *api.Client {
	own := client.WithNamespace(client.Namespace())
	own.SetToken(token)
	return own
}

// nothingToAskWith is the error for credentials that cannot be read.
func nothingToAskWith(err error) *broker.Error {
	return &broker.Error{Reason: broker.ReasonStoreLoginFailed, Detail: err.Error()}
}

type kubernetesMethod struct{ config Kubernetes }

func (m kubernetesMethod) key() string  { return "kubernetes" }
func (m kubernetesMethod) path() string { return loginPath(m.config.Mount) }

func (m kubernetesMethod) login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	token, err := readCredential("kubernetes.token_file", m.config.TokenFile)
	if err != nil {
		return nil, nothingToAskWith(err)
	}
	auth, err := kubernetes.NewKubernetesAuth(m.config.Role,
		kubernetes.WithMountPath(m.config.Mount), kubernetes.WithServiceAccountToken(token))
	if err != nil {
		return nil, err
	}
	return auth.Login(ctx, client)
}

// causes has the texts of vault-plugin-auth-kubernetes v0.23.
func (m kubernetesMethod) causes() []cause {
	token := "the token in " + named("kubernetes.token_file", m.config.TokenFile)
	return []cause{
		{http.StatusBadRequest, "invalid role name", "there is no role " + m.config.Role + " (kubernetes.role)"},
		{http.StatusForbidden, "service account name not authorized", "the role does not name the service account of " + token},
		{http.StatusForbidden, "namespace not authorized", "the role does not name the namespace of " + token},
		{http.StatusForbidden, "audience", token + " is for another audience than the role asks for"},
		{http.StatusForbidden, "expired", token + " has expired"},
		{http.StatusForbidden, "", token + " was not accepted by Kubernetes, or Vault could not ask it, or the role refuses this address"},
		{http.StatusInternalServerError, "could not load backend configuration", "the auth method is not configured: write auth/" + m.config.Mount + "/config"},
		{http.StatusInternalServerError, "", token + " is not one of a service account, or Vault failed"},
	}
}

type jwtMethod struct{ config JWT }

func (m jwtMethod) key() string  { return "jwt" }
func (m jwtMethod) path() string { return loginPath(m.config.Mount) }

func (m jwtMethod) login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	token, err := readCredential("jwt.token_file", m.config.TokenFile)
	if err != nil {
		return nil, nothingToAskWith(err)
	}
	return client.Logical().WriteWithContext(ctx, m.path(), map[string]any{"role": m.config.Role, "jwt": token})
}

// causes has the texts of vault-plugin-auth-jwt v0.25.
func (m jwtMethod) causes() []cause {
	token := "the JWT in " + named("jwt.token_file", m.config.TokenFile)
	return []cause{
		{http.StatusBadRequest, "could not be found", "there is no role " + m.config.Role + " (jwt.role)"},
		{http.StatusBadRequest, "could not load configuration", "the auth method is not configured: write auth/" + m.config.Mount + "/config"},
		{http.StatusBadRequest, "expired", token + " has expired"},
		{http.StatusBadRequest, "audience", token + " is for another audience than the role is bound to"},
		{http.StatusBadRequest, "validating claims", token + " lacks a claim that the role is bound to"},
		{http.StatusBadRequest, "subject", token + " has another subject than the role is bound to"},
		{http.StatusBadRequest, "signature", token + " is none that is signed by a key that the method knows"},
		{http.StatusBadRequest, "", token + " was refused"},
		{http.StatusForbidden, "", "the role refuses this address"},
	}
}

type certMethod struct {
	config Cert
	file   string
}

func (m certMethod) key() string  { return "cert" }
func (m certMethod) path() string { return loginPath(m.config.Mount) }

func (m certMethod) login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	body := map[string]any{}
	if m.config.Role != "" {
		body["name"] = m.config.Role
	}
	return client.Logical().WriteWithContext(ctx, m.path(), body)
}

// causes has the texts of Vault 1.21. It says little on purpose: an expired
// certificate, one of another authority and an unknown role are answered alike.
func (m certMethod) causes() []cause {
	role := "any role"
	if m.config.Role != "" {
		role = "role " + m.config.Role + " (cert.role)"
	}
	certificate := "the certificate in " + named("client_cert_file", m.file)
	return []cause{
		{http.StatusBadRequest, "tls connection required", "Vault saw no TLS: something before it ends the connection"},
		{http.StatusBadRequest, "client certificate must be supplied", "Vault was shown no certificate: something before it ends the TLS connection"},
		{http.StatusBadRequest, "", certificate + " is not one of " + role + ", or has expired, or there is no such role"},
		{http.StatusForbidden, "", "the role refuses this address"},
	}
}
