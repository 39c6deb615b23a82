package broker

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// SecretInput is a secret on its way into the store. It has one of Value, Wrapping and
// Reference; with none of them it is no secret.
type SecretInput struct {
	Value secret.Value
	// Wrapping is a token that wraps the secret. It is unwrapped once, when nothing but
	// the secret itself can refuse the request any more.
	Wrapping secret.Value
	// Reference names a secret that stays with its owner. The client follows it: see
	// [SecretVersion].Reference.
	Reference SecretReference
	// KeepTrailingSpace takes a client secret that ends in white space.
	KeepTrailingSpace bool
	// Registration is the registration access token that came with the client
	// (RFC 7592); the zero Value if there is none.
	Registration secret.Value
	// ExpireTime is when the authorization server stops taking it; zero if unknown.
	ExpireTime time.Time

	// ownerVersion is what Reference led to, once Value was read from there.
	ownerVersion int64
}

// given reports whether there is a secret, wherever it is.
func (in SecretInput) given() bool {
	return !in.Value.IsZero() || !in.Wrapping.IsZero() || !in.Reference.IsZero()
}

// source says how the secret comes.
func (in SecretInput) source() SecretSource {
	switch {
	case !in.Wrapping.IsZero():
		return SourceWrapped
	case !in.Reference.IsZero():
		return SourceReference
	default:
		return SourceRequest
	}
}

// Bounds on what names a secret, in bytes.
const (
	maxWrappingToken  = 4 << 10
	maxReferenceMount = 256
	maxReferencePath  = 512
	maxReferenceField = 128
)

// checkInput refuses what is wrong with a secret before it is fetched from where it
// is; resolve looks at the rest.
func checkInput(v *violations, field string, in SecretInput) {
	sources := 0
	for _, given := range []bool{!in.Value.IsZero(), !in.Wrapping.IsZero(), !in.Reference.IsZero()} {
		if given {
			sources++
		}
	}
	switch {
	case sources > 1:
		v.add(field, "must be one of client_secret, private_key, wrapping_token and reference")
	case !in.Wrapping.IsZero():
		checkToken(v, field+".wrapping_token", in.Wrapping, maxWrappingToken)
	case !in.Reference.IsZero():
		checkReference(v, field+".reference", in.Reference)
	default:
		checkValue(v, field, in)
	}
	if !in.Registration.IsZero() {
		checkToken(v, field+".registration_access_token", in.Registration, MaxTokenBytes)
	}
}

// checkToken validates against RFC 6750 §2.1 as far as a header needs it.
func checkToken(v *violations, field string, token secret.Value, most int) {
	text := token.Reveal()
	switch {
	case len(text) > most:
		v.add(field, "has %d bytes; at most %d", len(text), most)
	case slices.ContainsFunc(text, func(c byte) bool { return c <= ' ' || c > '~' }):
		v.add(field, "has white space, such as the newline that echo or an editor adds, or a character that is not printable ASCII")
	}
}

// checkReference refuses what would reach another place than it seems to name: no
// segment is empty, "." or "..", and nothing is percent-encoded.
func checkReference(v *violations, field string, r SecretReference) {
	const rule = "must have segments of letters, digits, '.', '_' and '-', with one slash between them; none is '.' or '..'"
	allowed := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	check := func(name, path string, most int) {
		if len(path) > most {
			v.add(field+"."+name, "has %d bytes; at most %d", len(path), most)
			return
		}
		for segment := range strings.SplitSeq(path, "/") {
			if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, func(r rune) bool { return !allowed(r) }) {
				v.add(field+"."+name, rule)
				return
			}
		}
	}
	check("mount", r.Mount, maxReferenceMount)
	check("path", r.Path, maxReferencePath)
	if r.Field == "" {
		v.add(field+".field", "is required: the field that holds the secret")
	}
	checkText(v, field+".field", r.Field, maxReferenceField)
}

