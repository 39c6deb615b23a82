package broker

import "context"

// StoreGranted stores what a user granted to a client, as consent does with the answer
// that it brought.
func (b *Broker) StoreGranted(ctx context.Context, id, subject string, answer TokenResponse, username, password string) (*Token, error) {
	c, err := b.readClient(ctx, id)
	if err != nil {
		return nil, err
	}
	path, err := b.grantPathOf(ctx, c, subject)
	if err != nil {
		return nil, err
	}
	r, _, version, err := b.readGrant(ctx, c, path)
	if err != nil {
		return nil, err
	}
	current, _ := c.minting()
	_, token, err := b.storeGranted(ctx, c, path, version, r, &grantSecrets{Subject: subject}, grantedAnswer{
		Secret: current, Answer: answer, Username: username, Password: password,
	})
	return token, err
}

// SettingsHash is what tokens of u are kept under.
func SettingsHash(u Upstream) string { return u.settingsHash() }

// TokenPath is where the token of a client without subjects lies.
func TokenPath(uid string, u Upstream, scopes, audience, resources string) string {
	path, _ := (&Broker{}).tokenPath(context.Background(), tokenKey{uid: uid, settings: u.settingsHash(), scopes: scopes, audience: audience, resources: resources})
	return path
}

// SharedLists is sharedLists, Of its of; Kept is how many it keeps.
type SharedLists struct{ lists sharedLists }

func (s *SharedLists) Of(list []string) []string { return s.lists.of(list) }
func (s *SharedLists) Kept() int                 { return len(s.lists.kept) }

const MaxSharedLists = maxSharedLists

// Stored are the types of all that is stored :: where → an empty one.
func Stored() map[string]any {
	return map[string]any{
		"meta": metaRecord{}, "clients": clientRecord{}, "secrets": secretRecord{}, "tokens": tokenRecord{}, "tokens (sealed)": sharedToken{},
		"upstream": upstreamRecord{}, "grants": grantRecord{}, "grants (sealed)": grantSecrets{}, "rotations": rotationRecord{},
		"active-rotations": activeRecord{}, "usage": usageRecord{}, "feed": feedRecord{}, "crawl": crawlRecord{},
	}
}
