package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	demoClient   = "clients/demo"
	brokenClient = "clients/demo-broken"
	demoAppID    = "demo-app"
)

type devCommand struct {
	Dir                 string `help:"Folder for store, certificates and configuration; .tokenbroker-dev by default, with --once one that is removed at the end." placeholder:"DIR" env:"TOKENBROKER_DEV_DIR" type:"path"`
	Address             string `help:"Address of the API; 127.0.0.1:7443 by default, with --once any free port." placeholder:"HOST:PORT"`
	AuthorizationServer string `help:"Address of the demonstration's authorization server; 127.0.0.1:7480 by default, with --once any free port." placeholder:"HOST:PORT"`
	Callback            string `help:"Address of the callback of users' consent, over plain http on loopback: its URL is http://HOST:PORT/authorization/callback. None by default." placeholder:"HOST:PORT"`
	Demo                bool   `help:"Walk through getting a token, rotating a secret and finding out why a lookup fails; then keep serving."`
	Once                bool   `help:"Like --demo, but end after it: status 0 if all went well."`
}

// setDefaults fills in what was not said.
func (c *devCommand) setDefaults() (cleanup func(), err error) {
	cleanup = func() {}
	dir, address, authorization := ".tokenbroker-dev", "127.0.0.1:7443", "127.0.0.1:7480"
	if c.Once {
		c.Demo = true
		address, authorization = "127.0.0.1:0", "127.0.0.1:0"
		if c.Dir == "" {
			if dir, err = os.MkdirTemp("", "tokenbroker-dev-"); err != nil {
				return cleanup, err
			}
			made := dir
			cleanup = func() { _ = os.RemoveAll(made) }
		}
	}
	for field, value := range map[*string]string{&c.Dir: dir, &c.Address: address, &c.AuthorizationServer: authorization} {
		if *field == "" {
			*field = value
		}
	}
	return cleanup, os.MkdirAll(c.Dir, 0o700)
}

