package vault

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// appRoleMethod remembers what became of the credentials: Vault locks a role out
// for 15 min, for every secret id, once five logins within 15 min were refused.
// So a pair that was refused twice rests for longer than that, unless the files
// change. It is asked twice because a standby may not know a new secret id yet.
type appRoleMethod struct {
	config AppRole

	accepted credentials // those that logged in last
	refused  credentials // those that were refused last
	refusals int         // how often in a row
	last     time.Time   // when the last one came
	err      error       // the last one; may quote the secret id

	wrapping  credentials  // the wrapping token that was spent last
	unwrapped secret.Value // what was in it; empty if that was lost
}

// credentials is a digest by which they are recognised.
type credentials [sha256.Size]byte

func digest(parts ...string) credentials {
	return sha256.Sum256([]byte(strings.Join(parts, "\n"))) // no part has a line break
}

const (
	refusalsBeforeRest = 2
	restAfterRefusals  = 16 * time.Minute
)

// resting is the error for a login that was not tried.
type resting struct{ error }

// Unwrap returns why it was not tried: the refusal before.
func (r resting) Unwrap() error { return r.error }

func (m *appRoleMethod) key() string  { return "approle" }
func (m *appRoleMethod) path() string { return loginPath(m.config.Mount) }

func (m *appRoleMethod) login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	roleID, err := readCredential("approle.role_id_file", m.config.RoleIDFile)
	if err != nil {
		return nil, nothingToAskWith(err)
	}
	secretID, err := readCredential("approle.secret_id_file", m.config.SecretIDFile)
	if err != nil {
		return nil, nothingToAskWith(err)
	}
	if m.config.SecretIDWrapped {
		if secretID, err = m.unwrap(ctx, client, secretID); err != nil {
			return nil, err
		}
	}
	pair := digest(roleID, secretID)
	if pair == m.refused && m.refusals >= refusalsBeforeRest && time.Since(m.last) < restAfterRefusals {
		return nil, resting{m.err}
	}
	auth, err := approle.NewAppRoleAuth(roleID, &approle.SecretID{FromString: secretID}, approle.WithMountPath(m.config.Mount))
	if err != nil {
		return nil, err
	}
	got, err := auth.Login(ctx, client)
	m.remember(pair, err)
	return got, err
}

func (m *appRoleMethod) remember(pair credentials, err error) {
	switch {
	case err == nil:
		m.accepted, m.refused, m.refusals, m.err = pair, credentials{}, 0, nil
	case refusal(err).status != http.StatusBadRequest:
	case pair == m.refused:
		m.refusals, m.last, m.err = m.refusals+1, time.Now(), err
	default:
		m.refused, m.refusals, m.last, m.err = pair, 1, time.Now(), err
	}
}

// causes: Vault has one answer for everything that can be wrong with a role id
// and a secret id, but one that was accepted before is not a wrong one.
func (m *appRoleMethod) causes() []cause {
	what := "role id or secret id refused: wrong, expired or used up"
	if m.accepted == m.refused {
		what = "secret id refused: it was accepted before, so it has expired or is used up, or the role is gone"
	}
	remedy := "put a new secret id into "
	if m.config.SecretIDWrapped {
		remedy = "put the wrapping token of a new secret id into "
	}
	return []cause{
		{http.StatusBadRequest, "", what + "; " + remedy + named("approle.secret_id_file", m.config.SecretIDFile) + ", which is read again when it changes"},
		{http.StatusForbidden, "", "the role is locked out for a while after refused logins, or refuses this address"},
	}
}

// unwrap returns the secret id behind a wrapping token. That works once, so it is
// not sent again whatever came of it.
//
// Who took the secret id out on the way may have wrapped it again: then the token
// was not made by the role, and its creation path says so.
func (m *appRoleMethod) unwrap(ctx context.Context, client *api.Client, token string) (string, error) {
	file := named("approle.secret_id_file", m.config.SecretIDFile)
	failed := func(detail string) error {
		return &broker.Error{Reason: broker.ReasonStoreLoginFailed, Detail: detail + "; put the wrapping token of a new secret id into " + file}
	}
	if m.wrapping == digest(token) {
		if m.unwrapped.Len() == 0 {
			return "", failed("the wrapping token was spent and its secret id is lost")
		}
		return m.unwrapped.RevealString(), nil
	}
	body, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		return "", err
	}
	looked := exchange(ctx, client, request{path: "sys/wrapping/lookup", body: body})
	var found struct {
		Data struct {
			CreationPath string `json:"creation_path"`
			SecretID     string `json:"secret_id"`
		} `json:"data"`
	}
	switch {
	case looked.status == http.StatusBadRequest && !looked.foreign:
		return "", failed("sys/wrapping/lookup: the wrapping token is wrong, expired or was used already: if nobody here did, somebody took the secret id")
	case !looked.ok() || json.Unmarshal(looked.body.Reveal(), &found) != nil:
		e := classify(looked, false)
		e.Detail = "sys/wrapping/lookup: " + e.Detail
		return "", e
	}
	path := found.Data.CreationPath
	if !strings.HasPrefix(path, "auth/"+m.config.Mount+"/role/") || !strings.HasSuffix(path, "/secret-id") {
		return "", failed("the wrapping token was not made by a role of auth/" + m.config.Mount + ": somebody may have taken the secret id and wrapped it again")
	}
	// Spent from here on, even if the answer is lost.
	m.wrapping, m.unwrapped = digest(token), secret.Value{}
	got := exchange(ctx, authorized(client, token), request{path: "sys/wrapping/unwrap", body: []byte("{}")})
	if !got.ok() || json.Unmarshal(got.body.Reveal(), &found) != nil || found.Data.SecretID == "" {
		return "", failed("sys/wrapping/unwrap: the wrapping token was spent without an answer")
	}
	m.unwrapped = secret.NewString(found.Data.SecretID)
	return found.Data.SecretID, nil
}
