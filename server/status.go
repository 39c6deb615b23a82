package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
)

// errorDomain is ErrorInfo.domain of every error (AIP-193).
const errorDomain = "tokenbroker"

// codeOf gives each reason its gRPC code. What the caller did wrong, what is not
// there, what is in the wrong state and what may pass are told apart;
// an authorization server that rejects our client is FAILED_PRECONDITION and not
// UNAUTHENTICATED, because the caller did nothing wrong.
var codeOf = map[broker.Reason]codes.Code{
	broker.ReasonCallerUnauthenticated: codes.Unauthenticated,
	broker.ReasonCallerKeysUnavailable: codes.Unavailable,
	broker.ReasonCallerNotAllowed:      codes.PermissionDenied,
	broker.ReasonInvalidRequest:        codes.InvalidArgument,
	broker.ReasonScopeNotAllowed:       codes.PermissionDenied,
	broker.ReasonTargetNotAllowed:      codes.PermissionDenied,
	broker.ReasonTooManyRequests:       codes.ResourceExhausted,
	broker.ReasonDeadlineExceeded:      codes.DeadlineExceeded,
	broker.ReasonShuttingDown:          codes.Unavailable,
	broker.ReasonReplicaBlind:          codes.Unavailable,
	broker.ReasonAuditUnavailable:      codes.Unavailable,
	broker.ReasonInternal:              codes.Internal,

	broker.ReasonClientNotFound:      codes.NotFound,
	broker.ReasonClientAlreadyExists: codes.AlreadyExists,
	broker.ReasonClientDisabled:      codes.FailedPrecondition,
	broker.ReasonClientDeleted:       codes.FailedPrecondition,
	broker.ReasonClientNotDeleted:    codes.FailedPrecondition,
	broker.ReasonEtagMismatch:        codes.Aborted,
	broker.ReasonConcurrentChange:    codes.Aborted,

	broker.ReasonStoreUnreachable:      codes.Unavailable,
	broker.ReasonStoreSealed:           codes.Unavailable,
	broker.ReasonStoreStandby:          codes.Unavailable,
	broker.ReasonStoreRateLimited:      codes.ResourceExhausted,
	broker.ReasonStoreLoginFailed:      codes.FailedPrecondition,
	broker.ReasonStoreTokenDead:        codes.FailedPrecondition,
	broker.ReasonStorePermissionDenied: codes.FailedPrecondition,
	broker.ReasonStoreMountMissing:     codes.FailedPrecondition,
	broker.ReasonStoreNotKV2:           codes.FailedPrecondition,
	broker.ReasonStoreExpiresRecords:   codes.FailedPrecondition,
	broker.ReasonStoreForeignData:      codes.FailedPrecondition,
	broker.ReasonStoreKeyWrong:         codes.FailedPrecondition,
	broker.ReasonStoreLocked:           codes.FailedPrecondition,
	broker.ReasonStoreDamaged:          codes.DataLoss,
	broker.ReasonStoreConflict:         codes.Aborted,
	broker.ReasonStoreAnswerLost:       codes.Unavailable,
	broker.ReasonStoreFailed:           codes.Unavailable,

	broker.ReasonRecordAbsent:       codes.DataLoss,
	broker.ReasonRecordDeleted:      codes.FailedPrecondition,
	broker.ReasonRecordDestroyed:    codes.DataLoss,
	broker.ReasonRecordPruned:       codes.DataLoss,
	broker.ReasonRecordCorrupt:      codes.DataLoss,
	broker.ReasonRecordSchemaNewer:  codes.FailedPrecondition,
	broker.ReasonRecordFieldMissing: codes.DataLoss,

	broker.ReasonSecretNotSet:          codes.FailedPrecondition,
	broker.ReasonSecretVersionNotFound: codes.NotFound,
	broker.ReasonSecretAbsent:          codes.FailedPrecondition,
	broker.ReasonSecretDeleted:         codes.FailedPrecondition,
	broker.ReasonSecretDestroyed:       codes.FailedPrecondition,
	broker.ReasonSecretPruned:          codes.FailedPrecondition,
	broker.ReasonSecretChangedOutside:  codes.FailedPrecondition,
	broker.ReasonSecretExpired:         codes.FailedPrecondition,
	broker.ReasonSecretUnusable:        codes.FailedPrecondition,
	broker.ReasonSecretUnchanged:       codes.FailedPrecondition,
	broker.ReasonSecretWrongStage:      codes.FailedPrecondition,
	broker.ReasonSecretNotVerified:     codes.FailedPrecondition,
	broker.ReasonTooManySecretVersions: codes.FailedPrecondition,
	broker.ReasonDestinationNotBound:   codes.FailedPrecondition,

	broker.ReasonWrappingTokenInvalid:   codes.FailedPrecondition,
	broker.ReasonWrappingPathRefused:    codes.PermissionDenied,
	broker.ReasonWrappingAnswerLost:     codes.FailedPrecondition,
	broker.ReasonWrappingContentInvalid: codes.InvalidArgument,
	broker.ReasonReferenceNotAllowed:    codes.PermissionDenied,
	broker.ReasonReferenceUnreadable:    codes.FailedPrecondition,

	broker.ReasonRotationNotFound:       codes.NotFound,
	broker.ReasonRotationUnderWay:       codes.FailedPrecondition,
	broker.ReasonRotationWrongState:     codes.FailedPrecondition,
	broker.ReasonRotationGapNotAccepted: codes.FailedPrecondition,
	broker.ReasonRotatorNotSet:          codes.FailedPrecondition,
	broker.ReasonRotatorUnauthorized:    codes.FailedPrecondition,
	broker.ReasonRotatorRefused:         codes.FailedPrecondition,
	broker.ReasonRotatorOutcomeUnknown:  codes.FailedPrecondition,
	broker.ReasonUpstreamSecretLost:     codes.FailedPrecondition,

	broker.ReasonUpstreamAddressRefused: codes.FailedPrecondition,
	broker.ReasonUpstreamDNS:            codes.Unavailable,
	broker.ReasonUpstreamConnect:        codes.Unavailable,
	broker.ReasonUpstreamTLS:            codes.Unavailable,
	broker.ReasonUpstreamProxy:          codes.Unavailable,
	broker.ReasonUpstreamTimeout:        codes.Unavailable,
	broker.ReasonUpstreamRedirected:     codes.FailedPrecondition,
	broker.ReasonUpstreamRateLimited:    codes.ResourceExhausted,
	broker.ReasonUpstreamUnavailable:    codes.Unavailable,
	broker.ReasonUpstreamMalformed:      codes.Unavailable,
	broker.ReasonUpstreamRefused:        codes.FailedPrecondition,
	broker.ReasonClientRejected:         codes.FailedPrecondition,
	broker.ReasonGrantRejected:          codes.FailedPrecondition,
	broker.ReasonGrantTypeRejected:      codes.FailedPrecondition,
	broker.ReasonScopeRejected:          codes.FailedPrecondition,
	broker.ReasonTargetRejected:         codes.FailedPrecondition,
	broker.ReasonRequestRejected:        codes.FailedPrecondition,
	broker.ReasonTokenTypeUnsupported:   codes.FailedPrecondition,
	broker.ReasonScopeNotGranted:        codes.FailedPrecondition,
	broker.ReasonTokenExpired:           codes.FailedPrecondition,
	broker.ReasonIssuanceBudgetSpent:    codes.ResourceExhausted,
	broker.ReasonLiveTokensSpent:        codes.ResourceExhausted,

	broker.ReasonProviderUnknown:         codes.FailedPrecondition,
	broker.ReasonProviderNotFound:        codes.NotFound,
	broker.ReasonDiscoveryFailed:         codes.FailedPrecondition,
	broker.ReasonIssuerMismatch:          codes.FailedPrecondition,
	broker.ReasonTokenInactive:           codes.Unavailable,
	broker.ReasonDPoPProofRequired:       codes.FailedPrecondition,
	broker.ReasonDPoPProofInvalid:        codes.InvalidArgument,
	broker.ReasonDPoPNonceRequired:       codes.FailedPrecondition,
	broker.ReasonTokenBoundElsewhere:     codes.FailedPrecondition,
	broker.ReasonTokenNotBound:           codes.FailedPrecondition,
	broker.ReasonSubjectTokenRejected:    codes.FailedPrecondition,
	broker.ReasonAuthorizationNotFound:   codes.NotFound,
	broker.ReasonAuthorizationRequired:   codes.FailedPrecondition,
	broker.ReasonAuthorizationPending:    codes.FailedPrecondition,
	broker.ReasonAuthorizationDenied:     codes.FailedPrecondition,
	broker.ReasonAuthorizationExpired:    codes.FailedPrecondition,
	broker.ReasonAuthorizationNotTaken:   codes.FailedPrecondition,
	broker.ReasonAuthorizationAnswerLost: codes.FailedPrecondition,
	broker.ReasonAuthorizationNotOffered: codes.FailedPrecondition,
	broker.ReasonStateInvalid:            codes.InvalidArgument,
	broker.ReasonIDTokenInvalid:          codes.FailedPrecondition,
	broker.ReasonRefreshTokenMissing:     codes.FailedPrecondition,
	broker.ReasonRefreshTokenExpired:     codes.FailedPrecondition,
	broker.ReasonRefreshTokenRejected:    codes.FailedPrecondition,
	broker.ReasonPasswordRejected:        codes.FailedPrecondition,
	broker.ReasonRefreshTokenReused:      codes.FailedPrecondition,
	broker.ReasonRefreshAnswerLost:       codes.FailedPrecondition,
	broker.ReasonGrantOfOldClient:        codes.FailedPrecondition,

	broker.ReasonEndpointWrong:             codes.FailedPrecondition,
	broker.ReasonEndpointsMixed:            codes.FailedPrecondition,
	broker.ReasonUpstreamNotOAuth:          codes.FailedPrecondition,
	broker.ReasonUpstreamClockSkew:         codes.FailedPrecondition,
	broker.ReasonUpstreamCertificateEnds:   codes.FailedPrecondition,
	broker.ReasonUpstreamAddressDead:       codes.FailedPrecondition,
	broker.ReasonMetadataDisagrees:         codes.FailedPrecondition,
	broker.ReasonAuthenticationMethodWrong: codes.FailedPrecondition,
	broker.ReasonClientIDDoubtful:          codes.FailedPrecondition,
	broker.ReasonSecretDoubtful:            codes.FailedPrecondition,
	broker.ReasonAuthenticationNotEnforced: codes.FailedPrecondition,
	broker.ReasonAPITokenRefused:           codes.FailedPrecondition,
	broker.ReasonAPIPermissionMissing:      codes.FailedPrecondition,
	broker.ReasonAPINotEnforcing:           codes.FailedPrecondition,
	broker.ReasonTokensEndEarly:            codes.FailedPrecondition,
	broker.ReasonCheckWouldHarm:            codes.FailedPrecondition,
	broker.ReasonCheckNotPermitted:         codes.PermissionDenied,
	broker.ReasonCheckBudgetSpent:          codes.ResourceExhausted,
	broker.ReasonFailureNotSeen:            codes.NotFound,
}

