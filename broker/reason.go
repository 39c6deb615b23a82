package broker

// Reason is a stable, documented name for one cause of a failure or warning. It
// is the same on the wire (ErrorInfo.reason), in logs and in docs/errors.md.
type Reason string

// Recovery is the class of action that mends a [Reason].
type Recovery string

// The recovery actions.
const (
	// RecoveryRetry: the same call may succeed at once or after RetryInfo.
	RecoveryRetry Recovery = "RETRY"
	// RecoveryWait: a try before RetryInfo's delay is useless.
	RecoveryWait Recovery = "WAIT"
	// RecoveryFixCaller: the caller's request or identity is wrong.
	RecoveryFixCaller Recovery = "FIX_CALLER"
	// RecoveryFixClient: the registered client's settings are wrong.
	RecoveryFixClient Recovery = "FIX_CLIENT"
	// RecoveryRotateSecret: a new secret is needed.
	RecoveryRotateSecret Recovery = "ROTATE_SECRET"
	// RecoveryFixStore: Vault or the embedded store needs an operator.
	RecoveryFixStore Recovery = "FIX_STORE"
	// RecoveryContactProvider: only the authorization server's operator can mend it.
	RecoveryContactProvider Recovery = "CONTACT_PROVIDER"
	// RecoveryContactOperator: only the operator of this service can mend it.
	RecoveryContactOperator Recovery = "CONTACT_OPERATOR"
	// RecoveryReauthorize: the user must give consent again.
	RecoveryReauthorize Recovery = "REAUTHORIZE"
)

