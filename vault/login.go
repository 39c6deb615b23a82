package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/tokenbroker/broker"
)

// login gets a token by the configured method. Only Run calls it, so there is
// one login at a time however many calls found the old token dead.
func (s *Store) login(ctx context.Context) (*session, *broker.Error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.config.Timeout)
	defer cancel()
	if s.method == nil {
		return s.tokenFile.login(ctx)
	}
	asked := time.Now()
	got, cause := s.method.login(ctx, s.loginAPI)
	sess, err := s.sessionOf(ctx, got, cause)
	if !errors.As(cause, new(resting)) {
		s.loggedIn(ctx, s.method.key(), sess, err)
	}
	if err != nil {
		return nil, err
	}
	sess.since = asked
	return sess, nil
}

// loggedIn tells log and OnLogin how an attempt came out.
func (s *Store) loggedIn(ctx context.Context, key string, sess *session, err *broker.Error) {
	if err != nil {
		err.Op = "log in to vault"
		s.config.OnLogin(key, err) // a *broker.Error that is nil would be an error
		return
	}
	s.log.InfoContext(ctx, "logged in to vault", "method", key, "lease", sess.lease, "renewable", sess.renewable)
	s.config.OnLogin(key, nil)
}

// withToken returns a session whose client sends token.
func (s *Store) withToken(token string) *session {
	return &session{client: authorized(s.api, token), since: time.Now()}
}

// sessionOf makes a session of what an auth method answered.
func (s *Store) sessionOf(ctx context.Context, got *api.Secret, cause error) (*session, *broker.Error) {
	var own *broker.Error
	switch {
	case errors.As(cause, &own):
		return nil, own
	case cause != nil:
		return nil, s.loginRefused(ctx, cause)
	case got == nil || got.Auth == nil || got.Auth.ClientToken == "":
		return nil, &broker.Error{
			Reason: broker.ReasonStoreLoginFailed,
			Detail: s.method.path() + ": answered without a token; a role that demands MFA cannot be used",
		}
	}
	sess := s.withToken(got.Auth.ClientToken)
	sess.lease = time.Duration(got.Auth.LeaseDuration) * time.Second
	sess.asked, sess.renewable = sess.lease, got.Auth.Renewable
	return sess, nil
}

// loginRefused explains a failed login.
func (s *Store) loginRefused(ctx context.Context, err error) *broker.Error {
	a := refusal(err)
	if a.status == 0 && errors.As(err, new(*json.SyntaxError)) {
		a.status, a.foreign = http.StatusOK, true // a success that is not Vault's
	}
	a.gone = ctx.Err()
	e := classify(a, false)
	path := s.method.path()
	switch {
	case a.status == 0:
		path = s.config.Address + ": " + path
	case a.foreign:
	case e.Reason == broker.ReasonStoreMountMissing, a.forbidden() && !s.mounted(ctx, path):
		e.Reason, e.Detail = broker.ReasonStoreLoginFailed, s.notMounted(a.status)
	case e.Reason == broker.ReasonStoreFailed:
		if detail := refusalDetail(s.method.causes(), a); detail != "" {
			e.Reason, e.Detail = broker.ReasonStoreLoginFailed, detail
		}
	}
	e.Detail = path + ": " + e.Detail
	return e
}

// refusalDetail returns the first cause that matches, "" for none.
func refusalDetail(causes []cause, a answer) string {
	for _, c := range causes {
		if c.status == a.status && (c.text == "" || mentions(a.messages, c.text)) {
			return fmt.Sprintf("%s (HTTP %d)", c.detail, a.status)
		}
	}
	return ""
}

// mounted tells a refusal from an auth method that is not there: Vault answers
// 403 to both, but reading a login path that exists is an unsupported operation.
func (s *Store) mounted(ctx context.Context, path string) bool {
	return !exchange(ctx, s.api, request{path: path}).forbidden()
}

func (s *Store) notMounted(status int) string {
	detail := fmt.Sprintf("no auth method is mounted there (%s.mount)", s.method.key())
	if s.config.Namespace != "" {
		detail += fmt.Sprintf(" in the namespace %q, or there is no such namespace", s.config.Namespace)
	}
	return fmt.Sprintf("%s (HTTP %d)", detail, status)
}

// readCredential returns the one line in a file. The error names the file and
// never quotes it.
func readCredential(key, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	defer func() { _ = f.Close() }()
	const most = 8 << 10
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	line := strings.TrimSpace(string(content))
	switch {
	case line == "":
		return "", fmt.Errorf("%s: %s is empty", key, path)
	case len(content) > most || strings.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("%s: %s holds more than one word of printable ASCII", key, path)
	}
	return line, nil
}