// Code returns the gRPC code of a reason; Internal for one that never is an error.
func Code(r broker.Reason) codes.Code {
	if code, ok := codeOf[r]; ok {
		return code
	}
	return codes.Internal
}

// defaultRetryDelay stands in RetryInfo where the broker knows no better.
const defaultRetryDelay = time.Second

// tellings are what one peer is told of an error besides the error itself.
type tellings struct {
	requestID string
	// details says that it is one who may know paths and settings.
	details bool
	// nextCheck is the check that would tell it more; "" for none.
	nextCheck string
}

// statusOf turns an error into what the peer is told: code, reason, recovery, what
// is wrong and what mends it. Only operators get the detail, which may name paths
// and settings; nobody gets the cause, which is for the log.
func statusOf(err error, told tellings) *status.Status {
	if errors.Is(err, context.Canceled) && broker.ReasonOf(err) == broker.ReasonDeadlineExceeded {
		return status.New(codes.Canceled, "the caller left before there was an answer")
	}
	e := broker.AsError(err)
	info, code := e.Reason.Info(), Code(e.Reason)
	metadata := map[string]string{"recovery": string(info.Recovery), "request_id": told.requestID}
	if e.Client != "" {
		metadata["client"] = "clients/" + e.Client
	}
	if told.details && e.Detail != "" {
		metadata["detail"] = e.Detail
	}
	if told.nextCheck != "" {
		metadata["next_check"] = told.nextCheck
	}
	for key, value := range e.Told {
		metadata[key] = value
	}
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: string(e.Reason), Domain: errorDomain, Metadata: metadata})}
	if len(e.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range within(e.Fields, mostDetailBytes) {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Field, Description: f.Problem})
		}
		details = append(details, protoadapt.MessageV1Of(bad))
	}
	if delay := e.RetryAfter; delay > 0 || code == codes.Unavailable || code == codes.ResourceExhausted {
		if delay <= 0 {
			delay = defaultRetryDelay
		}
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}))
	}
	st, detailErr := status.New(code, publicText(e, info, told.details)).WithDetails(details...)
	if detailErr != nil { // only an OK status refuses details
		return status.New(code, string(e.Reason))
	}
	return st
}

