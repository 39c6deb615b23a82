package client

import (
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Option changes what [New] makes.
type Option func(*settings)

type settings struct {
	tls        *TLSFiles
	bearerFile string
	loopback   bool
	timeout    time.Duration
	userAgent  string
	extra      []grpc.DialOption
	dpop       *DPoPKey // nil without
}

// WithTLS names the files of the connection: who the broker must be and who this
// caller is.
func WithTLS(files TLSFiles) Option { return func(s *settings) { s.tls = &files } }

// WithBearerTokenFile shows the token in a file, such as a Kubernetes projected
// service account token, with each call. A file that was replaced is read again. The
// token is sent over TLS only.
func WithBearerTokenFile(path string) Option { return func(s *settings) { s.bearerFile = path } }

// WithInsecureLoopback connects without TLS, and refuses any connection that is not
// to this machine. For development and tests.
func WithInsecureLoopback() Option { return func(s *settings) { s.loopback = true } }

// WithTimeout bounds calls whose context has no deadline, those of sources among
// them, instead of [DefaultTimeout].
func WithTimeout(d time.Duration) Option { return func(s *settings) { s.timeout = d } }

// WithUserAgent puts the caller's own name and version, such as "crm/1.7", before the
// package's in the user agent.
func WithUserAgent(name string) Option {
	return func(s *settings) { s.userAgent = name + " " + defaultUserAgent }
}

// WithDialOptions adds options of gRPC, after the package's own: interceptors, a
// stats handler, a dialer.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.extra = append(s.extra, options...) }
}

// settingsOf applies options to the defaults.
func settingsOf(options []Option) *settings {
	s := &settings{timeout: DefaultTimeout, userAgent: defaultUserAgent}
	for _, o := range options {
		o(s)
	}
	return s
}

const defaultUserAgent = "tokenbroker-client"

// serviceConfig repeats a call on UNAVAILABLE alone: nothing else is safe and of use
// to repeat at once. Where the broker sends grpc-retry-pushback-ms gRPC follows it.
// The throttle keeps a fleet from doubling the load on a broker that fails. Health is
// not asked: a broker whose store is down would be skipped, and its callers would see
// a deadline instead of the cause.
const serviceConfig = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"methodConfig": [{
		"name": [{"service": "tokenbroker.v1.TokenService"}],
		"retryPolicy": {
			"maxAttempts": 3, "initialBackoff": "0.2s", "maxBackoff": "2s", "backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}],
	"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
}`

// unrepeated is the configuration for calls that bring a proof.
const unrepeated = `{"loadBalancingConfig": [{"round_robin": {}}]}`

func (s *settings) serviceConfig() string {
	if s.dpop != nil {
		return unrepeated
	}
	return serviceConfig
}

// pings find a dead connection; the broker allows one each 10 s.
var pings = keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}

func (s *settings) dial(target string) (*grpc.ClientConn, error) {
	options, err := s.dialOptions()
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(target, options...)
}

func (s *settings) dialOptions() ([]grpc.DialOption, error) {
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(s.serviceConfig()), grpc.WithKeepaliveParams(pings), grpc.WithUserAgent(s.userAgent),
	}
	var transport credentials.TransportCredentials
	switch {
	case s.timeout <= 0:
		return nil, errors.New("tokenbroker: WithTimeout must be above 0")
	case s.loopback && s.tls != nil:
		return nil, errors.New("tokenbroker: WithInsecureLoopback and WithTLS exclude each other")
	case s.loopback && s.bearerFile != "":
		return nil, errors.New("tokenbroker: WithBearerTokenFile needs TLS")
	case s.loopback:
		transport = newLoopbackCredentials()
	default:
		files := TLSFiles{}
		if s.tls != nil {
			files = *s.tls
		}
		var err error
		if transport, err = newTLSCredentials(files); err != nil {
			return nil, err
		}
	}
	options = append(options, grpc.WithTransportCredentials(transport))
	if s.bearerFile != "" {
		bearer, err := newBearerFile(s.bearerFile)
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.WithPerRPCCredentials(bearer))
	}
	return append(options, s.extra...), nil
}
