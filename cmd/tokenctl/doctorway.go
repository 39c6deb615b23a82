package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/checkup"
)

// wayWithin bounds each step of the way.
const wayWithin = 5 * time.Second

// credentials looks at the files that say who we are and whom we trust.
func (d *doctor) credentials(now time.Time) {
	c := d.context
	if c.CertificateFile != "" {
		d.KeyPair(c.CertificateFile, c.KeyFile, now)
	}
	if c.TokenFile != "" && d.PrivateFile("token file", c.TokenFile, true) {
		d.token(c.TokenFile, now)
	}
	if c.CAFile != "" {
		d.Authorities("authorities", c.CAFile, now)
	}
}

// token looks at a JWT: what it says, not whether its signature is good.
func (d *doctor) token(path string, now time.Time) {
	const name = "token"
	raw, err := os.ReadFile(path)
	if err != nil {
		d.Bad(name, "put the token there", err.Error())
		return
	}
	var claims struct {
		Issuer  string  `json:"iss"`
		Subject string  `json:"sub"`
		Expires float64 `json:"exp"`
	}
	parts := strings.Split(strings.TrimSpace(string(raw)), ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
	if len(parts) != 3 || err != nil || json.Unmarshal(payload, &claims) != nil {
		d.Bad(name, "put a JWT there, alone and whole", path+" holds no JWT")
		return
	}
	seen := fmt.Sprintf("%s of %s", orElse(claims.Subject, "no subject"), orElse(claims.Issuer, "no issuer"))
	switch end := time.Unix(int64(claims.Expires), 0).UTC(); {
	case claims.Expires == 0:
		d.Doubtful(name, "use tokens that expire", seen, "it never expires")
	case !now.Before(end):
		d.Bad(name, "whatever writes "+path+" must renew it", seen, "expired at "+end.Format(secondsUTC))
	default:
		d.Good(name, seen, "valid until "+end.Format(secondsUTC))
	}
}

// way goes to the broker step by step: name, address, TLS.
func (d *doctor) way(ctx context.Context) {
	c := d.context
	if c.UnixSocket != "" {
		d.socket(ctx)
		return
	}
	host, port, _ := net.SplitHostPort(c.Address) // validated with the configuration
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
		if d.session.getenv(name) != "" {
			d.Doubtful("proxy", "unset it, or put the broker's host into NO_PROXY, if the broker is reached directly", name+" is set: calls go through that proxy, the looks below do not")
			break
		}
	}
	d.transient("looking up " + host)
	addresses, err := within(ctx, func(ctx context.Context) ([]string, error) { return net.DefaultResolver.LookupHost(ctx, host) })
	if err != nil {
		d.Bad("name", "correct the context's address, or the name server of this machine", strings.TrimPrefix(err.Error(), "lookup "))
		return
	}
	if net.ParseIP(host) == nil {
		d.Good("name", host+" is "+strings.Join(addresses, ", "))
	}
	conn := d.connect(ctx, addresses, port)
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	if c.InsecurePlaintext {
		d.Doubtful("TLS", "use it for development only", "insecure_plaintext: the connection is not encrypted")
		return
	}
	d.handshake(ctx, conn, orElse(c.ServerName, host))
}

func within[T any](ctx context.Context, work func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, wayWithin)
	defer cancel()
	return work(ctx)
}

func (d *doctor) socket(ctx context.Context) {
	path := d.context.UnixSocket
	conn, err := within(ctx, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) })
	switch {
	case err == nil:
		_ = conn.Close()
		d.Good("socket", path+" takes connections")
	case errors.Is(err, os.ErrPermission):
		d.Bad("socket", "the broker's listen.unix_socket.mode and the socket's group say who may connect", path+": permission denied")
	default:
		d.Bad("socket", "start the broker, or correct the context's unix_socket", strings.TrimPrefix(err.Error(), "dial unix "))
	}
}

