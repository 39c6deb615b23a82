package vault

import (
	"os"
	"slices"
)

// stamps tell whether files have changed since, without reading them. A file
// that is not there has an empty one.
type stamps []os.FileInfo

// stampsOf takes them. A link is followed: Kubernetes replaces files by turning one.
func stampsOf(paths ...string) stamps {
	list := make(stamps, 0, len(paths))
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			info = nil
		}
		list = append(list, info)
	}
	return list
}

func (s stamps) equal(other stamps) bool {
	return slices.EqualFunc(s, other, func(a, b os.FileInfo) bool {
		if a == nil || b == nil {
			return a == nil && b == nil
		}
		return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
	})
}
