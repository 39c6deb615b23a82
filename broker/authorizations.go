package broker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// GetAuthorization returns one authorization. A device's consent whose poller is gone is
// taken over. INVALID_REQUEST, CLIENT_NOT_FOUND, AUTHORIZATION_NOT_FOUND, what the ref's
// Permit returns, or a reason of the store.
func (b *Broker) GetAuthorization(ctx context.Context, ref AuthorizationRef) (*Authorization, error) {
	c, err := b.GetClient(ctx, ref.ClientID)
	if err != nil {
		return nil, err
	}
	g, err := b.existing(ctx, c, ref)
	if err != nil {
		return nil, err
	}
	b.attend(ctx, c, g)
	return b.authorization(c, g.record, g.id, g.secrets.Subject, time.Now()), nil
}

// AuthorizationQuery asks for one page of a client's authorizations.
type AuthorizationQuery struct {
	ClientID string
	// PageSize is at most so many; 0 means 50, more than 1,000 means 1,000.
	PageSize int
	// PageToken is the NextPageToken of the page before; "" for the first page.
	PageToken string
	// Shown, if not nil, says whose authorizations may be shown; others are left out.
	Shown func(subject string) bool
}

// AuthorizationPage is one page. Authorizations are ordered by ID.
type AuthorizationPage struct {
	Authorizations []*Authorization
	// NextPageToken is "" on the last page.
	NextPageToken string
}

// authorizationCursor is the last authorization that was looked at.
type authorizationCursor struct {
	UID   string `json:"u"`
	After string `json:"a"`
}

func (q AuthorizationQuery) cursor(c *Client) (string, error) {
	if q.PageSize < 0 {
		return "", Invalid("page_size", "is negative")
	}
	if q.PageToken == "" {
		return "", nil
	}
	var at authorizationCursor
	decoded, err := base64.RawURLEncoding.DecodeString(q.PageToken)
	if err != nil || json.Unmarshal(decoded, &at) != nil || at.UID != c.UID || authorizationIDProblem(at.After) {
		return "", Invalid("page_token", "is not a token that ListAuthorizations gave for this client")
	}
	return at.After, nil
}

// ListAuthorizations returns one page of a client's authorizations. One that cannot be
// read fails the page. INVALID_REQUEST, CLIENT_NOT_FOUND, or a reason of the store.
func (b *Broker) ListAuthorizations(ctx context.Context, q AuthorizationQuery) (AuthorizationPage, error) {
	c, err := b.GetClient(ctx, q.ClientID)
	if err != nil {
		return AuthorizationPage{}, err
	}
	after, err := q.cursor(c)
	if err != nil {
		return AuthorizationPage{}, err
	}
	size := min(q.PageSize, maxPageSize)
	if size == 0 {
		size = defaultPageSize
	}
	ids, err := b.store.List(ctx, "grants/"+c.UID+"/")
	if err != nil {
		return AuthorizationPage{}, fmt.Errorf("list authorizations: %w", err)
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return authorizationIDProblem(id) || id <= after })
	slices.Sort(ids)
	page, scanned := AuthorizationPage{}, 0
	for batch := range slices.Chunk(ids, readsAtOnce) {
		found, err := b.readAuthorizations(ctx, c, batch)
		if err != nil {
			return AuthorizationPage{}, err
		}
		for i, a := range found {
			scanned++
			if a != nil && (q.Shown == nil || q.Shown(a.Subject)) {
				page.Authorizations = append(page.Authorizations, a)
			}
			if last := batch[i]; (len(page.Authorizations) == size || scanned == maxScan) && last != ids[len(ids)-1] {
				encoded, _ := json.Marshal(authorizationCursor{c.UID, last}) // two strings always encode
				page.NextPageToken = base64.RawURLEncoding.EncodeToString(encoded)
				return page, nil
			}
		}
	}
	return page, nil
}

// readAuthorizations reads side by side; nil stands for what was destroyed.
func (b *Broker) readAuthorizations(ctx context.Context, c *Client, ids []string) ([]*Authorization, error) {
	found := make([]*Authorization, len(ids))
	var group errgroup.Group
	for i, id := range ids {
		group.Go(func() error {
			return b.guarded(ctx, func() error {
				g, err := b.existing(ctx, c, AuthorizationRef{ClientID: c.ID, ID: id})
				if err == nil {
					found[i] = b.authorization(c, g.record, id, g.secrets.Subject, time.Now())
				}
				if ReasonOf(err) == ReasonAuthorizationNotFound {
					return nil
				}
				return err
			})
		})
	}
	return found, group.Wait()
}
