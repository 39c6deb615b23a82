package vault

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// rule names the cause of one kind of answer. What Vault wrote is only matched,
// never passed on: a proxy in its place could quote our request.
type rule struct {
	status int    // 0 matches any
	text   string // part of a message; empty matches any
	reason broker.Reason
	// undone says that a request answered so took no effect. Where it is not set
	// the outcome of a write is unknown.
	undone bool
	detail string
}

// rules returns the table in which the first match wins. The texts are those of
// Vault 1.21; OpenBao shares them except for its own name.
func rules() []rule {
	return []rule{
		{400, "check-and-set parameter did not match", broker.ReasonStoreConflict, true, "somebody else wrote this record"},
		{400, "wrapping token is not valid", broker.ReasonWrappingTokenInvalid, true, "used, expired or invented"},
		{503, "is sealed", broker.ReasonStoreSealed, true, "the server is sealed, or not initialized"},
		{0, "active cluster node not found", broker.ReasonStoreStandby, true, "a standby that knows no active node"},
		{0, "in standby mode", broker.ReasonStoreStandby, true, "a standby"},
		{412, "", broker.ReasonStoreStandby, true, "a standby that lags behind our last write"},
		{472, "", broker.ReasonStoreStandby, true, "a disaster recovery secondary"},
		{473, "", broker.ReasonStoreStandby, true, "a performance standby"},
		{400, "to versioned data", broker.ReasonStoreStandby, true, "the engine is not ready yet"},
		{429, "", broker.ReasonStoreRateLimited, true, "a rate limit quota refused it"},
		{413, "", broker.ReasonStoreFailed, true, "larger than the server's max_request_size"},
		{404, "no handler for route", broker.ReasonStoreMountMissing, true, "nothing is mounted there"},
		{404, "unsupported path", broker.ReasonStoreNotKV2, true, "the engine does not know this path"},
		{405, "unsupported operation", broker.ReasonStoreNotKV2, true, "the engine does not know this operation"},
	}
}

// classify says what an answer other than success means, effect whether the
// request would have changed something. Op is left to the caller.
func classify(a answer, effect bool) *broker.Error {
	err, undone := explain(a)
	if effect && !undone {
		err.Detail = "the outcome is unknown: " + err.Detail
		err.Reason = broker.ReasonStoreAnswerLost
	}
	return err
}

func explain(a answer) (err *broker.Error, undone bool) {
	if a.status == 0 {
		return unanswered(a)
	}
	for _, r := range rules() {
		if r.status != 0 && r.status != a.status || r.text != "" && !mentions(a.messages, r.text) {
			continue
		}
		return &broker.Error{Reason: r.reason, RetryAfter: a.retryAfter, Detail: fmt.Sprintf("%s (HTTP %d)", r.detail, a.status)}, r.undone
	}
	err = &broker.Error{Reason: broker.ReasonStoreFailed, RetryAfter: a.retryAfter, Detail: fmt.Sprintf("answered HTTP %d", a.status)}
	gateway := a.status == http.StatusBadGateway || a.status == http.StatusServiceUnavailable || a.status == http.StatusGatewayTimeout
	switch {
	case a.foreign && gateway:
		err.Reason = broker.ReasonStoreUnreachable
		err.Detail += " by something in front of Vault"
	case a.foreign:
		err.Detail += " by something that is not Vault"
	}
	// A proxy may give up on a request, with a 408 say, that has reached Vault.
	return err, a.status < 500 && !a.foreign
}

func mentions(messages []string, text string) bool {
	for _, m := range messages {
		if strings.Contains(m, text) {
			return true
		}
	}
	return false
}

// unanswered explains why no answer came. The cause is passed on only where its
// text is Go's and not the other side's.
func unanswered(a answer) (err *broker.Error, undone bool) {
	err = &broker.Error{Reason: broker.ReasonStoreUnreachable}
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		noTLS       tls.RecordHeaderError
		op          *net.OpError
		network     net.Error
	)
	cause := a.cause
	switch {
	case errors.Is(cause, errRedirected):
		err.Reason, err.Err = broker.ReasonStoreStandby, errRedirected
		err.Detail = "a redirect, as a standby sends that cannot forward; point address at the active node"
		return err, true
	case a.gone != nil && !a.sent:
		err.Reason = broker.ReasonDeadlineExceeded
		err.Detail, err.Err = "the caller gave up before there was a connection", a.gone
	case a.gone != nil:
		err.Detail, err.Err = "the caller gave up before an answer came", a.gone
	case errors.As(cause, &dns):
		err.Detail, err.Err = "the host name does not resolve", dns
	case errors.As(cause, &certificate):
		err.Detail, err.Err = "its certificate is not accepted", certificate
	case errors.As(cause, &op) && op.Op == "remote error":
		err.Detail, err.Err = "it refused the TLS handshake", op // a TLS alert, which is one of a fixed list
	case errors.As(cause, &noTLS):
		err.Detail = "it does not speak TLS"
	case errors.As(cause, &network) && network.Timeout():
		err.Detail = "no answer in time" // no Err: it would pass for the caller's deadline
	case errors.As(cause, &op) && op.Op == "dial":
		err.Detail, err.Err = "no connection", op
	default:
		err.Detail = "the connection broke"
	}
	return err, !a.sent
}
