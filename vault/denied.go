package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
)

// tokenDead finds out what a 403 was about. Each session was seen to be allowed
// lookup-self by its preflight, so a 403 here means that its token is dead.
func (s *Store) tokenDead(ctx context.Context, sess *session) (bool, *broker.Error) {
	r := request{op: "look up token", path: "auth/token/lookup-self"}
	a := s.send(ctx, sess, r)
	switch {
	case a.ok():
		return false, nil
	case a.forbidden():
		return true, nil
	default:
		err := classify(a, false)
		err.Detail = r.path + ": after a 403, to tell a dead token from a denial: " + err.Detail
		return false, err
	}
}

// denied returns the error for a request that the policy of a living token
// denies. It asks which capability is missing.
func (s *Store) denied(ctx context.Context, sess *session, r request) error {
	err := &broker.Error{Reason: broker.ReasonStorePermissionDenied, Op: r.op}
	capabilities, ok := s.capabilities(ctx, sess, r.protected())
	switch {
	case !ok:
		err.Detail = fmt.Sprintf("path %s: denied, and sys/capabilities-self does not say what is missing", r.protected())
	case slices.Contains(capabilities, r.needs) || slices.Contains(capabilities, "root"):
		// A parameter constraint, a Sentinel policy or a control group may deny what
		// the capabilities grant; or the policy was mended just now.
		err.Detail = fmt.Sprintf("path %s: denied although the policy grants %s", r.protected(), r.needs)
	default:
		err.Detail = fmt.Sprintf("path %s lacks %s", r.protected(), r.needs)
	}
	return err
}

// capabilities returns what the token may do with path.
func (s *Store) capabilities(ctx context.Context, sess *session, path string) ([]string, bool) {
	body, err := json.Marshal(map[string][]string{"paths": {path}})
	if err != nil {
		return nil, false
	}
	a := s.send(ctx, sess, request{op: "look up capabilities", path: "sys/capabilities-self", body: body})
	var answered struct {
		Data struct {
			Capabilities []string `json:"capabilities"`
		} `json:"data"`
	}
	if !a.ok() || json.Unmarshal(a.body.Reveal(), &answered) != nil {
		return nil, false
	}
	return answered.Data.Capabilities, true
}