// An error travels in trailers, of which some clients take no more than 8 KiB (gRPC
// for Java by default). The text is in them twice, once percent-encoded and once,
// with the details, in base64.
const (
	mostTextBytes   = 384
	mostDetailBytes = 1536
)

// within returns the first violations that fit into most bytes, but at least one,
// and says how many it left out.
func within(fields []broker.FieldViolation, most int) []broker.FieldViolation {
	size := 0
	for i, f := range fields {
		if size += len(f.Field) + len(f.Problem); size > most && i > 0 {
			left := broker.FieldViolation{Field: f.Field, Problem: fmt.Sprintf("and %d more", len(fields)-i)}
			return append(fields[:i:i], left)
		}
	}
	return fields
}

// publicText is one line for people: what is wrong, where, and what mends it.
func publicText(e *broker.Error, info broker.ReasonInfo, operator bool) string {
	parts := []string{string(info.Reason) + ":"}
	if e.Client != "" {
		parts = append(parts, "clients/"+e.Client+":")
	}
	parts = append(parts, info.Summary)
	for _, f := range within(e.Fields, mostTextBytes) {
		parts = append(parts, "["+f.Field+" "+f.Problem+"]")
	}
	if operator && e.Detail != "" {
		parts = append(parts, "("+e.Detail+")")
	}
	return strings.Join(append(parts, info.Remedy), " ")
}