// Run sets up, serves and, if asked, demonstrates.
func (c *devCommand) Run(ctx context.Context, p *process) error {
	cleanup, err := c.setDefaults()
	defer cleanup()
	if err != nil {
		return err
	}
	d := &development{process: p, files: devFiles{c.Dir}}
	if err := d.start(ctx, c); err != nil {
		return errors.Join(err, d.close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- d.service.run(ctx, d.listener) }()
	walked := make(chan error, 1)
	go func() { walked <- d.walk(ctx, c) }()
	// Whichever ends first ends the other: a server that cannot serve, a walk that
	// failed or was all there was to do.
	select {
	case err = <-served:
		cancel()
		err = errors.Join(err, ignoreCanceled(<-walked))
	case err = <-walked:
		if c.Once || err != nil {
			cancel()
		}
		err = errors.Join(ignoreCanceled(err), <-served)
	}
	return errors.Join(err, d.close())
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled {
		return nil
	}
	return err
}

// development is a running development set-up.
type development struct {
	process  *process
	files    devFiles
	listener net.Listener
	service  *service
	upstream *authserver.Running

	caller, operator *grpc.ClientConn
}

func (d *development) start(ctx context.Context, c *devCommand) (err error) {
	if err := d.files.writeCertificates(); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	if d.listener, err = net.Listen("tcp", c.Address); err != nil {
		return fmt.Errorf("listen: %w; choose another address with --address", err)
	}
	if err := d.files.writeConfig(d.listener.Addr().String(), c.Callback, c.Once); err != nil {
		return err
	}
	cfg, err := loadConfig(d.files.path("config.yaml"))
	if err != nil {
		return err
	}
	log := newLogger(cfg.Log, d.process.stderr)
	if err := cfg.Process.harden(log); err != nil {
		return err
	}
	d.upstream, err = authserver.Start(context.WithoutCancel(ctx), c.AuthorizationServer, authserver.Config{
		TokenLifetime: time.Hour,
		Clients:       []authserver.Client{{ID: demoAppID, Secrets: []secret.Value{newSecret()}, Scopes: []string{"contacts.read", "contacts.write"}}},
	})
	if err != nil {
		return fmt.Errorf("start the authorization server: %w; choose another address with --authorization-server", err)
	}
	if d.service, err = newService(cfg, log); err != nil {
		return err
	}
	if d.caller, err = d.dial("caller"); err != nil {
		return err
	}
	d.operator, err = d.dial("operator")
	return err
}

// dial connects to the own API over mutual TLS, as any other caller does.
func (d *development) dial(name string) (*grpc.ClientConn, error) {
	certificate, err := tls.LoadX509KeyPair(d.files.path(name+".pem"), d.files.path(name+"-key.pem"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(d.files.path("ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	creds := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, RootCAs: roots})
	return grpc.NewClient("passthrough:///"+d.listener.Addr().String(), grpc.WithTransportCredentials(creds))
}

// close closes what start opened and service.run does not.
func (d *development) close() error {
	var errs []error
	for _, conn := range []*grpc.ClientConn{d.caller, d.operator} {
		if conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	if d.upstream != nil {
		errs = append(errs, d.upstream.Close())
	}
	if d.service != nil {
		errs = append(errs, d.service.close())
	}
	if d.listener != nil {
		if err := d.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// walk registers the demonstration's client, demonstrates if asked, and says how
// to go on.
func (d *development) walk(ctx context.Context, c *devCommand) error {
	if err := d.register(ctx, demoClient); err != nil {
		return fmt.Errorf("register %s: %w", demoClient, err)
	}
	if c.Demo {
		if err := d.demonstrate(ctx); err != nil {
			return fmt.Errorf("demonstration: %w", err)
		}
	}
	if c.Once {
		return nil
	}
	return d.banner()
}

// register makes a client, or gives one that is left from an earlier start a new
// secret: the authorization server forgets its secrets when it ends.
func (d *development) register(ctx context.Context, name string) error {
	value := newSecret()
	if err := d.upstream.Server.AddSecret(demoAppID, value); err != nil {
		return err
	}
	input := &pb.SecretInput{Value: &pb.SecretInput_ClientSecret{ClientSecret: value.RevealString()}}
	client := &pb.Client{
		Name: name, Labels: map[string]string{"team": "demo"}, TokenEndpoint: d.upstream.Server.TokenEndpoint(), ClientId: demoAppID,
		AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC,
		DefaultScopes:        []string{"contacts.read"}, AllowedScopes: []string{"contacts.write"},
	}
	clients := pb.NewClientServiceClient(d.operator)
	_, err := clients.CreateClient(ctx, &pb.CreateClientRequest{Client: client, Secret: input}, grpc.WaitForReady(true))
	if status.Code(err) != codes.AlreadyExists {
		return err
	}
	if err := d.retireAll(ctx, name); err != nil {
		return err
	}
	_, err = clients.UpdateClient(ctx, &pb.UpdateClientRequest{Client: client, Secret: input, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"token_endpoint"}}})
	return err
}

// retireAll destroys every version of a client but the current one.
func (d *development) retireAll(ctx context.Context, name string) error {
	rotation := pb.NewRotationServiceClient(d.operator)
	list, err := rotation.ListSecretVersions(ctx, &pb.ListSecretVersionsRequest{Client: name})
	if err != nil {
		return err
	}
	for _, v := range list.GetSecretVersions() {
		if v.GetStage() == pb.SecretStage_SECRET_STAGE_CURRENT {
			continue
		}
		if _, err := rotation.RetireSecret(ctx, &pb.RetireSecretRequest{Client: name, SecretVersion: v.GetNumber()}); err != nil {
			return err
		}
	}
	return nil
}

// banner prints lines that can be pasted. The second secret of the demonstration
// is put into a file, because a secret has no place on a command line.
func (d *development) banner() error {
	value := newSecret()
	if err := d.upstream.Server.AddSecret(demoAppID, value); err != nil {
		return err
	}
	stage, err := json.Marshal(map[string]any{"client": demoClient, "secret": map[string]string{"clientSecret": value.RevealString()}})
	if err != nil {
		return err
	}
	if err := writePrivate(d.files.path("stage.json"), stage); err != nil {
		return err
	}
	dir := d.files.dir
	if here, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(here, dir); err == nil && !strings.HasPrefix(relative, "..") {
			dir = relative
		}
	}
	line := func(who, request, method, input string) string {
		return fmt.Sprintf("grpcurl -cacert %[1]s/ca.pem -cert %[1]s/%[2]s.pem -key %[1]s/%[2]s-key.pem -d %[3]s %[4]s tokenbroker.v1.%[5]s%[6]s",
			dir, who, request, d.listener.Addr(), method, input)
	}
	client := `'{"client":"` + demoClient + `"}'`
	_, err = fmt.Fprintf(d.process.stdout, `
tokenbroker serves on %s over mutual TLS; the authorization server on %s.
Everything is in %s. Paste (grpcurl: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4):

# as a caller: a token
%s

# as an operator: the client's record, which never holds a secret
%s

# a new secret, from a file or typed on standard input (-d @), never on the command line
%s
%s
%s

# why a lookup fails
%s

# as a caller: who the broker sees, and what that one may do
%s

# who got which token, and that nobody has changed the record
tokenbroker audit verify --key %s/audit.key --running 1 %s/audit.log

Stop with Ctrl-C.
`, d.listener.Addr(), strings.TrimSuffix(d.upstream.Server.TokenEndpoint(), authserver.TokenPath), dir,
		line("caller", client, "TokenService/GetToken", ""),
		line("operator", `'{"name":"`+demoClient+`"}'`, "ClientService/GetClient", ""),
		line("operator", "@", "RotationService/StageSecret", " < "+dir+"/stage.json"),
		line("operator", client, "RotationService/VerifySecret", ""),
		line("operator", client, "RotationService/PromoteSecret", ""),
		line("operator", client, "DiagnosticsService/CheckLookup", ""),
		line("caller", "'{}'", "AccessService/WhoAmI", ""),
		dir, dir)
	return err
}
