package broker

import (
	"slices"
	"strings"
	"sync"
)

// maxSharedLists bounds how many lists are kept to be shared.
const maxSharedLists = 4096

// sharedLists finds equal lists of scopes, so that tokens with the same scopes have one
// list: it takes less memory, and with many tokens in use what they share is in the
// processor's caches. The zero value is ready for use, and safe for concurrent use.
type sharedLists struct {
	mu sync.Mutex
	// kept :: scopes with spaces between them → the list; guarded by mu
	kept map[string][]string
}

// of returns a list that equals list and must not be changed.
func (s *sharedLists) of(list []string) []string {
	if len(list) == 0 {
		return list
	}
	key := strings.Join(list, " ") // no scope has a space (RFC 6749 §3.3)
	s.mu.Lock()
	defer s.mu.Unlock()
	if shared, ok := s.kept[key]; ok && slices.Equal(shared, list) {
		return shared
	}
	if s.kept == nil || len(s.kept) >= maxSharedLists { // full: begin anew rather than keep what nobody has any more
		s.kept = map[string][]string{}
	}
	s.kept[key] = list
	return list
}
