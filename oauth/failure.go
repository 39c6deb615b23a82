package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/outbound"
)

// failed names why an exchange ended without a whole answer. Of err only its type
// and its place count: the texts of net/http quote what the server sent, which may
// be what the server was sent. What is wrapped is a context's error or a number of
// the operating system.
func (a *attempt) failed(err error) *broker.Error {
	switch {
	case errors.Is(a.parent.Err(), context.Canceled):
		return a.fail(broker.ReasonDeadlineExceeded, context.Canceled, "given up while %s", a.progress.stage())
	case a.limited.Err() != nil:
		return a.fail(broker.ReasonUpstreamTimeout, context.DeadlineExceeded, "no answer within %s; timed out while %s", a.allowed(), a.progress.stage())
	}
	var refused *outbound.AddressError
	if errors.As(err, &refused) {
		return a.fail(broker.ReasonUpstreamAddressRefused, nil, "%v", refused)
	}
	if reason, detail, ok := a.proxyFailure(err); ok {
		return a.fail(reason, systemError(err), "%s", detail)
	}
	if detail, ok := dnsFailure(err); ok {
		return a.fail(broker.ReasonUpstreamDNS, nil, "%s", detail)
	}
	if detail, ok := a.certificateRefused(err); ok {
		return a.fail(broker.ReasonClientRejected, nil, "%s", detail)
	}
	if detail, ok := a.tlsFailure(err); ok {
		return a.fail(broker.ReasonUpstreamTLS, nil, "%s", detail)
	}
	if detail, ok := dialFailure(err); ok {
		return a.fail(broker.ReasonUpstreamConnect, systemError(err), "%s", detail)
	}
	var network net.Error
	broke := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &network)
	if !broke && a.progress.stage() == stageAnswered {
		return a.fail(broker.ReasonUpstreamMalformed, nil, "answered with something that is not HTTP, or with headers over %d KiB", outbound.MaxHeaderBytes>>10)
	}
	return a.fail(broker.ReasonUpstreamConnect, systemError(err), "the connection broke while %s", a.progress.stage())
}

// allowed returns the time that the attempt had in fact.
func (a *attempt) allowed() time.Duration {
	deadline, ok := a.limited.Deadline()
	if !ok {
		return a.timeout
	}
	return deadline.Sub(a.sent).Round(time.Millisecond)
}

// proxyFailure recognises what went wrong between us and the proxy, or between the
// proxy and the endpoint as far as the proxy says.
func (a *attempt) proxyFailure(err error) (broker.Reason, string, bool) {
	if !a.proxied {
		return "", "", false
	}
	var answered *outbound.ProxyError
	if errors.As(err, &answered) {
		return broker.ReasonUpstreamProxy, answered.Error(), true
	}
	var network *net.OpError
	if errors.As(err, &network) && network.Op == "proxyconnect" {
		what := "the proxy could not be connected to"
		if detail, ok := dnsFailure(err); ok {
			what += ": " + detail
		} else if detail, ok := dialFailure(network.Err); ok {
			what += ": " + detail
		}
		return broker.ReasonUpstreamProxy, what, true
	}
	if stage := a.progress.stage(); stage < stageHandshaking || stage == stageShaken {
		return broker.ReasonUpstreamProxy, "the proxy did not make the connection", true
	}
	return "", "", false
}

func dnsFailure(err error) (string, bool) {
	var dns *net.DNSError
	switch {
	case !errors.As(err, &dns):
		return "", false
	case dns.IsNotFound:
		return "the host name does not exist or has no address", true
	case dns.IsTimeout:
		return "the resolver did not answer in time", true
	default:
		return "the resolver failed", true
	}
}

func dialFailure(err error) (string, bool) {
	var network *net.OpError
	if !errors.As(err, &network) || network.Op != "dial" {
		return "", false
	}
	where := "connect"
	if network.Addr != nil {
		where += " to " + network.Addr.String()
	}
	if network.Timeout() {
		return where + ": no reply in time, as when a firewall drops packets", true
	}
	if number := systemError(err); number != nil {
		return where + ": " + number.Error(), true
	}
	return where + ": refused by this host", true
}

// systemError returns the operating system's error number within err; nil if none.
func systemError(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return nil
}

// tlsFailure recognises a handshake that did not come about, and alerts after it:
// TLS 1.3 servers refuse a missing client certificate only then.
func (a *attempt) tlsFailure(err error) (string, bool) {
	var network *net.OpError
	if errors.As(err, &network) && network.Op == "remote error" {
		return "the server ended TLS: " + network.Err.Error(), true // one of crypto/tls's own texts
	}
	if stage := a.progress.stage(); stage != stageHandshaking && stage != stageTunnelling {
		return "", false
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var timeout net.Error
	switch {
	case errors.As(err, &certificate):
		return a.certificateFailure(certificate), true
	case errors.As(err, &record):
		return "what answers there does not speak TLS", true
	case errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, os.ErrDeadlineExceeded):
		return "the TLS handshake took too long", true
	case errors.Is(err, io.EOF) || systemError(err) != nil:
		return "the connection broke during the TLS handshake", true
	default:
		return "the TLS handshake failed; the server may speak no version from 1.2 on", true
	}
}

// certificateFailure says what is wrong with the certificate. Its names are the
// server's words and go through the scrubber.
func (a *attempt) certificateFailure(err *tls.CertificateVerificationError) string {
	clean := a.scrub(document{}).clean
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		if now := time.Now(); now.Before(invalid.Cert.NotBefore) {
			return fmt.Sprintf("the certificate is valid only from %s on, and this host's clock says %s", utc(invalid.Cert.NotBefore), utc(now))
		}
		return "the certificate expired at " + utc(invalid.Cert.NotAfter)
	case errors.As(err, &invalid):
		return fmt.Sprintf("the certificate is not valid for this use (x509 reason %d)", int(invalid.Reason))
	case errors.As(err, &host) && host.Certificate != nil:
		names := slices.Clone(host.Certificate.DNSNames)
		for _, ip := range host.Certificate.IPAddresses {
			names = append(names, ip.String())
		}
		if len(names) == 0 {
			return "the certificate names no host"
		}
		return "the certificate is for another name: " + clean(strings.Join(names, ", "), maxDescription)
	case errors.As(err, &authority):
		issuer := ""
		if len(err.UnverifiedCertificates) > 0 {
			last := err.UnverifiedCertificates[len(err.UnverifiedCertificates)-1]
			issuer = ", issued by " + clean(last.Issuer.String(), maxDescription)
		}
		return "the certificate is signed by an unknown authority" + issuer
	default:
		return "the certificate could not be verified"
	}
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }
