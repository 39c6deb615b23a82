package broker

import (
	"context"
	"fmt"
	"net/url"
	"time"
)

// explained adds to an authorization server's refusal of a new secret what speaks for one
// cause or another. The server says no more than invalid_client for all of them
// (RFC 6749 §5.2).
func (run *rotationRun) explained(ctx context.Context, pending SecretVersion, err error) error {
	if ReasonOf(err) != ReasonClientRejected {
		return err
	}
	e := *AsError(err)
	hint := run.likely(ctx, pending)
	if e.Detail != "" {
		hint = e.Detail + "; " + hint
	}
	e.Detail, e.Err = hint, err
	return &e
}

// likely says why a secret may be refused, the likeliest cause first.
func (run *rotationRun) likely(ctx context.Context, pending SecretVersion) string {
	_, traits, _ := run.rotator(run.c)
	age, propagation := time.Since(pending.CreateTime), run.propagation(traits)
	method := run.c.Upstream.Authentication.Method
	switch {
	case !pending.ExpireTime.IsZero() && time.Now().After(pending.ExpireTime):
		return "expired: it was declared to end at " + pending.ExpireTime.UTC().Format(time.RFC3339)
	case age < propagation:
		return fmt.Sprintf("not live yet, maybe: it was staged %v ago, and the provider takes up to %v", age.Round(time.Second), propagation)
	case method == ClientSecretBasic && run.encodes(ctx, pending):
		return "encoding, maybe: it has characters that CLIENT_SECRET_BASIC form-encodes; servers that skip that step want CLIENT_SECRET_BASIC_RAW"
	case method == ClientSecretBasicRaw && run.encodes(ctx, pending):
		return "encoding, maybe: it has characters that RFC 6749 §2.3.1 wants form-encoded, which is CLIENT_SECRET_BASIC"
	case method == PrivateKeyJWT || method == PrivateKeyBearer:
		return "wrong key, maybe: the provider must have its public half; or method: check key_id, algorithm and audience of the assertion"
	case method == TLSClientAuth || method == SelfSignedTLSClientAuth:
		return "a certificate that the provider does not know, maybe: it must have this one, or its authority and subject; or a token_endpoint that asks for none: see mtls_endpoint_aliases of its metadata"
	default:
		return fmt.Sprintf("wrong secret, or one of another client; or method: the provider may want another one than %s", method)
	}
}

// encodes reports whether form-encoding changes a version's value.
func (run *rotationRun) encodes(ctx context.Context, version SecretVersion) bool {
	value, err := run.readSecret(ctx, run.c, version)
	defer value.Wipe()
	return err == nil && url.QueryEscape(value.RevealString()) != value.RevealString()
}
