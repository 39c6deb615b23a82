package vault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// preflight checks, before the first call of a session, what would otherwise go
// wrong without a sign: a KV version 1 engine accepts a check-and-set write and
// ignores the condition, a mount can be set to delete versions after a time, and
// community Vault ignores a namespace (all seen on Vault 1.21).
func (s *Store) preflight(ctx context.Context, sess *session) *broker.Error {
	checks := []func(context.Context, *session) *broker.Error{s.checkToken, s.checkNamespace, s.checkEngine, s.checkMountConfig}
	for _, check := range checks {
		if err := check(ctx, sess); err != nil {
			err.Op = "check the mount"
			return err
		}
	}
	return nil
}

// checkToken makes sure of lookup-self, by which every later 403 is told apart.
func (s *Store) checkToken(ctx context.Context, sess *session) *broker.Error {
	var found struct {
		NumUses int `json:"num_uses"`
	}
	path := "auth/token/lookup-self"
	a, err := s.inspect(ctx, sess, path, &found)
	switch {
	case err != nil:
		return err
	case a.forbidden() && mentions(a.messages, "invalid token"):
		return diedAgain()
	case a.forbidden():
		return &broker.Error{Reason: broker.ReasonStorePermissionDenied, Detail: "path " + path + " lacks read"}
	}
	if found.NumUses > 0 {
		s.log.WarnContext(ctx, "vault token has a limited number of uses, each call takes one: set token_num_uses of the role to 0", "uses", found.NumUses)
	}
	return nil
}

// checkNamespace refuses a configured namespace that the server ignores: it
// would answer as well for one that cannot exist.
func (s *Store) checkNamespace(ctx context.Context, sess *session) *broker.Error {
	if s.config.Namespace == "" {
		return nil
	}
	invented := &session{client: sess.client.WithNamespace("tokenbroker-probe-" + strings.ToLower(rand.Text()))}
	a := s.send(ctx, invented, request{path: "auth/token/lookup-self"})
	if a.ok() {
		return &broker.Error{
			Reason: broker.ReasonStoreFailed,
			Detail: fmt.Sprintf("namespace %q is configured, but the server ignores namespaces and would use the root", s.config.Namespace),
		}
	}
	if a.status == 0 || a.status >= 500 {
		return s.unanswered(a, "auth/token/lookup-self")
	}
	return nil
}

// checkEngine asks what is mounted. Vault answers any token that may use some
// path below the mount, and 403 otherwise, be it that the mount is missing or
// that the policy names another.
func (s *Store) checkEngine(ctx context.Context, sess *session) *broker.Error {
	path := "sys/internal/ui/mounts/" + s.config.Mount
	var found struct {
		Type    string            `json:"type"`
		Path    string            `json:"path"`
		Options map[string]string `json:"options"`
	}
	a, err := s.inspect(ctx, sess, path, &found)
	switch {
	case err != nil:
		return err
	case !a.ok():
		return s.mountMissing(ctx, sess)
	case strings.Trim(found.Path, "/") != s.config.Mount:
		return &broker.Error{Reason: broker.ReasonStoreMountMissing, Detail: fmt.Sprintf("%s is not a mount but lies within the mount %s", s.config.Mount, found.Path)}
	case found.Type != "kv" && found.Type != "generic":
		return &broker.Error{Reason: broker.ReasonStoreNotKV2, Detail: fmt.Sprintf("mount %s is of type %s", s.config.Mount, found.Type)}
	case found.Options["version"] != "2":
		return &broker.Error{Reason: broker.ReasonStoreNotKV2, Detail: fmt.Sprintf("mount %s is KV version 1", s.config.Mount)}
	}
	return nil
}

// mountMissing is the error for a mount that Vault does not show. A path that
// the policy grants is routed, and so tells a missing mount from a denied one.
func (s *Store) mountMissing(ctx context.Context, sess *session) *broker.Error {
	detail := fmt.Sprintf("mount %s is missing, or the policy does not grant %s/config", s.config.Mount, s.config.Mount)
	a := s.send(ctx, sess, request{path: s.config.Mount + "/config"})
	if a.status == http.StatusNotFound && classify(a, false).Reason == broker.ReasonStoreMountMissing {
		detail = fmt.Sprintf("nothing is mounted at %s", s.config.Mount)
	}
	return &broker.Error{Reason: broker.ReasonStoreMountMissing, Detail: detail}
}

// checkMountConfig refuses a mount that forgets.
func (s *Store) checkMountConfig(ctx context.Context, sess *session) *broker.Error {
	path := s.config.Mount + "/config"
	var found struct {
		DeleteVersionAfter string `json:"delete_version_after"`
	}
	a, err := s.inspect(ctx, sess, path, &found)
	switch {
	case err != nil:
		return err
	case a.forbidden():
		return &broker.Error{Reason: broker.ReasonStorePermissionDenied, Detail: "path " + path + " lacks read"}
	case a.status == http.StatusNotFound:
		return &broker.Error{Reason: broker.ReasonStoreNotKV2, Detail: path + " does not exist"}
	}
	// A negative value, which stands for never, is as good as zero.
	if after, err := time.ParseDuration(found.DeleteVersionAfter); found.DeleteVersionAfter != "" && (err != nil || after > 0) {
		return &broker.Error{Reason: broker.ReasonStoreExpiresRecords, Detail: fmt.Sprintf("delete_version_after of mount %s is %s", s.config.Mount, found.DeleteVersionAfter)}
	}
	return nil
}

// inspect reads path into data. It returns an error unless Vault answered with
// data, 403 or 404, which mean something else to each caller.
func (s *Store) inspect(ctx context.Context, sess *session, path string, data any) (answer, *broker.Error) {
	a := s.send(ctx, sess, request{path: path})
	if a.ok() {
		var body struct {
			Data json.RawMessage `json:"data"`
		}
		if json.Unmarshal(a.body.Reveal(), &body) != nil || json.Unmarshal(body.Data, data) != nil {
			return a, &broker.Error{Reason: broker.ReasonStoreFailed, Detail: path + ": the answer is not Vault's"}
		}
		return a, nil
	}
	if a.forbidden() || a.status == http.StatusNotFound && !a.foreign {
		return a, nil
	}
	return a, s.unanswered(a, path)
}

// unanswered is the error for a request without effect that was not served.
func (s *Store) unanswered(a answer, path string) *broker.Error {
	err := classify(a, false)
	if a.status == 0 {
		path = s.config.Address
	}
	err.Detail = path + ": " + err.Detail
	return err
}
