package vault

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// request is one request to Vault. With a body it is a PUT, else a GET.
type request struct {
	op    string // for Error.Op
	path  string // below /v1/
	query url.Values
	body  []byte // may hold secrets
	// effect is set for what must not be sent twice.
	effect bool
	// needs is the capability that the policy must grant on aclPath.
	needs   string
	aclPath string // path if empty
}

func (r request) protected() string {
	if r.aclPath != "" {
		return r.aclPath
	}
	return r.path
}

// answer is what came of one request.
type answer struct {
	status     int          // 0: no answer came
	body       secret.Value // of a success or a 404
	messages   []string     // Vault's errors; never shown, only matched (classify.go)
	foreign    bool         // not Vault's: a proxy's page, say
	retryAfter time.Duration
	sent       bool  // the request may have reached Vault
	cause      error // why no answer came
	gone       error // the caller's context had ended by then
}

// ok reports whether Vault served the request.
func (a answer) ok() bool { return a.status >= 200 && a.status < 300 && !a.foreign }

// forbidden reports whether Vault denied the request.
func (a answer) forbidden() bool { return a.status == http.StatusForbidden && !a.foreign }

// absent reports whether KV says that there is nothing. A 404 that lists errors
// is about the route, that is the mount, and one that is not Vault's about neither.
func (a answer) absent() bool {
	return a.status == http.StatusNotFound && !a.foreign && len(a.messages) == 0
}

// maxAnswerBytes bounds what is read of an answer: a list of 100,000 names has
// about 4 MB.
const maxAnswerBytes = 32 << 20

// exchange sends r once.
func exchange(ctx context.Context, client *api.Client, r request) answer {
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// Without a connection nothing can have been sent; with one it may have.
		GotConn: func(httptrace.GotConnInfo) { sent.Store(true) },
	})
	var resp *api.Response
	var err error
	if r.body != nil {
		resp, err = client.Logical().WriteRawWithContext(ctx, r.path, r.body)
	} else {
		resp, err = client.Logical().ReadRawWithDataWithContext(ctx, r.path, r.query)
	}
	if resp != nil && resp.Body != nil {
		defer func() { _ = resp.Body.Close() }()
	}
	a := refusal(err)
	a.sent = sent.Load()
	if resp == nil || err != nil && a.status == 0 {
		return a
	}
	a.status = resp.StatusCode
	a.retryAfter = retryAfter(resp.Header)
	if a.status < 300 || a.status == http.StatusNotFound {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
		if err != nil {
			return answer{sent: true, cause: err}
		}
		a.body = secret.New(body)
		clear(body)
	}
	if a.status == http.StatusNotFound {
		a.foreign = !speaksVault(a.body)
	} else if a.status < 300 {
		a.foreign = a.body.Len() > 0 && a.body.Reveal()[0] != '{' // a page that a proxy shows
	}
	return a
}

// refusal takes apart an error of Vault's library. Of one that is not an answer
// of Vault it is only the cause.
func refusal(err error) answer {
	var refused *api.ResponseError
	if !errors.As(err, &refused) {
		return answer{cause: err}
	}
	if refused.RawError {
		return answer{status: refused.StatusCode, foreign: true}
	}
	return answer{status: refused.StatusCode, messages: refused.Errors}
}

// speaksVault tells Vault's 404 from a proxy's: Vault's lists errors, be it
// none, or says what became of a version.
func speaksVault(body secret.Value) bool {
	var fields struct{ Errors, Data json.RawMessage }
	err := json.Unmarshal(body.Reveal(), &fields)
	clear(fields.Data)
	return err == nil && (fields.Errors != nil || fields.Data != nil)
}

// retryAfter returns what a Retry-After header asks for, between 0 and 1 min.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil {
		return 0
	}
	return time.Duration(min(max(seconds, 0), 60)) * time.Second
}

// send sends r under a session. What has no effect is sent up to three times
// while the failure may pass, within twice the timeout; what has, once.
func (s *Store) send(ctx context.Context, sess *session, r request) answer {
	bounded, cancel := context.WithTimeout(ctx, 2*s.config.Timeout)
	defer cancel()
	const tries = 3
	for try := 1; ; try++ {
		a := exchange(bounded, sess.client, r)
		if a.status == 0 {
			a.gone = ctx.Err()
		}
		if a.ok() || r.effect || try == tries || !passing(a) {
			return a
		}
		wait := max(jitter(time.Duration(try)*100*time.Millisecond), a.retryAfter)
		if end, _ := bounded.Deadline(); time.Until(end) <= wait || !sleep(bounded, wait) {
			return a
		}
	}
}

// passing reports whether a read that was answered so is worth another try.
// Sealed is not: that lasts until somebody unseals. Nor is a long Retry-After.
func passing(a answer) bool {
	const longest = time.Second
	if a.retryAfter > longest {
		return false
	}
	switch classify(a, false).Reason {
	case broker.ReasonStoreUnreachable, broker.ReasonStoreStandby, broker.ReasonStoreRateLimited:
		return !errors.Is(a.cause, errRedirected)
	case broker.ReasonStoreFailed:
		return a.status >= 500
	}
	return false
}

// jitter returns d, at most a quarter more or less.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}

// sleep reports whether it slept for d; false means that ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
