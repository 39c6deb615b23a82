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

	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/tokenbroker/tokenbroker/broker"
)

// login gets a token by the configured method. Only Run calls it, so there is
// one login at a time however many calls found the old token dead.
func (s *Store) login(ctx context.Context) (*session, *broker.Error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.config.Timeout)
	defer cancel()
	var sess *session
	var err *broker.Error
	if s.config.AppRole.used() {
		sess, err = s.loginAppRole(ctx)
	} else {
		sess, err = s.readTokenFile(ctx)
	}
	if err != nil {
		err.Op = "log in to vault"
		return nil, err
	}
	s.log.InfoContext(ctx, "logged in to vault", "lease", sess.lease, "renewable", sess.renewable)
	return sess, nil
}

// withToken returns a session whose client sends token.
func (s *Store) withToken(token string) *session {
	client := s.api.WithNamespace(strings.Trim(s.config.Namespace, "/")) // a copy that shares the transport
	client.SetToken(token)
	return &session{client: client, since: time.Now()}
}

func (s *Store) loginAppRole(ctx context.Context) (*session, *broker.Error) {
	role := s.config.AppRole
	path := "auth/" + role.Mount + "/login"
	refused := func(detail string) *broker.Error {
		return &broker.Error{Reason: broker.ReasonStoreLoginFailed, Detail: detail}
	}
	roleID, err := readCredential("approle.role_id_file", role.RoleIDFile)
	if err != nil {
		return nil, refused(err.Error())
	}
	secretID, err := readCredential("approle.secret_id_file", role.SecretIDFile)
	if err != nil {
		return nil, refused(err.Error())
	}
	method, err := approle.NewAppRoleAuth(roleID, &approle.SecretID{FromString: secretID}, approle.WithMountPath(role.Mount))
	if err != nil {
		return nil, refused(path + ": role id or secret id cannot be used")
	}
	asked := time.Now()
	got, err := method.Login(ctx, s.api)
	if err != nil {
		return nil, s.loginRefused(ctx, path, err)
	}
	if got == nil || got.Auth == nil || got.Auth.ClientToken == "" {
		return nil, refused(path + ": answered without a token; a role that demands MFA cannot be used")
	}
	sess := s.withToken(got.Auth.ClientToken)
	sess.since = asked
	sess.lease = time.Duration(got.Auth.LeaseDuration) * time.Second
	sess.asked, sess.renewable = sess.lease, got.Auth.Renewable
	return sess, nil
}

// loginRefused explains a failed AppRole login. Vault answers 400 to a wrong role
// id or secret id and 403 to a missing auth mount, a foreign address or a role
// that is locked out.
func (s *Store) loginRefused(ctx context.Context, path string, err error) *broker.Error {
	a := refusal(err)
	if a.status == 0 && errors.As(err, new(*json.SyntaxError)) {
		a.status, a.foreign = http.StatusOK, true // a success that is not Vault's
	}
	a.gone = ctx.Err()
	e := classify(a, false)
	detail := path
	switch {
	case a.status == 0:
		detail = s.config.Address
	case a.foreign:
	case a.status == http.StatusBadRequest:
		e.Reason, e.Detail = broker.ReasonStoreLoginFailed, "role id or secret id refused: wrong, expired, or used up (HTTP 400)"
	case a.status < 500 && e.Reason == broker.ReasonStoreFailed, e.Reason == broker.ReasonStoreMountMissing:
		e.Reason = broker.ReasonStoreLoginFailed
		e.Detail += ": the auth method is not mounted there, or refuses this role or this address"
	}
	e.Detail = detail + ": " + e.Detail
	return e
}

// readTokenFile makes a session of the token in the file. Its lease is asked
// for, since the file does not tell.
func (s *Store) readTokenFile(ctx context.Context) (*session, *broker.Error) {
	token, err := readCredential("token_file", s.config.TokenFile)
	if err != nil {
		return nil, &broker.Error{Reason: broker.ReasonStoreLoginFailed, Detail: err.Error()}
	}
	sess := s.withToken(token)
	a := s.send(ctx, sess, request{op: "look up token", path: "auth/token/lookup-self"})
	if a.forbidden() {
		return nil, &broker.Error{
			Reason: broker.ReasonStoreTokenDead,
			Detail: "the token in " + s.config.TokenFile + " is expired or revoked, or may not use auth/token/lookup-self",
		}
	}
	var looked struct {
		Data struct {
			TTL         int  `json:"ttl"`
			CreationTTL int  `json:"creation_ttl"`
			Renewable   bool `json:"renewable"`
			// ExpireTime is null for a token that never expires; TTL is 0 also in the
			// last half second of one that does.
			ExpireTime *string `json:"expire_time"`
		} `json:"data"`
	}
	if !a.ok() || json.Unmarshal(a.body.Reveal(), &looked) != nil {
		e := classify(a, false)
		e.Detail = s.config.Address + ": auth/token/lookup-self: " + e.Detail
		return nil, e
	}
	if looked.Data.ExpireTime != nil {
		sess.lease = time.Duration(max(looked.Data.TTL, 1)) * time.Second
	}
	sess.asked = max(sess.lease, time.Duration(looked.Data.CreationTTL)*time.Second)
	sess.renewable = looked.Data.Renewable
	return sess, nil
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
