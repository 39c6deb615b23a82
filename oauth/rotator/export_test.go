package rotator

import "github.com/tokenbroker/tokenbroker/oauth"

// ReadObject returns the members of a body that is read as one JSON object; nil if it is not.
func ReadObject(answer oauth.ManagementAnswer) map[string][]byte {
	got := read(answer, opCreate)
	_ = got.words() // of any answer
	if got.object == nil {
		return nil
	}
	members := make(map[string][]byte)
	for name, value := range got.object {
		members[name] = value
	}
	return members
}
