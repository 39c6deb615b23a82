package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Bounds on the versions that exist of one client, besides the three labelled ones.
const maxUnlabelledVersions = 5

// writeSecret checks a secret against c's settings and writes its value under a
// number that was never used, starting at c.NextVersion. One that is owned elsewhere
// stays there. It changes no record; the caller adds the version to c and commits.
func (b *Broker) writeSecret(ctx context.Context, c *Client, input SecretInput) (SecretVersion, error) {
	version, err := versionFor(c, input)
	if err != nil {
		return SecretVersion{}, err
	}
	if version.PublicKey, err = b.fit(c, input); err != nil {
		return SecretVersion{}, err
	}
	meta, err := b.meta(ctx)
	if err != nil {
		return SecretVersion{}, err
	}
	// Numbers from NextVersion on may hold values that a crash left unnamed.
	const tries = 16
	for number := c.NextVersion; number < c.NextVersion+tries; number++ {
		now := time.Now().UTC()
		if input.Reference.IsZero() {
			record := &secretRecord{
				header: header{UID: c.UID}, Number: number, Value: input.Value.RevealString(), Registration: input.Registration.RevealString(), CreateTime: now,
			}
			_, err := b.write(ctx, secretKey(c.ID, c.UID, number), 0, &record.header, record)
			if ReasonOf(err) == ReasonStoreConflict {
				continue
			}
			if err != nil {
				return SecretVersion{}, fmt.Errorf("write secret value: %w", err)
			}
		}
		version.Number, version.CreateTime, version.ExpireTime = number, now, b.expiryOf(c.Upstream.Authentication, input)
		version.Fingerprint = meta.activeKey().fingerprint(c.UID, number, version.bound(), input.Value)
		return version, nil
	}
	return SecretVersion{}, newError(ReasonConcurrentChange, c.ID, "numbers %d to %d are taken", c.NextVersion, c.NextVersion+tries-1)
}

// versionFor returns a version of what c's settings make of a secret: where it, and tokens
// got with it, may be sent. It has no number yet.
func versionFor(c *Client, input SecretInput) (SecretVersion, error) {
	origin, err := Origin(c.Upstream.TokenEndpoint)
	if err != nil {
		return SecretVersion{}, newError(ReasonInvalidRequest, c.ID, "token_endpoint %v", err)
	}
	destinations := []string{origin}
	if !input.Registration.IsZero() {
		registration, err := Origin(c.Rotation.Endpoint)
		if err != nil {
			return SecretVersion{}, Invalid("client.rotation.endpoint", "must be the registration_client_uri that the registration access token is for")
		}
		if registration != origin {
			destinations = append(destinations, registration)
		}
	}
	return SecretVersion{
		Destinations: destinations, TokenDestinations: slices.Clone(c.Upstream.TokenDestinations),
		ExpireTime: input.ExpireTime.UTC(), Registered: !input.Registration.IsZero(),
		Reference: input.Reference, OwnerVersion: input.ownerVersion,
	}, nil
}

// fit refuses a value that c's settings cannot use, and returns its public half, "" if it
// has none.
func (b *Broker) fit(c *Client, input SecretInput) (publicKey string, err error) {
	if err := b.checkSecret(c.Upstream.secretUse(), input.Value); err != nil {
		return "", err
	}
	return b.publicHalf(c.Upstream, input.Value)
}

// expiryOf is what was declared, else what the secret itself says; zero if nothing.
func (b *Broker) expiryOf(auth Authentication, input SecretInput) time.Time {
	if input.ExpireTime.IsZero() && b.secretExpiry != nil {
		if expires, known := b.secretExpiry(auth, input.Value); known {
			return expires.UTC()
		}
	}
	return input.ExpireTime.UTC()
}

