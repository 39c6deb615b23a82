package broker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"
)

// consentState is what a state parameter (RFC 6749 §4.1.1) says. It travels sealed, so
// that one which was not made here is refused before the store is asked for anything,
// and tells whoever sees the URL nothing.
type consentState struct {
	Client        string    `json:"c"`
	Authorization string    `json:"a"`
	Attempt       string    `json:"n"`
	ExpireTime    time.Time `json:"e"`
}

const (
	// stateContext is authenticated with each state, so that nothing else that a sealing
	// key has sealed is taken for one.
	stateContext = "authorization state"
	// maxStateLength is more than any state has.
	maxStateLength = 1024
)

// sealState returns s as a state parameter.
func (b *Broker) sealState(ctx context.Context, s consentState) (string, error) {
	keys, err := b.sealer(ctx)
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	aead, err := keys[len(keys)-1].aead()
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, plain, []byte(stateContext))), nil
}

// openState returns what a state parameter says. Once the store's keys are known it
// reads nothing. STATE_INVALID, or a reason of the store.
func (b *Broker) openState(ctx context.Context, state string) (consentState, error) {
	refused := func(problem string) (consentState, error) { return consentState{}, stateInvalid("", problem) }
	if state == "" || len(state) > maxStateLength {
		return refused("is empty or too long")
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(state)
	if err != nil {
		return refused("was not made here")
	}
	keys, err := b.sealer(ctx)
	if err != nil {
		return consentState{}, err
	}
	for _, k := range keys {
		aead, err := k.aead()
		if err != nil {
			continue
		}
		plain, err := aead.Open(nil, nil, sealed, []byte(stateContext))
		if err != nil {
			continue
		}
		var s consentState
		if json.Unmarshal(plain, &s) != nil || idProblem(s.Client) != "" || authorizationIDProblem(s.Authorization) {
			return refused("was made by another release")
		}
		if !time.Now().Before(s.ExpireTime) {
			return refused("expired at " + s.ExpireTime.UTC().Format(time.RFC3339))
		}
		return s, nil
	}
	return refused("was not made here")
}

// stateInvalid is STATE_INVALID, and why, in terms of the field that it came in.
func stateInvalid(client, problem string) *Error {
	return &Error{Reason: ReasonStateInvalid, Client: client, Fields: []FieldViolation{{Field: "state", Problem: problem}}}
}
