package brokertest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// ReferencesPrefix is what clients may refer to of a mount in [TestReferences].
const ReferencesPrefix = "oauth"

// Owner changes what [broker.References] read, as those to whom it belongs.
type Owner interface {
	// Put writes a new version, whose number it returns.
	Put(mount, path string, fields map[string]any) int64
	// Delete takes a version away.
	Delete(mount, path string, number int64)
}

// References is a [broker.References] in memory, and its [Owner]. It passes
// [TestReferences]. Clients may refer to what lies below [ReferencesPrefix] of any
// mount. Safe for concurrent use; make one with [NewReferences].
type References struct {
	mu sync.Mutex // guards what follows
	// versions :: mount/path → fields of versions 1, 2 …; nil for a deleted one
	versions     map[string][]map[string]any
	looks, reads int
	// refusal is what every call is answered with; nil answers as usual.
	refusal error
}

var (
	_ broker.References = (*References)(nil)
	_ Owner             = (*References)(nil)
)

// NewReferences returns References to nothing yet.
func NewReferences() *References { return &References{versions: map[string][]map[string]any{}} }

// Put implements [Owner].
func (f *References) Put(mount, path string, fields map[string]any) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := mount + "/" + path
	f.versions[key] = append(f.versions[key], fields)
	return int64(len(f.versions[key]))
}

// Delete implements [Owner].
func (f *References) Delete(mount, path string, number int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.versions[mount+"/"+path][number-1] = nil
}

// Refuse answers every call with err from now on; nil ends that.
func (f *References) Refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusal = err
}

// Calls returns how often Version and Read were called.
func (f *References) Calls() (looks, reads int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks, f.reads
}

// Version implements [broker.References].
func (f *References) Version(ctx context.Context, r broker.SecretReference) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	versions, err := f.versionsLocked(ctx, r)
	if err != nil {
		return 0, err
	}
	if versions[len(versions)-1] == nil {
		return 0, unreadable(r, "its owner has deleted version %d", len(versions))
	}
	return int64(len(versions)), nil
}

// Read implements [broker.References].
func (f *References) Read(ctx context.Context, r broker.SecretReference, number int64) (broker.ReferencedSecret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	versions, err := f.versionsLocked(ctx, r)
	if err != nil {
		return broker.ReferencedSecret{}, err
	}
	if number == 0 {
		number = int64(len(versions))
	}
	if number > int64(len(versions)) || versions[number-1] == nil {
		return broker.ReferencedSecret{}, unreadable(r, "it has no version %d", number)
	}
	text, ok := versions[number-1][r.Field].(string)
	if !ok || text == "" {
		return broker.ReferencedSecret{}, unreadable(r, "field %q of version %d is no text", r.Field, number)
	}
	return broker.ReferencedSecret{Value: secret.NewString(text), Version: number}, nil
}

func (f *References) versionsLocked(ctx context.Context, r broker.SecretReference) ([]map[string]any, error) {
	if err := alive(ctx, "read referenced secret"); err != nil {
		return nil, err
	}
	if f.refusal != nil {
		return nil, f.refusal
	}
	if r.Path != ReferencesPrefix && !strings.HasPrefix(r.Path, ReferencesPrefix+"/") || strings.Contains(r.Path, "..") || strings.ContainsAny(r.Path, "%\\") ||
		strings.Contains(r.Path, "//") || strings.HasSuffix(r.Path, "/") || strings.Contains(r.Path, "/./") {
		return nil, &broker.Error{Reason: broker.ReasonReferenceNotAllowed, Op: "read referenced secret", Detail: r.String()}
	}
	versions := f.versions[r.Mount+"/"+r.Path]
	if len(versions) == 0 {
		return nil, unreadable(r, "nothing is there")
	}
	return versions, nil
}

func unreadable(r broker.SecretReference, detail string, args ...any) error {
	return &broker.Error{Reason: broker.ReasonReferenceUnreadable, Op: "read referenced secret", Detail: r.String() + ": " + fmt.Sprintf(detail, args...)}
}