// readSecret reads a version's value and makes sure that it is the one that was
// staged, for this client and these destinations.
func (b *Broker) readSecret(ctx context.Context, c *Client, version SecretVersion) (secret.Value, error) {
	if !version.Reference.IsZero() {
		return b.readReferenced(ctx, c, version)
	}
	key := secretKey(c.ID, c.UID, version.Number)
	fail := func(reason Reason, err error, detail string, args ...any) (secret.Value, error) {
		e := newError(reason, c.ID, "version %d at %s: "+detail, append([]any{version.Number, key}, args...)...)
		e.Op, e.Err, e.RetryAfter = "read secret value", err, 0
		return secret.Value{}, e
	}
	meta, err := b.meta(ctx)
	if err != nil {
		return secret.Value{}, err
	}
	record, err := b.read(ctx, key)
	var absent *AbsentError
	if errors.As(err, &absent) {
		reason := [...]Reason{ReasonSecretAbsent, ReasonSecretDeleted, ReasonSecretDestroyed, ReasonSecretPruned}[absent.How]
		if absent.Time.IsZero() {
			return fail(reason, err, "%s", absent.How)
		}
		return fail(reason, err, "%s at %s", absent.How, absent.Time.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return secret.Value{}, fmt.Errorf("read secret value: %w", err)
	}
	var r secretRecord
	if err := decode(key, record, &r, "number", "value"); err != nil {
		return secret.Value{}, &Error{Reason: ReasonOf(err), Op: "read secret value", Client: c.ID, Detail: AsError(err).Detail, Err: err}
	}
	value := secret.NewString(r.Value)
	if problem := meta.mismatch(c.UID, version, value); problem != "" {
		return fail(ReasonSecretChangedOutside, nil, "%s", problem)
	}
	if r.UID != c.UID || r.Number != version.Number {
		return fail(ReasonSecretChangedOutside, nil, "the fingerprint differs")
	}
	return value, nil
}

// bound are all places that v is bound to, in the form that its fingerprint covers.
func (v SecretVersion) bound() []string {
	all := slices.Clone(v.Destinations)
	for _, o := range v.TokenDestinations {
		all = append(all, "token:"+o)
	}
	return all
}

// readWithRegistration is readSecret, and the registration access token that is kept
// with the value; the zero Value if there is none.
func (b *Broker) readWithRegistration(ctx context.Context, c *Client, version SecretVersion) (value, registration secret.Value, err error) {
	if value, err = b.readSecret(ctx, c, version); err != nil || !version.Registered {
		return value, secret.Value{}, err
	}
	key := secretKey(c.ID, c.UID, version.Number)
	record, err := b.read(ctx, key)
	if err != nil {
		return secret.Value{}, secret.Value{}, fmt.Errorf("read registration access token: %w", err)
	}
	var r secretRecord
	if err := decode(key, record, &r, "number", "value"); err != nil {
		return secret.Value{}, secret.Value{}, fmt.Errorf("read registration access token: %w", err)
	}
	return value, secret.NewString(r.Registration), nil
}

// sameSecret reports whether two values are one secret, also where a JWK or PEM
// was only laid out differently.
func sameSecret(a, b secret.Value) bool {
	if a.Equal(b) {
		return true
	}
	normal := func(v secret.Value) string {
		text := strings.TrimSpace(v.RevealString())
		if !isKeyMaterial(text) {
			return v.RevealString()
		}
		var fields map[string]any
		if json.Unmarshal([]byte(text), &fields) == nil {
			sorted, _ := json.Marshal(fields) // what was just decoded encodes
			return string(sorted)
		}
		return strings.Join(strings.Fields(text), "\n")
	}
	return normal(a) == normal(b)
}

// addVersion appends a version that writeSecret made.
func (c *Client) addVersion(v SecretVersion) {
	c.Secrets = append(c.Secrets, v)
	slices.SortFunc(c.Secrets, func(a, b SecretVersion) int { return cmp.Compare(a.Number, b.Number) })
	c.NextVersion, c.added = max(c.NextVersion, v.Number+1), v.Number
}

// relabel gives stage to the version of that number and takes it from any other.
func (c *Client) relabel(number int64, stage Stage) {
	for i := range c.Secrets {
		switch {
		case c.Secrets[i].Number == number:
			c.Secrets[i].Stage = stage
		case c.Secrets[i].Stage == stage:
			c.Secrets[i].Stage = Unlabelled
		}
	}
}

// promote makes number current and the present current one previous.
func (c *Client) promote(number int64, now time.Time) {
	if current, ok := c.Staged(Current); ok {
		c.relabel(current.Number, Previous)
	}
	c.relabel(number, Current)
	i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return v.Number == number })
	c.Secrets[i].PromoteTime = now
}

// roomFor reports whether one more version fits that enters at stage: the version
// that loses its label by that must fit among the unlabelled ones.
func (c *Client) roomFor(stage Stage) error {
	var unlabelled []int64
	for _, v := range c.Secrets {
		if v.Stage == Unlabelled {
			unlabelled = append(unlabelled, v.Number)
		}
	}
	displaced := 0
	if stage == Current {
		stage = Previous // the current one becomes previous, which loses its label
	}
	if _, ok := c.Staged(stage); ok {
		displaced = 1
	}
	if len(unlabelled)+displaced > maxUnlabelledVersions {
		return newError(ReasonTooManySecretVersions, c.ID, "retire some of the unlabelled versions %v first", unlabelled)
	}
	return nil
}
