package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// References is a [broker.References] over other KV version 2 mounts of the same
// Vault. It never writes. [Store.References] makes it.
type References struct {
	store  *Store
	places []Place
}

var _ broker.References = (*References)(nil)

// References returns what reads secrets in the given places, with s's own token. They
// must be such as [Sources.Validate] accepts.
func (s *Store) References(places []Place) *References {
	return &References{store: s, places: slices.Clone(places)}
}

// Version implements [broker.References]. It reads metadata alone.
func (f *References) Version(ctx context.Context, r broker.SecretReference) (int64, error) {
	const op = "look up referenced secret"
	if err := f.allowed(r); err != nil {
		return 0, err
	}
	path := Place{r.Mount, r.Path}.path("metadata")
	a, err := f.call(ctx, r, request{op: op, path: path, needs: "read"})
	if err != nil {
		return 0, err
	}
	if a.absent() {
		return 0, unreadable(op, r, "nothing is there, or the mount is not a KV version 2 engine")
	}
	var body struct{ Data keyMetadata }
	if json.Unmarshal(a.body.Reveal(), &body) != nil || body.Data.Versions == nil {
		return 0, unreadable(op, r, "the mount is not a KV version 2 engine")
	}
	latest := body.Data.CurrentVersion
	switch m := body.Data.Versions[strconv.FormatUint(latest, 10)]; {
	case latest == 0:
		return 0, unreadable(op, r, "it has no version")
	case m.Destroyed:
		return 0, unreadable(op, r, fmt.Sprintf("its owner has destroyed version %d, the latest", latest))
	case m.deleted(time.Now()):
		return 0, unreadable(op, r, fmt.Sprintf("its owner has deleted version %d, the latest, at %s", latest, m.DeletionTime))
	}
	return int64(latest), nil
}

// deleted reports whether a version was deleted by now; Vault also has times to come,
// of mounts that delete after a while.
func (m metadata) deleted(now time.Time) bool {
	at, err := time.Parse(time.RFC3339Nano, m.DeletionTime)
	return err == nil && !at.After(now)
}

// Read implements [broker.References].
func (f *References) Read(ctx context.Context, r broker.SecretReference, number int64) (broker.ReferencedSecret, error) {
	const op = "read referenced secret"
	if err := f.allowed(r); err != nil {
		return broker.ReferencedSecret{}, err
	}
	asked := request{op: op, path: Place{r.Mount, r.Path}.path("data"), needs: "read"}
	if number > 0 {
		asked.query = url.Values{"version": {strconv.FormatInt(number, 10)}}
	}
	a, err := f.call(ctx, r, asked)
	if err != nil {
		return broker.ReferencedSecret{}, err
	}
	defer a.body.Wipe()
	fail := func(format string, args ...any) (broker.ReferencedSecret, error) {
		return broker.ReferencedSecret{}, unreadable(op, r, fmt.Sprintf(format, args...))
	}
	v, err := decodeVersion(a)
	if err != nil {
		return fail("the mount is not a KV version 2 engine")
	}
	defer clear(v.Data)
	if a.absent() {
		switch how, _ := v.absence(); {
		case how == broker.AbsentNeverExisted && number > 0:
			return fail("it has no version %d: it never had, or later ones have pushed it out", number)
		case how == broker.AbsentNeverExisted:
			return fail("nothing is there, or the mount is not a KV version 2 engine")
		default:
			return fail("its owner has %s version %d", how, v.Metadata.Version)
		}
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(v.Data, &fields) != nil || fields == nil {
		return fail("version %d is not an object", v.Metadata.Version)
	}
	defer wipe(fields)
	raw, ok := fields[r.Field]
	if !ok {
		return fail("version %d has no field %q", v.Metadata.Version, r.Field)
	}
	value, problem := textOf(raw)
	if problem != "" {
		return fail("field %q of version %d %s", r.Field, v.Metadata.Version, problem)
	}
	return broker.ReferencedSecret{Value: value, Version: int64(v.Metadata.Version)}, nil
}

// allowed refuses what no place holds, and above all the broker's own records: a
// client that refers to another one's secret would have it sent to its own endpoint.
func (f *References) allowed(r broker.SecretReference) error {
	refuse := func(detail string) error {
		return &broker.Error{Reason: broker.ReasonReferenceNotAllowed, Op: "refer to a secret", Detail: fmt.Sprintf("%.300q: %s", r.String(), detail)}
	}
	switch {
	case !validPath(r.Mount) || !validPath(r.Path):
		return refuse("mount and path must be paths of letters, digits, '.', '_', '-' and inner slashes")
	case Place{r.Mount, r.Path}.within(f.store.config.Mount):
		return refuse("the broker's own records lie there")
	case !slices.ContainsFunc(f.places, func(p Place) bool { return p.holds(r.Mount, r.Path) }):
		return refuse("secrets.references names no place that holds it")
	}
	return nil
}

// call sends what is asked about r. What the store would say of its own mount is, of
// another one, a fault of the reference.
func (f *References) call(ctx context.Context, r broker.SecretReference, asked request) (answer, error) {
	if _, err := f.store.session(ctx, asked.op); err != nil {
		return answer{}, err // about our own mount
	}
	a, err := f.store.call(ctx, asked)
	if err == nil {
		return a, nil
	}
	e := broker.AsError(err)
	switch e.Reason {
	case broker.ReasonStorePermissionDenied, broker.ReasonStoreMountMissing, broker.ReasonStoreNotKV2:
		return answer{}, unreadable(e.Op, r, e.Detail)
	}
	return answer{}, err
}

func unreadable(op string, r broker.SecretReference, detail string) error {
	return &broker.Error{Reason: broker.ReasonReferenceUnreadable, Op: op, Detail: r.String() + ": " + detail}
}
