package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Lacks says what the policy of the broker's token does not grant of [Policy], each as
// "path P lacks C"; nothing if it grants all. It asks and changes nothing. Like Read it
// waits for a session, and returns the errors of one.
func (s *Store) Lacks(ctx context.Context) ([]string, error) {
	const op, sample = "look up capabilities", "clients/00/policy-check"
	sess, err := s.session(ctx, op)
	if err != nil {
		return nil, err
	}
	needs := []struct{ path, capabilities string }{
		{s.path("data", sample), "create read update"},
		{s.path("metadata", sample), "list read"},
		{s.path("destroy", sample), "update"},
		{s.config.Mount + "/config", "read"},
		{"auth/token/lookup-self", "read"},
		{"auth/token/renew-self", "update"},
		{"sys/wrapping/lookup", "update"},
	}
	var lacks []string
	for _, need := range needs {
		granted, ok := s.capabilities(ctx, sess, need.path)
		if !ok {
			return append(lacks, "path sys/capabilities-self lacks update"), nil
		}
		for _, capability := range strings.Fields(need.capabilities) {
			if !slices.Contains(granted, capability) && !slices.Contains(granted, "root") {
				lacks = append(lacks, fmt.Sprintf("path %s lacks %s", need.path, capability))
			}
		}
	}
	return lacks, nil
}
