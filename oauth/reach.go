package oauth

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	opReach = "look at the way to the token endpoint"
	// maxAddresses bounds how many addresses of a name are tried.
	maxAddresses = 16
	// dialEach is how long one address may take; more than one retransmission of a SYN.
	dialEach = 3500 * time.Millisecond
	// certificateEnds is how long before its end somebody should look at a certificate.
	certificateEnds = 14 * 24 * time.Hour
	// clockDiffers is from when on clocks count as different: assertions live a minute.
	clockDiffers = 30 * time.Second
)

// reach is one walk to an endpoint.
type reach struct {
	*Client
	target   broker.ReachTarget
	endpoint *url.URL
	proxied  bool
	begun    time.Time
	sights   []broker.Sight

	addresses []netip.AddrPort
	conn      net.Conn // the first that stood; nil before
	res       *http.Response
	sent      time.Time
}

// Reach implements [broker.Prober]: it resolves, connects, shakes hands and sends one
// request without parameters and credentials, and reports each.
func (c *Client) Reach(ctx context.Context, target broker.ReachTarget) []broker.Sight {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r := &reach{Client: c, target: target, begun: time.Now()}
	defer r.close()
	for _, stage := range []func(context.Context) broker.Sight{r.resolve, r.connect, r.handshake, r.ask, r.clock} {
		sight := stage(ctx)
		now := time.Now()
		sight.Duration, r.begun = now.Sub(r.begun), now
		r.add(sight)
		if sight.Err != nil {
			break
		}
	}
	return r.sights
}

// add appends what was seen at a stage. A handshake that was found wanting only by the
// request behind it was wanting all the same: servers of TLS 1.3 refuse a missing client
// certificate after it, and a proxy's tunnel is shaken hands in with the request.
func (r *reach) add(sight broker.Sight) {
	if last := len(r.sights) - 1; sight.Stage == broker.StageHTTP && broker.ReasonOf(sight.Err) == broker.ReasonUpstreamTLS {
		r.sights[last].Err, r.sights[last].Warning = sight.Err, ""
		r.sights[last].Connections += sight.Connections
		r.sights[last].Duration += sight.Duration
		return
	}
	r.sights = append(r.sights, sight)
}

func (r *reach) close() {
	if r.conn != nil {
		_ = r.conn.Close() // it was only looked at
	}
}

func reachError(reason broker.Reason, format string, args ...any) *broker.Error {
	return &broker.Error{Reason: reason, Op: opReach, Detail: fmt.Sprintf(format, args...)}
}

