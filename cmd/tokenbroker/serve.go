package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokenbroker/tokenbroker/vault"
)

// configFlag is the flag that most commands share.
type configFlag struct {
	Config string `help:"Configuration file (YAML); docs/operations.md describes every key." placeholder:"FILE" required:"" env:"TOKENBROKER_CONFIG" type:"path"`
}

func (f configFlag) load() (*config, error) {
	cfg, err := loadConfig(f.Config)
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

type serveCommand struct {
	configFlag
}

// Run serves until ctx ends.
func (c *serveCommand) Run(ctx context.Context, p *process) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	log := newLogger(cfg.Log, p.stderr)
	if err := cfg.Process.harden(log); err != nil {
		return err
	}
	s, err := newService(cfg, log)
	if err != nil {
		return err
	}
	listeners, err := cfg.Listen.listen()
	if err != nil {
		return fmt.Errorf("listen: %w", joinClose(err, s))
	}
	return s.run(ctx, listeners...)
}

func joinClose(err error, s *service) error {
	if closeErr := s.close(); closeErr != nil {
		return fmt.Errorf("%w (and while closing: %v)", err, closeErr)
	}
	return err
}

type checkConfigCommand struct {
	configFlag
}

// Run prints what is wrong, or that nothing is.
func (c *checkConfigCommand) Run(p *process) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s is sound\n", c.Config)
	for _, warning := range cfg.warnings() {
		fmt.Fprintf(p.stdout, "warning: %s\n", warning)
	}
	return nil
}

type vaultPolicyCommand struct {
	Mount  string `help:"Mount of the KV version 2 engine." default:"tokenbroker" placeholder:"PATH"`
	Prefix string `help:"Prefix within the mount." placeholder:"PATH"`

	References []string `help:"Place of secrets that clients may refer to, as in secrets.references: its mount, a colon, and its prefix. May be repeated." name:"reference" sep:"none" placeholder:"MOUNT:PREFIX"`
}

// Run prints the policy, ready for `vault policy write tokenbroker -`.
func (c *vaultPolicyCommand) Run(p *process) error {
	// Only mount and prefix are looked at: a quote or a wildcard in them would print
	// another policy than was asked for.
	settings := vault.Config{Address: "https://vault.invalid", TokenFile: "unused", Mount: c.Mount, Prefix: c.Prefix}
	if err := settings.Validate(); err != nil {
		return usageError{err}
	}
	var places []vault.Place
	for _, text := range c.References {
		mount, prefix, _ := strings.Cut(text, ":")
		places = append(places, vault.Place{Mount: mount, Prefix: prefix})
	}
	if err := (vault.Sources{References: places}).Validate(c.Mount); err != nil {
		return usageError{err}
	}
	_, err := fmt.Fprint(p.stdout, vault.Policy(c.Mount, c.Prefix, places...))
	return err
}

type versionCommand struct{}

// Run prints version, revision and Go version.
func (c *versionCommand) Run(p *process) error {
	revision := "unknown revision"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			revision = setting.Value
		}
	}
	_, err := fmt.Fprintf(p.stdout, "tokenbroker %s (%s, %s)\n", version, revision, info.GoVersion)
	return err
}

type healthCommand struct {
	configFlag
	Service string        `help:"Service to ask about, such as tokenbroker.v1.TokenService; empty asks whether the process lives." placeholder:"NAME"`
	Timeout time.Duration `help:"How long to wait." default:"3s"`
}

// Run asks the server that the configuration describes; an error means unhealthy.
func (c *healthCommand) Run(ctx context.Context, p *process) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	return c.ask(ctx, p, cfg)
}

// ask prints what the server says of its health.
func (c *healthCommand) ask(ctx context.Context, p *process, cfg *config) error {
	creds, err := healthCredentials(cfg.Listen)
	if err != nil {
		return err
	}
	target := "passthrough:///" + reachable(cfg.Listen.Address)
	if cfg.Listen.Address == "" {
		target = "unix:" + cfg.Listen.UNIXSocket.Path
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: c.Service})
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	fmt.Fprintln(p.stdout, answer.GetStatus())
	if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the server is %s", answer.GetStatus())
	}
	return nil
}

// healthCredentials trusts exactly the certificate that the configuration names:
// the check runs beside the server and needs no authority.
func healthCredentials(listen listenConfig) (credentials.TransportCredentials, error) {
	if listen.InsecurePlaintext || listen.Address == "" {
		return insecure.NewCredentials(), nil
	}
	content, err := os.ReadFile(listen.CertificateFile)
	if err != nil {
		return nil, fmt.Errorf("health check: %w", err)
	}
	own, _ := pem.Decode(content)
	if own == nil {
		return nil, fmt.Errorf("health check: %s holds no certificate", listen.CertificateFile)
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // replaced by the comparison below, which is stricter
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 || string(raw[0]) != string(own.Bytes) {
				return fmt.Errorf("the server presents another certificate than %s", listen.CertificateFile)
			}
			return nil
		},
	}), nil
}

// reachable turns an address that listens everywhere into one that can be dialled.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return address
}
