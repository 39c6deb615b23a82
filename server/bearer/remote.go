package bearer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	maxBody      = 1 << 20
	maxTokenFile = 64 << 10
	wellKnown    = "/.well-known/openid-configuration"
)

// remoteSource fetches an issuer's keys over HTTP.
type remoteSource struct {
	issuer Issuer
	client *http.Client
}

func newRemoteSource(issuer Issuer, transport http.RoundTripper) (*remoteSource, error) {
	if transport == nil {
		roots, err := readRoots(issuer.CAFile)
		if err != nil {
			return nil, err
		}
		transport = &http.Transport{
			DialContext:            (&net.Dialer{Timeout: fetchTimeout / 2}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    fetchTimeout / 2,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true, // what is not decompressed is no decompression bomb
			// A fetch every few minutes gains nothing from an idle connection.
			DisableKeepAlives: true,
		}
	}
	return &remoteSource{issuer: issuer, client: &http.Client{
		Transport: transport,
		// A redirect is an answer like any other that is not 200: whoever can write one
		// must not choose where keys come from.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// readRoots returns the certificates of a file; nil, the system's, if none is named.
func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", path)
	}
	return roots, nil
}

func (s *remoteSource) fetch(ctx context.Context) (*keySet, time.Duration, error) {
	address := s.issuer.JWKSURL
	if s.issuer.Discovery {
		var err error
		if address, err = s.discover(ctx); err != nil {
			return nil, 0, fmt.Errorf("read the discovery document: %w", err)
		}
	}
	body, header, err := s.get(ctx, address)
	if err != nil {
		return nil, 0, fmt.Errorf("read the JWK Set: %w", err)
	}
	set, err := parseKeySet(body)
	if err != nil {
		return nil, 0, err
	}
	return set, s.interval(header), nil
}

// discover returns the URL of the JWK Set (OpenID Connect Discovery §4.2, §4.3).
func (s *remoteSource) discover(ctx context.Context) (string, error) {
	body, _, err := s.get(ctx, strings.TrimSuffix(s.issuer.Issuer, "/")+wellKnown)
	if err != nil {
		return "", err
	}
	document, err := parseObject(body)
	if err != nil {
		return "", fmt.Errorf("it %w", err)
	}
	// Else one issuer could lend its keys to another's name.
	if document["issuer"] != s.issuer.Issuer {
		return "", errors.New("its issuer is not the configured one")
	}
	address, _ := document["jwks_uri"].(string)
	if problem := urlProblem(address, s.issuer.InsecureHTTPLoopback); problem != "" {
		return "", fmt.Errorf("its jwks_uri %s", problem)
	}
	return address, nil
}

// get reads one document. No error quotes the URL or the body.
func (s *remoteSource) get(ctx context.Context, address string) ([]byte, http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, errors.New("the URL cannot be requested")
	}
	request.Header.Set("Accept", "application/json, application/jwk-set+json")
	if err := s.authorize(request); err != nil {
		return nil, nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, nil, inOurWords(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		err := fmt.Errorf("the server answered %d %s", response.StatusCode, http.StatusText(response.StatusCode))
		if s.issuer.TokenFile != "" && request.Header.Get("Authorization") == "" {
			err = fmt.Errorf("%w; the token of token_file was not sent, because the jwks_uri is of another host than the issuer: set jwks_url to the keys' URL at a host that may have it, in place of discovery", err)
		}
		return nil, nil, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, nil, inOurWords(err)
	case len(body) > maxBody:
		return nil, nil, errors.New("the answer is over 1 MiB")
	}
	return body, response.Header, nil
}

// authorize adds our own token, unless the request is for another origin.
func (s *remoteSource) authorize(request *http.Request) error {
	home := s.issuer.JWKSURL
	if s.issuer.Discovery {
		home = s.issuer.Issuer
	}
	base, err := url.Parse(home)
	if s.issuer.TokenFile == "" || err != nil || base.Scheme != request.URL.Scheme || !strings.EqualFold(base.Host, request.URL.Host) {
		return nil
	}
	file, err := os.Open(s.issuer.TokenFile)
	if err != nil {
		return fmt.Errorf("token_file: %w", err)
	}
	defer file.Close()
	token, err := io.ReadAll(io.LimitReader(file, maxTokenFile))
	if err != nil {
		return fmt.Errorf("token_file: %w", err)
	}
	token = bytes.TrimSpace(token)
	if len(token) == 0 || bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("token_file: holds no token") // net/http would quote it
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	return nil
}

// inOurWords says why there is no answer. The text of net/http has the URL and pieces
// of what the server sent.
func inOurWords(err error) error {
	var timeout interface{ Timeout() bool }
	var network *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("the server did not answer in time")
	case errors.As(err, &certificate):
		return fmt.Errorf("the server's certificate is not good: %w", certificate.Err)
	case errors.As(err, &network) && network.Op == "dial":
		return fmt.Errorf("cannot connect: %w", network)
	default:
		return errors.New("the exchange with the server broke off")
	}
}

// interval returns the time until the next fetch.
func (s *remoteSource) interval(header http.Header) time.Duration {
	if s.issuer.RefreshInterval != 0 {
		return s.issuer.RefreshInterval
	}
	for directive := range strings.SplitSeq(strings.Join(header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return minInterval
		case "max-age":
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 64)
			if err != nil {
				return defaultInterval
			}
			return max(minInterval, time.Duration(min(seconds, uint64(maxInterval/time.Second)))*time.Second)
		}
	}
	return defaultInterval
}