// resolve is [broker.StageDNS].
func (r *reach) resolve(ctx context.Context) broker.Sight {
	sight := broker.Sight{Stage: broker.StageDNS}
	if r.endpoint, sight.Err = r.parseEndpoint(tokenEndpoint, r.target.Endpoint); sight.Err != nil {
		return sight
	}
	var err error
	if _, r.proxied, err = r.door.Route(r.endpoint); err != nil {
		sight.Err = reachError(broker.ReasonUpstreamProxy, "%v", err)
		return sight
	}
	host, port := r.endpoint.Hostname(), portOf(r.endpoint)
	if r.proxied {
		sight.Evidence = []string{"a proxy is configured, which resolves the name"}
		return sight
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		r.addresses = []netip.AddrPort{netip.AddrPortFrom(addr, port)}
		sight.Evidence = []string{"the URL has the address " + addr.String()}
		return sight
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	resolver := "asked " + resolvers()
	if err != nil {
		detail, ok := dnsFailure(err)
		if !ok {
			detail = "the resolver did not answer in time"
		}
		sight.Err = reachError(broker.ReasonUpstreamDNS, "%s: %s; %s", host, detail, resolver)
		return sight
	}
	var refused error
	for _, addr := range found {
		addr = addr.Unmap()
		if err := r.door.CheckAddress(addr); err != nil {
			refused = err
			sight.Evidence = append(sight.Evidence, err.Error())
			continue
		}
		if target := netip.AddrPortFrom(addr, port); len(r.addresses) < maxAddresses && !slices.Contains(r.addresses, target) {
			r.addresses = append(r.addresses, target)
		}
	}
	if len(r.addresses) == 0 {
		sight.Err = reachError(broker.ReasonUpstreamAddressRefused, "%s: %v", host, refused)
		return sight
	}
	sight.Evidence = append(sight.Evidence, fmt.Sprintf("%s has %s", host, addressList(r.addresses)), resolver)
	return sight
}

func portOf(u *url.URL) uint16 {
	if port, err := net.LookupPort("tcp", u.Port()); err == nil && port > 0 {
		return uint16(port)
	}
	if u.Scheme == "http" {
		return 80
	}
	return 443
}

func addressList(addresses []netip.AddrPort) string {
	names := make([]string, 0, len(addresses))
	for _, a := range addresses {
		names = append(names, a.Addr().String())
	}
	return strings.Join(names, ", ")
}

// resolvers says which name servers this host asks.
func resolvers() string {
	file, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return "this host's resolver"
	}
	defer func() { _ = file.Close() }()
	var servers []string
	for lines := bufio.NewScanner(file); lines.Scan() && len(servers) < 3; {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "nameserver" {
			if addr, err := netip.ParseAddr(fields[1]); err == nil {
				servers = append(servers, addr.String())
			}
		}
	}
	if len(servers) == 0 {
		return "this host's resolver"
	}
	return "the resolver at " + strings.Join(servers, ", ")
}

// dialled is what came of one address.
type dialled struct {
	address netip.AddrPort
	conn    net.Conn
	err     error
}

// connect is [broker.StageTCP]: all addresses are tried at once, since requests get
// through by any and are late by the dead ones.
func (r *reach) connect(ctx context.Context) broker.Sight {
	sight := broker.Sight{Stage: broker.StageTCP}
	if r.proxied {
		sight.Evidence = []string{"the proxy makes the connection"}
		return sight
	}
	results := make([]dialled, len(r.addresses))
	dialer := r.door.Dialer(r.endpoint)
	dialer.Timeout = min(dialEach, r.timeout/2)
	var dialling sync.WaitGroup
	for i, address := range r.addresses {
		dialling.Go(func() {
			conn, err := dialer.DialContext(ctx, "tcp", address.String())
			results[i] = dialled{address, conn, err}
		})
	}
	dialling.Wait()
	var dead []string
	for _, d := range results {
		switch {
		case d.err != nil:
			detail, ok := dialFailure(d.err)
			if !ok {
				detail = "connect to " + d.address.String() + ": no reply in time"
			}
			dead = append(dead, detail)
		case r.conn == nil:
			r.conn = d.conn
			sight.Evidence = append(sight.Evidence, "connected to "+d.address.String())
		default:
			_ = d.conn.Close() // one is enough
			sight.Evidence = append(sight.Evidence, d.address.String()+" takes connections too")
		}
	}
	sight.Connections = len(results)
	if r.conn == nil {
		sight.Err = reachError(broker.ReasonUpstreamConnect, "%s", strings.Join(dead, "; "))
		return sight
	}
	if len(dead) > 0 {
		sight.Warning = broker.ReasonUpstreamAddressDead
		sight.Evidence = append(sight.Evidence, dead...)
	}
	return sight
}

