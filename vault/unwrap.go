package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Unwrapper returns a [broker.Unwrap] for tokens that w accepts.
//
// Where a token was made is looked up, with the broker's own token, before it is
// unwrapped: that does not use it up. It is then unwrapped with itself as the token of
// the request, which its own policy permits, so that the broker's policy need not
// grant sys/wrapping/unwrap; and once, whatever comes of it.
func (s *Store) Unwrapper(w Wrapping) broker.Unwrap {
	return func(ctx context.Context, token secret.Value) (secret.Value, error) {
		if err := s.checkCreation(ctx, w, token); err != nil {
			return secret.Value{}, err
		}
		return s.unwrap(ctx, token)
	}
}

const (
	lookupPath = "sys/wrapping/lookup"
	unwrapPath = "sys/wrapping/unwrap"
)

// checkCreation refuses a token that was made where w does not say.
func (s *Store) checkCreation(ctx context.Context, w Wrapping, token secret.Value) error {
	const op = "look up wrapping token"
	body, err := json.Marshal(map[string]string{"token": token.RevealString()})
	if err != nil {
		return &broker.Error{Reason: broker.ReasonWrappingTokenInvalid, Op: op, Detail: "it is not text"}
	}
	a, err := s.call(ctx, request{op: op, path: lookupPath, body: body, needs: "update"})
	if err != nil {
		return err
	}
	var found struct {
		Data struct {
			CreationPath string `json:"creation_path"`
		} `json:"data"`
	}
	if json.Unmarshal(a.body.Reveal(), &found) != nil || found.Data.CreationPath == "" {
		return &broker.Error{Reason: broker.ReasonStoreFailed, Op: op, Detail: lookupPath + ": the answer is not Vault's"}
	}
	path := found.Data.CreationPath
	if w.accepts(path) {
		return nil
	}
	detail := fmt.Sprintf("it was made by a request to %.200q, which secrets.wrapping.creation_paths does not list", path)
	if path == RewrapPath {
		detail += "; whoever intercepts a token can wrap its content again by that request"
	}
	return &broker.Error{Reason: broker.ReasonWrappingPathRefused, Op: op, Detail: detail}
}

// unwrap takes what token wraps.
func (s *Store) unwrap(ctx context.Context, token secret.Value) (secret.Value, error) {
	const op = "unwrap"
	r := request{op: op, path: unwrapPath, body: []byte("{}"), effect: true}
	a := s.send(ctx, s.withToken(token.RevealString()), r)
	switch {
	case a.ok():
	case a.forbidden():
		return secret.Value{}, &broker.Error{Reason: broker.ReasonWrappingTokenInvalid, Op: op, Detail: unwrapPath + ": refused (HTTP 403)"}
	default:
		_, err := s.judge(r, a)
		if e := broker.AsError(err); e.Reason == broker.ReasonStoreAnswerLost {
			e.Reason, e.Detail = broker.ReasonWrappingAnswerLost, e.Detail+"; take the token for used up"
		}
		return secret.Value{}, err
	}
	defer a.body.Wipe()
	value, problem := wrappedSecret(a.body)
	if problem != "" {
		return secret.Value{}, &broker.Error{Reason: broker.ReasonWrappingContentInvalid, Op: op, Detail: problem + "; the token is used up"}
	}
	return value, nil
}

// wrappedFields are the names that a wrapped secret may have.
var wrappedFields = []string{"value", "client_secret", "private_key"}

// wrappedSecret takes the secret out of a wrapped answer, or says why it is none. The
// problem quotes nothing but the names of wrappedFields.
func wrappedSecret(body secret.Value) (value secret.Value, problem string) {
	var answered struct{ Data map[string]json.RawMessage }
	if json.Unmarshal(body.Reveal(), &answered) != nil || answered.Data == nil {
		return value, "what it wraps has no data"
	}
	fields := answered.Data
	defer func() { wipe(answered.Data); wipe(fields) }()
	if nested, ok := kvFields(fields); ok {
		fields = nested
	}
	var found []string
	for _, name := range wrappedFields {
		if _, ok := fields[name]; ok {
			found = append(found, name)
		}
	}
	switch len(found) {
	case 0:
		return value, "what it wraps has none of the fields " + strings.Join(wrappedFields, ", ")
	case 1:
	default:
		return value, "what it wraps has more than one of the fields " + strings.Join(found, ", ")
	}
	value, problem = textOf(fields[found[0]])
	if problem != "" {
		problem = "its field " + found[0] + " " + problem
	}
	return value, problem
}

// kvFields returns the fields of a secret where fields are what KV version 2 answers
// to a read: the secret beside its metadata.
func kvFields(fields map[string]json.RawMessage) (nested map[string]json.RawMessage, ok bool) {
	var m metadata
	if len(fields) != 2 || json.Unmarshal(fields["metadata"], &m) != nil || m.Version == 0 {
		return nil, false
	}
	return nested, json.Unmarshal(fields["data"], &nested) == nil
}

// textOf returns a field's value, or what is wrong with it.
func textOf(raw json.RawMessage) (value secret.Value, problem string) {
	var text string
	switch {
	case json.Unmarshal(raw, &text) != nil || string(raw) == "null":
		return value, "is not a string"
	case text == "":
		return value, "is empty"
	case len(text) > broker.MaxSecretBytes:
		return value, fmt.Sprintf("has more than %d bytes", broker.MaxSecretBytes)
	}
	return secret.NewString(text), ""
}

func wipe(fields map[string]json.RawMessage) {
	for _, raw := range fields {
		clear(raw)
	}
}
