package client

import (
	"context"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errorDomain is ErrorInfo.domain of the broker's errors (AIP-193).
const errorDomain = "tokenbroker"

// Reason is the stable cause of an error or a warning. docs/errors.md lists all of
// them; those that a program may want to act on are constants here.
type Reason string

// Reasons that a caller of GetToken meets.
const (
	ReasonCallerUnauthenticated Reason = "CALLER_UNAUTHENTICATED"
	ReasonCallerNotAllowed      Reason = "CALLER_NOT_ALLOWED"
	ReasonInvalidRequest        Reason = "INVALID_REQUEST"
	ReasonScopeNotAllowed       Reason = "SCOPE_NOT_ALLOWED"
	ReasonTargetNotAllowed      Reason = "TARGET_NOT_ALLOWED"
	ReasonTooManyRequests       Reason = "TOO_MANY_REQUESTS"
	ReasonClientNotFound        Reason = "CLIENT_NOT_FOUND"
	ReasonClientDisabled        Reason = "CLIENT_DISABLED"
	ReasonClientDeleted         Reason = "CLIENT_DELETED"
	ReasonSecretNotSet          Reason = "SECRET_NOT_SET"
	ReasonClientRejected        Reason = "CLIENT_REJECTED"
	ReasonStoreUnreachable      Reason = "STORE_UNREACHABLE"
	ReasonUpstreamUnavailable   Reason = "UPSTREAM_UNAVAILABLE"
	ReasonDPoPProofRequired     Reason = "DPOP_PROOF_REQUIRED"
	ReasonDPoPProofInvalid      Reason = "DPOP_PROOF_INVALID"
	ReasonDPoPNonceRequired     Reason = "DPOP_NONCE_REQUIRED"

	// Warnings.
	ReasonTokenShorterThanAsked Reason = "TOKEN_SHORTER_THAN_ASKED"
	ReasonScopesNarrowed        Reason = "SCOPES_NARROWED"
	ReasonRefreshFailing        Reason = "REFRESH_FAILING"
	ReasonExpiryAssumed         Reason = "EXPIRY_ASSUMED"
)

// Recovery is the class of action that mends an error.
type Recovery string

// The classes of action, as docs/errors.md explains them.
const (
	RecoveryRetry           Recovery = "RETRY"
	RecoveryWait            Recovery = "WAIT"
	RecoveryFixCaller       Recovery = "FIX_CALLER"
	RecoveryFixClient       Recovery = "FIX_CLIENT"
	RecoveryRotateSecret    Recovery = "ROTATE_SECRET"
	RecoveryFixStore        Recovery = "FIX_STORE"
	RecoveryContactProvider Recovery = "CONTACT_PROVIDER"
	RecoveryContactOperator Recovery = "CONTACT_OPERATOR"
)

// Error is why there is no token. Find it with errors.As. It has no GRPCStatus, so
// that a service which returns it from a handler of its own does not tell its peers
// what the broker told it. A call that ended with its context is
// context.DeadlineExceeded or context.Canceled too, for errors.Is.
type Error struct {
	// Reason is the cause; "" if the broker did not answer, or gRPC did in its place.
	Reason Reason
	// Code is gRPC's.
	Code codes.Code
	// Recovery says who can mend it; "" without a Reason.
	Recovery Recovery
	// RetryAfter is how long to wait before the next try; 0 if nobody said.
	RetryAfter time.Duration
	// RequestID finds the call in the broker's log; "" without a Reason.
	RequestID string
	// Message is one line for people; it may change.
	Message string
	// Metadata is what the broker says beside the reason, such as "htu" and "dpop_nonce"
	// for the next DPoP proof; nil without a Reason.
	Metadata map[string]string
}

// Error returns the message and the request id.
func (e *Error) Error() string {
	text := "tokenbroker: "
	if e.Reason == "" {
		text += e.Code.String() + ": "
	}
	text += e.Message
	if e.RequestID != "" {
		text += " (request " + e.RequestID + ")"
	}
	return text
}

// Is reports whether the call ended as contexts do.
func (e *Error) Is(target error) bool {
	return target == context.DeadlineExceeded && e.Code == codes.DeadlineExceeded ||
		target == context.Canceled && e.Code == codes.Canceled
}

// errorOf takes a status apart.
func errorOf(err error) *Error {
	s := status.Convert(err)
	e := &Error{Code: s.Code(), Message: s.Message()}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == errorDomain {
				e.Reason = Reason(d.GetReason())
				e.Metadata = d.GetMetadata()
				e.Recovery, e.RequestID = Recovery(d.GetMetadata()["recovery"]), d.GetMetadata()["request_id"]
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	return e
}

// errorOfContext is for one who stopped waiting.
func errorOfContext(ctx context.Context) *Error {
	s := status.FromContextError(ctx.Err())
	return &Error{Code: s.Code(), Message: "no token before the caller's context ended"}
}
