package vault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// newTransport returns the connections to Vault.
//
// It speaks HTTP/1.1: a request that times out then closes its own connection,
// where in HTTP/2 it would leave all others on a connection that may be dead.
// It uses no proxy: HTTPS_PROXY is meant for authorization servers.
func newTransport(config Config) (*http.Transport, error) {
	tlsConfig, err := newTLSConfig(config)
	if err != nil {
		return nil, err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Protocols:           &protocols,
		DialContext:         (&net.Dialer{Timeout: config.Timeout}).DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: config.Timeout,
		MaxIdleConnsPerHost: 32,
		// Below the 5 min after which Vault closes an idle connection: a write on
		// a connection that is just being closed has an unknown outcome.
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
	}, nil
}

// newHTTPClient returns a client that exchanges with Vault go through. Its timeout
// covers the renewals of api.LifetimeWatcher, which take no context.
func newHTTPClient(config Config, transport *http.Transport) *http.Client {
	return &http.Client{
		Transport:     noRedirects{transport},
		Timeout:       config.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func newTLSConfig(config Config) (*tls.Config, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if config.CAFile != "" {
		pem, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", config.CAFile)
		}
	}
	if config.ClientCertFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(config.ClientCertFile, config.ClientKeyFile)
			if err != nil {
				return nil, fmt.Errorf("client_cert_file: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return tlsConfig, nil
}

// errRedirected is the outcome of a request that was answered by a redirect.
var errRedirected = errors.New("answered by a redirect, which is not followed")

// noRedirects makes an error of every redirect.
//
// A standby that cannot forward to the active node answers 307 with that node's
// address. vault/api v1.23.0 follows one such redirect to whatever host it
// names and sends token and body along (client.go, rawRequestWithContext); it
// refuses only the step from https to http. So whoever can answer in Vault's
// place once could have the token. Its DisableRedirects would return the 307 as
// a success. Here it becomes an error, for every user of the client.
type noRedirects struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t noRedirects) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode < 400 {
		_ = resp.Body.Close() // nothing in it is of use
		return nil, errRedirected
	}
	return resp, err
}