// handshake is [broker.StageTLS].
func (r *reach) handshake(ctx context.Context) broker.Sight {
	sight := broker.Sight{Stage: broker.StageTLS}
	switch {
	case r.endpoint.Scheme == "http":
		sight.Evidence = []string{"plain http, which stays on this machine"}
		return sight
	case r.proxied:
		sight.Evidence = []string{"the handshake comes with the request, through the proxy"}
		return sight
	}
	seen := new(progress)
	seen.reach(stageHandshaking)
	limited, cancel := context.WithTimeout(ctx, r.timeout/2)
	defer cancel()
	config := r.door.TLSConfig(r.endpoint)
	wanted := false // written and read by the handshake alone, then by us
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		wanted = true
		return new(tls.Certificate), nil // none
	}
	conn := tls.Client(r.conn, config)
	err := conn.HandshakeContext(limited)
	if wanted {
		sight.Evidence = []string{"the server asks for a client certificate"}
	}
	if err != nil {
		a := &attempt{op: opReach, origin: originOf(r.endpoint), progress: seen}
		detail, ok := a.tlsFailure(err)
		if !ok || limited.Err() != nil {
			detail = "the TLS handshake took too long"
		}
		sight.Err = reachError(broker.ReasonUpstreamTLS, "%s: %s", a.origin, detail)
		return sight
	}
	state := conn.ConnectionState()
	leaf := state.PeerCertificates[0]
	sight.Evidence = append(sight.Evidence,
		tls.VersionName(state.Version)+", "+tls.CipherSuiteName(state.CipherSuite),
		"certificate for "+r.name(strings.Join(certified(leaf), ", "))+", issued by "+r.name(leaf.Issuer.String())+", valid until "+utc(leaf.NotAfter),
	)
	if end := earliestEnd(state.VerifiedChains); time.Until(end) < certificateEnds {
		sight.Warning = broker.ReasonUpstreamCertificateEnds
		sight.Evidence = append(sight.Evidence, fmt.Sprintf("its chain ends in %s", time.Until(end).Round(time.Hour)))
	}
	return sight
}

// name cleans a name of a certificate, which is the server's word.
func (r *reach) name(text string) string { return scrubber{}.clean(text, maxDescription) }

// certified returns the names and addresses that a certificate is for.
func certified(leaf *x509.Certificate) []string {
	names := slices.Clone(leaf.DNSNames)
	for _, address := range leaf.IPAddresses {
		names = append(names, address.String())
	}
	return names
}

// earliestEnd returns when the longest living chain ends.
func earliestEnd(chains [][]*x509.Certificate) time.Time {
	var latest time.Time
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, certificate := range chain[1:] {
			if certificate.NotAfter.Before(end) {
				end = certificate.NotAfter
			}
		}
		if end.After(latest) {
			latest = end
		}
	}
	return latest
}

// ask is [broker.StageHTTP]: what answers a request that asks for nothing.
func (r *reach) ask(ctx context.Context) broker.Sight {
	sight := broker.Sight{Stage: broker.StageHTTP, Connections: 1}
	seen := new(progress)
	transport, proxied, err := r.door.Route(r.endpoint)
	if err != nil {
		sight.Err = reachError(broker.ReasonUpstreamProxy, "%v", err)
		return sight
	}
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, seen.trace(ctx)), http.MethodPost, r.endpoint.String(), http.NoBody)
	if err != nil {
		sight.Err = refusedEndpoint("the token endpoint is not a URL")
		return sight
	}
	request.Header = http.Header{"Accept": {"application/json"}, "Content-Type": {"application/x-www-form-urlencoded"}, "User-Agent": {userAgent}}
	a := &attempt{
		op: opReach, origin: originOf(r.endpoint), parent: context.WithoutCancel(ctx), limited: ctx, timeout: r.timeout, progress: seen,
		proxied: proxied, sent: time.Now(),
	}
	r.sent = a.sent
	if r.res, err = transport.RoundTrip(request); err != nil {
		sight.Err = a.failed(err)
		return sight
	}
	defer func() { _ = r.res.Body.Close() }()
	a.progress.reach(stageReading)
	if isRedirect(r.res.StatusCode) {
		sight.Err = a.redirected(r.res)
		return sight
	}
	body, err := readBody(r.res)
	if err != nil && !errors.Is(err, errBodyTooLarge) {
		sight.Err = a.failed(err)
		return sight
	}
	doc, kind := parseDocument(r.res.Header.Get("Content-Type"), body)
	if err != nil {
		kind = "a body over 1 MiB"
	}
	sight.Evidence, sight.Warning, sight.Err = r.judge(a, r.res, doc, kind, body)
	return sight
}