// connect tries each address and returns the first connection that was made.
func (d *doctor) connect(ctx context.Context, addresses []string, port string) (first net.Conn) {
	var seen []string
	dead := 0
	for _, address := range addresses {
		target := net.JoinHostPort(address, port)
		d.transient("connecting to " + target)
		began := time.Now()
		conn, err := within(ctx, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", target) })
		switch {
		case err != nil:
			dead++
			seen = append(seen, strings.TrimPrefix(err.Error(), "dial tcp "))
			continue
		case first == nil:
			first = conn
		default:
			_ = conn.Close()
		}
		seen = append(seen, fmt.Sprintf("%s takes connections (%s)", target, time.Since(began).Round(100*time.Microsecond)))
	}
	switch {
	case first == nil:
		d.Bad("address", "start the broker, open the firewall, or correct the context's address", seen...)
	case dead > 0:
		d.Doubtful("address", "take dead addresses out of the name's records", seen...)
	default:
		d.Good("address", seen...)
	}
	return first
}

// handshake looks at what the broker shows. It is verified afterwards, so that what is
// wrong can be shown; nothing is sent on this connection.
func (d *doctor) handshake(ctx context.Context, conn net.Conn, name string) {
	c := d.context
	config := &tls.Config{
		ServerName: name, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, // verified below
	}
	if pair, err := tls.LoadX509KeyPair(c.CertificateFile, c.KeyFile); c.CertificateFile != "" && err == nil {
		// Shown whatever authorities the broker asks for, as package client does.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	secured := tls.Client(conn, config)
	_, err := within(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, secured.HandshakeContext(ctx) })
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		d.Bad("TLS", "something else listens there, or the broker serves without TLS: correct the context's address", "what answers does not speak TLS")
		return
	case err != nil:
		d.Bad("TLS", "look at the broker's log, and that the address is the API's and not that of metrics", err.Error())
		return
	}
	state := secured.ConnectionState()
	switch {
	case state.Version < tls.VersionTLS13:
		d.Bad("TLS", "something between here and the broker ends TLS: the broker speaks TLS 1.3 only", tls.VersionName(state.Version))
	case state.NegotiatedProtocol != "h2":
		d.Bad("TLS", "the address must be that of the broker's API, and a proxy before it must pass HTTP/2 through", "what answers does not offer HTTP/2 (ALPN h2)")
	default:
		d.Good("TLS", tls.VersionName(state.Version)+", HTTP/2")
	}
	d.verify(state.PeerCertificates, name, time.Now())
	if c.CertificateFile != "" {
		d.mutual(secured)
	}
}

// remoteAlert is how Go says that the peer ended a handshake.
const remoteAlert = "remote error: tls: "

// mutual waits for the first word of the broker. By TLS 1.3 it looks at our certificate
// after our side of the handshake is done, and by HTTP/2 it speaks first (RFC 9113 §3.4):
// settings, or an alert. Nothing is written, because a write could meet a closed
// connection and lose the alert.
func (d *doctor) mutual(conn *tls.Conn) {
	const name = "mutual TLS"
	_ = conn.SetReadDeadline(time.Now().Add(wayWithin)) // fails on closed connections only, as the read does
	_, err := conn.Read(make([]byte, 1))
	switch {
	case err == nil:
		d.Good(name, "the broker takes your certificate")
	case strings.HasPrefix(err.Error(), remoteAlert):
		d.refused = true
		d.Bad(name, "have your certificate made by an authority of the broker's listen.client_ca_file or trust_bundles, and not revoked", "the broker ended the handshake: "+strings.TrimPrefix(err.Error(), remoteAlert))
	default:
		d.Doubtful(name, "look at the broker's log", "the broker did not say whether it takes your certificate: "+err.Error())
	}
}

// verify looks at the chain that the broker shows.
func (d *doctor) verify(chain []*x509.Certificate, name string, now time.Time) {
	leaf := chain[0]
	options := x509.VerifyOptions{DNSName: name, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if d.context.CAFile != "" {
		options.Roots = x509.NewCertPool()
		list, err := checkup.Certificates(d.context.CAFile)
		if err != nil {
			return // said with the credentials
		}
		for _, c := range list {
			options.Roots.AddCert(c)
		}
	}
	outcome, dates := checkup.Dates(leaf, now)
	seen := []string{dates, "it is " + strings.Join(checkup.Names(leaf), ", "), "made by " + leaf.Issuer.String()}
	const part = "certificate"
	_, err := leaf.Verify(options)
	var host x509.HostnameError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &host):
		d.Bad(part, "set the context's address or server_name to a name that the certificate has", append(seen, "it is not for "+name)...)
	case errors.As(err, &unknown):
		d.Bad(part, "put the authority that made it into the context's ca_file", append(seen, "its authority is none that is trusted here")...)
	case err != nil:
		d.Bad(part, "the broker's operator must renew it, or a clock is wrong", append(seen, err.Error())...)
	case outcome == checkup.Doubtful:
		d.Doubtful(part, "the broker's operator should renew it", seen...)
	default:
		d.Good(part, seen...)
	}
}