// checkValue refuses what cannot be meant: the value itself is never quoted.
func checkValue(v *violations, field string, in SecretInput) {
	value := in.Value.Reveal()
	text := strings.TrimSpace(string(value))
	kept := strings.TrimRight(string(value), " \t\r\n")
	switch {
	case len(value) == 0:
		v.add(field, "is empty")
	case len(value) > MaxSecretBytes:
		v.add(field, "has %d bytes; at most %d", len(value), MaxSecretBytes)
	case !utf8.Valid(value):
		v.add(field, "is not UTF-8; if it is binary, ask the provider for its text form")
	case text == "":
		v.add(field, "is only white space")
	case isKeyMaterial(text):
		// A PEM or JWK may well end in a newline; how it parses is the adapter's to say.
	case len(text) != len(kept):
		v.add(field, "begins or ends with white space; remove it")
	case len(text) != len(value) && !in.KeepTrailingSpace:
		v.add(field, "begins or ends with white space, such as the newline that echo or an editor adds; remove it, or set keep_trailing_space if it is part of the secret")
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		v.add(field, "has a control character inside")
	}
}

// resolve returns input with the secret in its Value: unwrapped, or read from its
// owner, in which case the caller wipes it. What was fetched must then be what checkInput
// takes. Since unwrapping uses the token up, everything that could refuse the request
// without knowing the secret must have been asked before; the end of ctx does not stop
// it once it has begun.
//
// INVALID_REQUEST, a WRAPPING_ or REFERENCE_ reason, or one of the store.
func (b *Broker) resolve(ctx context.Context, client string, input SecretInput) (SecretInput, error) {
	var fetched SecretInput
	var err error
	reason := ReasonInvalidRequest // of a value that is not to be taken
	switch {
	case !input.Wrapping.IsZero():
		reason = ReasonWrappingContentInvalid
		fetched, err = b.unwrapped(ctx, input)
	case !input.Reference.IsZero() && input.ownerVersion == 0:
		reason = ReasonReferenceUnreadable
		fetched, err = b.referred(ctx, input, 0)
	default:
		fetched = input
	}
	if err != nil {
		e := AsError(err)
		refusal := &Error{Reason: e.Reason, Op: "fetch the secret", Client: client, Detail: e.Detail, RetryAfter: e.RetryAfter, Err: err}
		if e.Reason == ReasonWrappingContentInvalid { // whoever wraps secrets need not be an operator, and is told what is wrong
			refusal.Fields = []FieldViolation{{Field: "secret.wrapping_token", Problem: "does not wrap one secret: " + orElse(e.Detail, "it must be a string")}}
		}
		return SecretInput{}, refusal
	}
	var v violations
	checkValue(&v, "secret", fetched)
	if len(v) == 0 {
		return fetched, nil
	}
	if reason != ReasonInvalidRequest {
		fetched.Value.Wipe()
	}
	return SecretInput{}, &Error{Reason: reason, Op: "fetch the secret", Client: client, Fields: v}
}

func refusedWrapping() *Error {
	return newError(ReasonWrappingPathRefused, "", "the configuration accepts no wrapping token: secrets.wrapping.creation_paths lists none")
}

// unwrapped returns input with what its token wraps.
func (b *Broker) unwrapped(ctx context.Context, input SecretInput) (SecretInput, error) {
	if b.unwrap == nil {
		return input, refusedWrapping()
	}
	if _, err := b.meta(ctx); err != nil {
		return input, err // nothing could be stored
	}
	if err := ctx.Err(); err != nil {
		return input, &Error{Reason: ReasonDeadlineExceeded, Op: "unwrap", Err: err}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	value, err := b.unwrap(ctx, input.Wrapping)
	input.Value, input.Wrapping = value, secret.Value{}
	return input, err
}

// referred returns input with that version of what it refers to; 0 is the latest.
func (b *Broker) referred(ctx context.Context, input SecretInput, number int64) (SecretInput, error) {
	if b.references == nil {
		return input, newError(ReasonReferenceNotAllowed, "", "%s: the configuration lets clients refer to nothing: secrets.references lists no place", input.Reference)
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	read, err := b.references.Read(ctx, input.Reference, number)
	input.Value, input.ownerVersion = read.Value, read.Version
	return input, err
}
