package broker

import "context"

// ImportedClient is one client of an import.
type ImportedClient struct {
	// NewClient is the client as it should be; it has no RequestID, because importing it
	// again does nothing.
	NewClient
	// Update makes a client of that name that is there take these settings; else that is
	// CLIENT_ALREADY_EXISTS.
	Update bool
	// MayCreate and MayUpdate say whether the caller may, each with the error that it gets
	// if not; they are asked once it is known which of them it is about. nil allows.
	MayCreate, MayUpdate func() error
	// Check and MayRetarget are as in [ClientUpdate].
	Check       func(present, changed *Client) error
	MayRetarget func(present *Client) bool
}

// ImportOutcome is what became of an [ImportedClient], or would become of it.
type ImportOutcome int

// The outcomes of an import that did not fail; with an error an outcome means nothing.
const (
	ImportCreated ImportOutcome = iota + 1
	ImportUpdated
	ImportUnchanged
)

// ImportClient creates a client or makes it as it should be. One that is as it should be,
// with the secret that it should have, is not written; a wrapping token always brings
// another secret.
//
// Errors are those of [Broker.CreateClient] and [Broker.UpdateClient].
func (b *Broker) ImportClient(ctx context.Context, in ImportedClient) (ImportOutcome, error) {
	if err := CheckID("client.name", in.ID); err != nil {
		return 0, err
	}
	present, err := b.fetchClient(ctx, in.ID)
	if ReasonOf(err) == ReasonClientNotFound || err == nil && present.State() == StatePurged {
		if err := allowed(in.MayCreate); err != nil {
			return 0, err
		}
		_, err := b.CreateClient(ctx, in.NewClient)
		return ImportCreated, err
	}
	if err == nil {
		err = allowed(in.MayUpdate)
	}
	if err != nil {
		return 0, err
	}
	if !in.Update {
		return 0, newError(ReasonClientAlreadyExists, in.ID, "it is %s; set update to change it", present.State())
	}
	_, changed, err := b.update(ctx, ClientUpdate{
		ID: in.ID, Secret: in.Secret, Check: in.Check, MayRetarget: in.MayRetarget, ValidateOnly: in.ValidateOnly, KeepSame: true,
		Edit: func(c *Client) {
			c.Labels, c.Upstream, c.TokenPolicy, c.Rotation = in.Labels, in.Upstream, in.TokenPolicy, in.Rotation
		},
	})
	if err == nil && !changed {
		return ImportUnchanged, nil
	}
	return ImportUpdated, err
}

func allowed(may func() error) error {
	if may == nil {
		return nil
	}
	return may()
}