// TestReferences checks that a [broker.References] keeps the promises of that
// interface. It may read below [ReferencesPrefix] of mount and nowhere else, and owner
// changes what is there.
func TestReferences(t *testing.T, references broker.References, owner Owner, mount string) {
	at := func(path string) broker.SecretReference {
		return broker.SecretReference{Mount: mount, Path: path, Field: "client_secret"}
	}
	fields := func(text string) map[string]any { return map[string]any{"client_secret": text, "n": 7, "empty": ""} }
	want := func(t *testing.T, r broker.SecretReference, number int64, text string, version int64) {
		t.Helper()
		got, err := references.Read(t.Context(), r, number)
		if err != nil {
			t.Fatalf("Read(%s, %d): %v", r, number, err)
		}
		if got.Version != version || got.Value.RevealString() != text {
			t.Errorf("Read(%s, %d) = version %d, want %d and what its owner wrote", r, number, got.Version, version)
		}
	}
	refused := func(t *testing.T, r broker.SecretReference, number int64, reason broker.Reason) {
		t.Helper()
		_, err := references.Read(t.Context(), r, number)
		wantReason(t, fmt.Sprintf("Read(%s, %d)", r, number), err, reason)
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("Read(%s): the error shows the secret: %v", r, err)
		}
	}
	t.Run("versions", func(t *testing.T) {
		r := at(ReferencesPrefix + "/acme")
		for n := range int64(3) {
			number := owner.Put(mount, r.Path, fields(fmt.Sprintf("secret %d", n+1)))
			if latest, err := references.Version(t.Context(), r); err != nil || latest != number || number != n+1 {
				t.Fatalf("Version = %d, %v; want %d", latest, err, number)
			}
			want(t, r, 0, fmt.Sprintf("secret %d", number), number)
		}
		want(t, r, 1, "secret 1", 1)
		want(t, r, 2, "secret 2", 2)
		refused(t, r, 4, broker.ReasonReferenceUnreadable)

		owner.Delete(mount, r.Path, 1)
		refused(t, r, 1, broker.ReasonReferenceUnreadable)
		want(t, r, 0, "secret 3", 3)
		owner.Delete(mount, r.Path, 3)
		refused(t, r, 0, broker.ReasonReferenceUnreadable)
		_, err := references.Version(t.Context(), r)
		wantReason(t, "Version after the latest was deleted", err, broker.ReasonReferenceUnreadable)
	})
	t.Run("the prefix itself", func(t *testing.T) {
		owner.Put(mount, ReferencesPrefix, fields("here"))
		want(t, at(ReferencesPrefix), 0, "here", 1)
	})
	t.Run("what is no secret", func(t *testing.T) {
		r := at(ReferencesPrefix + "/odd")
		_, err := references.Version(t.Context(), r)
		wantReason(t, "Version of what never existed", err, broker.ReasonReferenceUnreadable)
		refused(t, r, 0, broker.ReasonReferenceUnreadable)
		owner.Put(mount, r.Path, fields(canary))
		for _, field := range []string{"absent", "n", "empty"} {
			r.Field = field
			refused(t, r, 0, broker.ReasonReferenceUnreadable)
		}
	})
	t.Run("other places", func(t *testing.T) {
		for _, path := range []string{"other", "oauth-of-others", "other/oauth"} {
			owner.Put(mount, path, fields(canary))
		}
		for _, path := range []string{
			"other", "oauth-of-others", "other/oauth", "oauth/../other", "oauth/%2e%2e/other", "oauth//acme", "oauth/./acme", "/oauth/acme", "oauth/", "", "..",
			"oauth/..%2Fother", `oauth\..\other`,
		} {
			refused(t, at(path), 0, broker.ReasonReferenceNotAllowed)
			_, err := references.Version(t.Context(), at(path))
			wantReason(t, "Version of "+path, err, broker.ReasonReferenceNotAllowed)
		}
	})
	t.Run("dead context", func(t *testing.T) {
		_, err := references.Version(cancelled(t), at(ReferencesPrefix))
		wantReason(t, "Version", err, broker.ReasonDeadlineExceeded)
		_, err = references.Read(cancelled(t), at(ReferencesPrefix), 0)
		wantReason(t, "Read", err, broker.ReasonDeadlineExceeded)
	})
}