// The reasons. What each means and what mends it is in the table below.
const (
	ReasonCallerUnauthenticated Reason = "CALLER_UNAUTHENTICATED"
	ReasonCallerKeysUnavailable Reason = "CALLER_KEYS_UNAVAILABLE"
	ReasonCallerNotAllowed      Reason = "CALLER_NOT_ALLOWED"
	ReasonInvalidRequest        Reason = "INVALID_REQUEST"
	ReasonScopeNotAllowed       Reason = "SCOPE_NOT_ALLOWED"
	ReasonTargetNotAllowed      Reason = "TARGET_NOT_ALLOWED"
	ReasonTooManyRequests       Reason = "TOO_MANY_REQUESTS"
	ReasonDeadlineExceeded      Reason = "DEADLINE_EXCEEDED"
	ReasonShuttingDown          Reason = "SHUTTING_DOWN"
	ReasonReplicaBlind          Reason = "REPLICA_BLIND"
	ReasonAuditUnavailable      Reason = "AUDIT_UNAVAILABLE"
	ReasonInternal              Reason = "INTERNAL"

	ReasonClientNotFound      Reason = "CLIENT_NOT_FOUND"
	ReasonClientAlreadyExists Reason = "CLIENT_ALREADY_EXISTS"
	ReasonClientDisabled      Reason = "CLIENT_DISABLED"
	ReasonClientDeleted       Reason = "CLIENT_DELETED"
	ReasonClientNotDeleted    Reason = "CLIENT_NOT_DELETED"
	ReasonEtagMismatch        Reason = "ETAG_MISMATCH"
	ReasonConcurrentChange    Reason = "CONCURRENT_CHANGE"

	ReasonStoreUnreachable      Reason = "STORE_UNREACHABLE"
	ReasonStoreSealed           Reason = "STORE_SEALED"
	ReasonStoreStandby          Reason = "STORE_STANDBY"
	ReasonStoreRateLimited      Reason = "STORE_RATE_LIMITED"
	ReasonStoreLoginFailed      Reason = "STORE_LOGIN_FAILED"
	ReasonStoreTokenDead        Reason = "STORE_TOKEN_DEAD"
	ReasonStorePermissionDenied Reason = "STORE_PERMISSION_DENIED"
	ReasonStoreMountMissing     Reason = "STORE_MOUNT_MISSING"
	ReasonStoreNotKV2           Reason = "STORE_NOT_KV2"
	ReasonStoreExpiresRecords   Reason = "STORE_EXPIRES_RECORDS"
	ReasonStoreForeignData      Reason = "STORE_FOREIGN_DATA"
	ReasonStoreKeyWrong         Reason = "STORE_KEY_WRONG"
	ReasonStoreLocked           Reason = "STORE_LOCKED"
	ReasonStoreDamaged          Reason = "STORE_DAMAGED"
	ReasonStoreConflict         Reason = "STORE_CONFLICT"
	ReasonStoreAnswerLost       Reason = "STORE_ANSWER_LOST"
	ReasonStoreFailed           Reason = "STORE_FAILED"

	ReasonRecordAbsent       Reason = "RECORD_ABSENT"
	ReasonRecordDeleted      Reason = "RECORD_DELETED"
	ReasonRecordDestroyed    Reason = "RECORD_DESTROYED"
	ReasonRecordPruned       Reason = "RECORD_PRUNED"
	ReasonRecordCorrupt      Reason = "RECORD_CORRUPT"
	ReasonRecordSchemaNewer  Reason = "RECORD_SCHEMA_NEWER"
	ReasonRecordFieldMissing Reason = "RECORD_FIELD_MISSING"

	ReasonSecretNotSet          Reason = "SECRET_NOT_SET"
	ReasonSecretVersionNotFound Reason = "SECRET_VERSION_NOT_FOUND"
	ReasonSecretAbsent          Reason = "SECRET_ABSENT"
	ReasonSecretDeleted         Reason = "SECRET_DELETED"
	ReasonSecretDestroyed       Reason = "SECRET_DESTROYED"
	ReasonSecretPruned          Reason = "SECRET_PRUNED"
	ReasonSecretChangedOutside  Reason = "SECRET_CHANGED_OUTSIDE"
	ReasonSecretExpired         Reason = "SECRET_EXPIRED"
	ReasonSecretUnusable        Reason = "SECRET_UNUSABLE"
	ReasonSecretUnchanged       Reason = "SECRET_UNCHANGED"
	ReasonSecretWrongStage      Reason = "SECRET_WRONG_STAGE"
	ReasonSecretNotVerified     Reason = "SECRET_NOT_VERIFIED"
	ReasonTooManySecretVersions Reason = "TOO_MANY_SECRET_VERSIONS"
	ReasonDestinationNotBound   Reason = "DESTINATION_NOT_BOUND"

	ReasonWrappingTokenInvalid   Reason = "WRAPPING_TOKEN_INVALID"
	ReasonWrappingPathRefused    Reason = "WRAPPING_PATH_REFUSED"
	ReasonWrappingAnswerLost     Reason = "WRAPPING_ANSWER_LOST"
	ReasonWrappingContentInvalid Reason = "WRAPPING_CONTENT_INVALID"
	ReasonReferenceNotAllowed    Reason = "REFERENCE_NOT_ALLOWED"
	ReasonReferenceUnreadable    Reason = "REFERENCE_UNREADABLE"

	ReasonRotationNotFound       Reason = "ROTATION_NOT_FOUND"
	ReasonRotationUnderWay       Reason = "ROTATION_UNDER_WAY"
	ReasonRotationWrongState     Reason = "ROTATION_WRONG_STATE"
	ReasonRotationGapNotAccepted Reason = "ROTATION_GAP_NOT_ACCEPTED"
	ReasonRotatorNotSet          Reason = "ROTATOR_NOT_SET"
	ReasonRotatorUnauthorized    Reason = "ROTATOR_UNAUTHORIZED"
	ReasonRotatorRefused         Reason = "ROTATOR_REFUSED"
	ReasonRotatorOutcomeUnknown  Reason = "ROTATOR_OUTCOME_UNKNOWN"
	ReasonUpstreamSecretLost     Reason = "UPSTREAM_SECRET_LOST"

	ReasonUpstreamAddressRefused Reason = "UPSTREAM_ADDRESS_REFUSED"
	ReasonUpstreamDNS            Reason = "UPSTREAM_DNS"
	ReasonUpstreamConnect        Reason = "UPSTREAM_CONNECT"
	ReasonUpstreamTLS            Reason = "UPSTREAM_TLS"
	ReasonUpstreamProxy          Reason = "UPSTREAM_PROXY"
	ReasonUpstreamTimeout        Reason = "UPSTREAM_TIMEOUT"
	ReasonUpstreamRedirected     Reason = "UPSTREAM_REDIRECTED"
	ReasonUpstreamRateLimited    Reason = "UPSTREAM_RATE_LIMITED"
	ReasonUpstreamUnavailable    Reason = "UPSTREAM_UNAVAILABLE"
	ReasonUpstreamMalformed      Reason = "UPSTREAM_MALFORMED"
	ReasonUpstreamRefused        Reason = "UPSTREAM_REFUSED"
	ReasonClientRejected         Reason = "CLIENT_REJECTED"
	ReasonGrantRejected          Reason = "GRANT_REJECTED"
	ReasonGrantTypeRejected      Reason = "GRANT_TYPE_REJECTED"
	ReasonScopeRejected          Reason = "SCOPE_REJECTED"
	ReasonTargetRejected         Reason = "TARGET_REJECTED"
	ReasonRequestRejected        Reason = "REQUEST_REJECTED"
	ReasonTokenTypeUnsupported   Reason = "TOKEN_TYPE_UNSUPPORTED"
	ReasonScopeNotGranted        Reason = "SCOPE_NOT_GRANTED"
	ReasonTokenExpired           Reason = "TOKEN_EXPIRED"
	ReasonIssuanceBudgetSpent    Reason = "ISSUANCE_BUDGET_SPENT"
	ReasonLiveTokensSpent        Reason = "LIVE_TOKENS_SPENT"

	ReasonProviderUnknown         Reason = "PROVIDER_UNKNOWN"
	ReasonProviderNotFound        Reason = "PROVIDER_NOT_FOUND"
	ReasonDiscoveryFailed         Reason = "DISCOVERY_FAILED"
	ReasonIssuerMismatch          Reason = "ISSUER_MISMATCH"
	ReasonTokenInactive           Reason = "TOKEN_INACTIVE"
	ReasonDPoPProofRequired       Reason = "DPOP_PROOF_REQUIRED"
	ReasonDPoPProofInvalid        Reason = "DPOP_PROOF_INVALID"
	ReasonDPoPNonceRequired       Reason = "DPOP_NONCE_REQUIRED"
	ReasonTokenBoundElsewhere     Reason = "TOKEN_BOUND_ELSEWHERE"
	ReasonTokenNotBound           Reason = "TOKEN_NOT_BOUND"
	ReasonSubjectTokenRejected    Reason = "SUBJECT_TOKEN_REJECTED"
	ReasonAuthorizationNotFound   Reason = "AUTHORIZATION_NOT_FOUND"
	ReasonAuthorizationRequired   Reason = "AUTHORIZATION_REQUIRED"
	ReasonAuthorizationPending    Reason = "AUTHORIZATION_PENDING"
	ReasonAuthorizationDenied     Reason = "AUTHORIZATION_DENIED"
	ReasonAuthorizationExpired    Reason = "AUTHORIZATION_EXPIRED"
	ReasonAuthorizationNotTaken   Reason = "AUTHORIZATION_NOT_TAKEN"
	ReasonAuthorizationAnswerLost Reason = "AUTHORIZATION_ANSWER_LOST"
	ReasonAuthorizationNotOffered Reason = "AUTHORIZATION_NOT_OFFERED"
	ReasonStateInvalid            Reason = "STATE_INVALID"
	ReasonIDTokenInvalid          Reason = "ID_TOKEN_INVALID"
	ReasonRefreshTokenMissing     Reason = "REFRESH_TOKEN_MISSING"
	ReasonRefreshTokenExpired     Reason = "REFRESH_TOKEN_EXPIRED"
	ReasonRefreshTokenRejected    Reason = "REFRESH_TOKEN_REJECTED"
	ReasonPasswordRejected        Reason = "PASSWORD_REJECTED"
	ReasonRefreshTokenReused      Reason = "REFRESH_TOKEN_REUSED"
	ReasonRefreshAnswerLost       Reason = "REFRESH_ANSWER_LOST"
	ReasonGrantOfOldClient        Reason = "GRANT_OF_OLD_CLIENT"

	ReasonEndpointWrong             Reason = "ENDPOINT_WRONG"
	ReasonEndpointsMixed            Reason = "ENDPOINTS_MIXED"
	ReasonUpstreamNotOAuth          Reason = "UPSTREAM_NOT_OAUTH"
	ReasonUpstreamClockSkew         Reason = "UPSTREAM_CLOCK_SKEW"
	ReasonUpstreamCertificateEnds   Reason = "UPSTREAM_CERTIFICATE_ENDS"
	ReasonUpstreamAddressDead       Reason = "UPSTREAM_ADDRESS_DEAD"
	ReasonMetadataDisagrees         Reason = "METADATA_DISAGREES"
	ReasonAuthenticationMethodWrong Reason = "AUTHENTICATION_METHOD_WRONG"
	ReasonClientIDDoubtful          Reason = "CLIENT_ID_DOUBTFUL"
	ReasonSecretDoubtful            Reason = "SECRET_DOUBTFUL"
	ReasonAuthenticationNotEnforced Reason = "AUTHENTICATION_NOT_ENFORCED"
	ReasonAPITokenRefused           Reason = "API_TOKEN_REFUSED"
	ReasonAPIPermissionMissing      Reason = "API_PERMISSION_MISSING"
	ReasonAPINotEnforcing           Reason = "API_NOT_ENFORCING"
	ReasonTokensEndEarly            Reason = "TOKENS_END_EARLY"
	ReasonCheckWouldHarm            Reason = "CHECK_WOULD_HARM"
	ReasonCheckNotPermitted         Reason = "CHECK_NOT_PERMITTED"
	ReasonCheckBudgetSpent          Reason = "CHECK_BUDGET_SPENT"
	ReasonFailureNotSeen            Reason = "FAILURE_NOT_SEEN"

	// Warnings: they stand beside a token, never in an error.
	ReasonTokenShorterThanAsked Reason = "TOKEN_SHORTER_THAN_ASKED"
	ReasonScopesNarrowed        Reason = "SCOPES_NARROWED"
	ReasonRefreshFailing        Reason = "REFRESH_FAILING"
	ReasonExpiryAssumed         Reason = "EXPIRY_ASSUMED"
	ReasonTokenRejected         Reason = "TOKEN_REJECTED"
	ReasonUsingPreviousSecret   Reason = "USING_PREVIOUS_SECRET"
	ReasonPasswordGrant         Reason = "PASSWORD_GRANT"
	ReasonRefreshTokenAbsent    Reason = "REFRESH_TOKEN_ABSENT"
)

// ReasonInfo documents one [Reason].
type ReasonInfo struct {
	Reason   Reason
	Recovery Recovery
	// Summary is one sentence about the cause that anybody may read.
	Summary string
	// Remedy is one sentence about what mends it.
	Remedy string
}

// Reasons returns the table of all reasons in the order of docs/errors.md.
func Reasons() []ReasonInfo { return append([]ReasonInfo(nil), reasonTable...) }

// Info returns the documentation of r; that of INTERNAL if r is not in the table.
func (r Reason) Info() ReasonInfo {
	if info, ok := reasonIndex[r]; ok {
		return info
	}
	return reasonIndex[ReasonInternal]
}

// reasonIndex is reasonTable :: reason → its row.
var reasonIndex = func() map[Reason]ReasonInfo {
	index := make(map[Reason]ReasonInfo, len(reasonTable))
	for _, info := range reasonTable {
		index[info.Reason] = info
	}
	return index
}()
