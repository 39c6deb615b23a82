// Package client is what backend services import to get access tokens from the
// broker. A [Client] is a connection; a [Source] keeps one token warm on top of it,
// and hands it out as an oauth2.TokenSource, as credentials of gRPC calls, or in an
// http.RoundTripper.
//
// It guards three invariants: a token is served without asking only until the broker
// said that asking may bring a newer one; while the broker is away the token that is
// held is served until it expires; a token leaves only over TLS, and over HTTP only to
// origins that were named. Nothing that the package returns prints a token.
//
// It does not decide what a token is good for, and it stores nothing on disk.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// ErrClosed is returned by a [Client] or [Source] that was closed, also to calls that
// were under way.
var ErrClosed = errors.New("tokenbroker: client is closed")

// DefaultTimeout bounds a call whose context has no deadline. The broker gives a new
// token 20 s at most.
const DefaultTimeout = 30 * time.Second

// Client asks one broker for tokens. Make it with [New] or [NewFromConn] and close it
// when the last token was had. It is safe for concurrent use.
type Client struct {
	tokens    pb.TokenServiceClient
	closeConn func() error
	timeout   time.Duration
	dpop      *DPoPKey // nil if calls bring no proofs
	// ctx ends with Close, and with it everything that is under way.
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex           // guards sources
	sources map[*Source]struct{} // nil after Close
}

// New returns a client of the broker at target, a name as grpc-go knows them:
// "broker.example.org:7443", "dns:///broker.example.org:7443". It connects with the
// first call, in the background, with TLS 1.3 and the system's authorities unless an
// option says otherwise, spreads calls over all addresses of the name, and repeats
// what was answered with UNAVAILABLE twice. The error names what is wrong with the
// options or the files that they name; a broker that is away is none.
func New(target string, options ...Option) (*Client, error) {
	s := settingsOf(options)
	conn, err := s.dial(target)
	if err != nil {
		return nil, err
	}
	c := newClient(conn, s)
	c.closeConn = sync.OnceValue(conn.Close)
	return c, nil
}

// Dial returns the connection that [New] would make, for calls of the contract that
// this package has no words for, such as those of RotationService. [WithTimeout] means
// nothing to it. The caller closes it.
func Dial(target string, options ...Option) (*grpc.ClientConn, error) {
	s := settingsOf(options)
	return s.dial(target)
}

// NewFromConn returns a client on a connection that the caller made and closes, after
// the client: with other balancing, interceptors or credentials than [New] offers. Of the
// options only [WithTimeout] and [WithDPoP] mean something to it.
func NewFromConn(conn grpc.ClientConnInterface, options ...Option) *Client {
	return newClient(conn, settingsOf(options))
}

func newClient(conn grpc.ClientConnInterface, s *settings) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	return &Client{
		tokens: pb.NewTokenServiceClient(conn), closeConn: func() error { return nil }, timeout: s.timeout, dpop: s.dpop,
		ctx: ctx, cancel: cancel, sources: map[*Source]struct{}{},
	}
}

// Close closes all sources of c and ends the calls that are under way with
// [ErrClosed]. When it returns nothing of c is left running. It may be called twice.
func (c *Client) Close() error {
	c.cancel()
	c.mu.Lock()
	open := c.sources
	c.sources = nil
	c.mu.Unlock()
	for s := range open {
		s.Close()
	}
	return c.closeConn()
}

// Format writes the type's name, whatever the verb.
func (c *Client) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "client.Client")
}

// Request says whose token is wanted and for what.
type Request struct {
	// Client is the client's name: "clients/acme-crm". Required.
	Client string
	// Scopes, Audience and Resources to ask for; empty takes the client's own.
	Scopes    []string
	Audience  string
	Resources []string
	// Subject says whose grant is meant, for clients whose tokens users consent to.
	Subject string
	// CertificateThumbprint is that of the certificate that tokens may be bound to
	// (RFC 8705, SHA-256, base64url): the caller has its key.
	CertificateThumbprint string
	// MinValidity is how long the token should still be good, at most 24 h; 0 takes
	// the client's own, which is 10 s unless an operator set it. Longer than half of
	// the token's life is not to be had.
	MinValidity time.Duration
	// Watch keeps a stream open on which the broker sends each new token, also to a
	// source that nobody asks. It needs the permission token.watch; without it the
	// source asks from time to time. Only [Client.Source] looks at it.
	Watch bool
}

func (r Request) clone() Request {
	r.Scopes, r.Resources = slices.Clone(r.Scopes), slices.Clone(r.Resources)
	return r
}

// Token asks the broker for a token. It waits for a connection, and for the broker,
// until ctx ends, or [DefaultTimeout] if ctx has no deadline. A program that needs the
// same token again uses [Client.Source]. The error is an [*Error] or [ErrClosed].
func (c *Client) Token(ctx context.Context, r Request) (*Token, error) {
	a, err := c.ask(ctx, r, "")
	if err != nil {
		return nil, err
	}
	return a.token, nil
}

// answer is a token and when, on this machine, it was asked for and had.
type answer struct {
	token          *Token
	sent, received time.Time
	// unasked says that it came on a stream, sent at nobody knows what time.
	unasked bool
}

func (c *Client) ask(ctx context.Context, r Request, rejectedID string) (answer, error) {
	request := &pb.GetTokenRequest{
		Client: r.Client, Scopes: r.Scopes, Audience: r.Audience, Resources: r.Resources, RejectedTokenId: rejectedID,
		Subject: r.Subject, CertificateThumbprint: r.CertificateThumbprint,
	}
	if r.MinValidity != 0 {
		request.MinValidity = durationpb.New(r.MinValidity)
	}
	var cancel context.CancelFunc
	if _, bounded := ctx.Deadline(); bounded {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
	}
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	sent := time.Now()
	response, err := c.getToken(ctx, request)
	switch {
	case err != nil && c.ctx.Err() != nil:
		return answer{}, ErrClosed
	case err != nil:
		return answer{}, errorOf(err)
	}
	token, err := tokenOf(response)
	return answer{token: token, sent: sent, received: time.Now()}, err
}

// getToken makes the call, with a proof where the client has a key for them.
func (c *Client) getToken(ctx context.Context, request *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	call := func(ctx context.Context, request *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		return c.tokens.GetToken(ctx, request, grpc.WaitForReady(true))
	}
	if c.dpop == nil {
		return call(ctx, request)
	}
	return c.dpop.getToken(ctx, request, call)
}
