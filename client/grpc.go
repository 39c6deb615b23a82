package client

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// PerRPCCredentials returns credentials that put the token into the authorization
// metadata of each call, over TLS only. They send it wherever the connection goes that
// they are given to. A call for which there is no token fails with UNAVAILABLE where
// trying again may help, else with UNAUTHENTICATED, as does one whose token is bound by
// DPoP.
func (s *Source) PerRPCCredentials() credentials.PerRPCCredentials { return rpcCredentials{s} }

type rpcCredentials struct {
	source *Source
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c rpcCredentials) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, _ := credentials.RequestInfoFromContext(ctx)
	if err := credentials.CheckSecurityLevel(info.AuthInfo, credentials.PrivacyAndIntegrity); err != nil {
		return nil, status.Error(codes.Unauthenticated, "the token is sent over TLS only")
	}
	h, err := c.source.get(ctx)
	if err != nil {
		return nil, status.Error(codeOf(err), "no token from the broker: "+err.Error())
	}
	if h.token.bound() {
		return nil, status.Error(codes.Unauthenticated, "the token is bound by DPoP, which is for HTTP: use RoundTripper")
	}
	return h.metadata, nil
}

// codeOf is what a call is answered with that got no token. gRPC turns most codes of
// credentials into INTERNAL; the API's peer is not told the broker's in any case.
func codeOf(err error) codes.Code {
	var e *Error
	if errors.As(err, &e) {
		switch e.Code {
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled:
			return codes.Unavailable
		}
	}
	return codes.Unauthenticated
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (c rpcCredentials) RequireTransportSecurity() bool { return true }
