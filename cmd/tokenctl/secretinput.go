package main

import (
	"bytes"
	"context"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// sourceFlags say where a new secret comes from. None of them takes the secret itself.
type sourceFlags struct {
	File                string `help:"Read the new client secret from a file; - is standard input." placeholder:"FILE" complete:"file" xor:"source" group:"The new secret:"`
	PrivateKeyFile      string `help:"Read a new private key (PEM or JWK), for private_key_jwt; - is standard input." placeholder:"FILE" complete:"file" xor:"source" group:"The new secret:"`
	WrappingTokenFile   string `help:"Read a Vault response-wrapping token, which the broker unwraps; - is standard input." placeholder:"FILE" complete:"file" xor:"source" group:"The new secret:"`
	PromptWrappingToken bool   `help:"Ask for a wrapping token at the terminal." xor:"source" group:"The new secret:"`
	Reference           string `help:"Follow a secret that is owned elsewhere in the same Vault; write MOUNT//PATH#FIELD if the mount has a slash." placeholder:"MOUNT/PATH#FIELD" xor:"source" group:"The new secret:"`

	TrimNewline                 bool   `help:"Take one line end off the client secret; without this a secret that ends in white space is refused." xor:"end" group:"The new secret:"`
	KeepTrailingSpace           bool   `help:"Send a client secret that ends in white space as it is." xor:"end" group:"The new secret:"`
	ExpireTime                  string `help:"When the authorization server will stop accepting it: 2027-01-31, or 2027-01-31T12:00:00Z." placeholder:"TIME" group:"The new secret:"`
	RegistrationAccessTokenFile string `help:"Read the registration access token (RFC 7592) that came with it; for the rotator rfc7592." placeholder:"FILE" complete:"file" group:"The new secret:"`
}

// given reports whether a flag names a source.
func (f *sourceFlags) given() bool {
	return f.File != "" || f.PrivateKeyFile != "" || f.WrappingTokenFile != "" || f.PromptWrappingToken || f.Reference != ""
}

// detailed reports whether a flag says something about a secret.
func (f *sourceFlags) detailed() bool {
	return f.TrimNewline || f.KeepTrailingSpace || f.ExpireTime != "" || f.RegistrationAccessTokenFile != ""
}

// read gets the new secret from where the flags say, or from the terminal.
func (f *sourceFlags) read(ctx context.Context, s *session) (*pb.SecretInput, error) {
	if f.RegistrationAccessTokenFile == standardInput && (f.File == standardInput || f.PrivateKeyFile == standardInput || f.WrappingTokenFile == standardInput) {
		return nil, usage("standard input can be read once only")
	}
	input := &pb.SecretInput{KeepTrailingSpace: f.KeepTrailingSpace}
	if f.ExpireTime != "" {
		at, err := parseTime(f.ExpireTime)
		if err != nil {
			return nil, err
		}
		input.ExpireTime = timestamppb.New(at)
	}
	if err := f.readValue(ctx, s, input); err != nil {
		return nil, err
	}
	if f.RegistrationAccessTokenFile != "" {
		token, err := s.readToken(ctx, f.RegistrationAccessTokenFile)
		if err != nil {
			return nil, err
		}
		input.RegistrationAccessToken = token
	}
	return input, nil
}

func (f *sourceFlags) readValue(ctx context.Context, s *session, input *pb.SecretInput) error {
	switch {
	case f.Reference != "":
		reference, err := parseReference(f.Reference)
		input.Value = &pb.SecretInput_Reference{Reference: reference}
		return err
	case f.PrivateKeyFile != "":
		key, err := s.readSecretFile(ctx, f.PrivateKeyFile)
		if err != nil {
			return err
		}
		input.Value = &pb.SecretInput_PrivateKey{PrivateKey: key.RevealString()}
		return checkText(key)
	case f.WrappingTokenFile != "":
		token, err := s.readToken(ctx, f.WrappingTokenFile)
		input.Value = &pb.SecretInput_WrappingToken{WrappingToken: token}
		return err
	case f.PromptWrappingToken:
		// Once: a wrapping token is pasted, and a wrong one is refused.
		token, err := s.ask(ctx, "Wrapping token")
		input.Value = &pb.SecretInput_WrappingToken{WrappingToken: strings.TrimSpace(token.RevealString())}
		if err != nil {
			return err
		}
		return checkText(token)
	}
	value, err := f.clientSecret(ctx, s)
	input.Value = &pb.SecretInput_ClientSecret{ClientSecret: value.RevealString()}
	return err
}

// clientSecret reads a client secret and looks at how it ends.
func (f *sourceFlags) clientSecret(ctx context.Context, s *session) (secret.Value, error) {
	var value secret.Value
	var err error
	if f.File != "" {
		value, err = s.readSecretFile(ctx, f.File)
	} else {
		value, err = s.askTwice(ctx, "New client secret")
	}
	if err != nil {
		return secret.Value{}, err
	}
	if f.TrimNewline {
		text := bytes.TrimSuffix(value.Reveal(), []byte("\n"))
		value = secret.New(bytes.TrimSuffix(text, []byte("\r")))
	}
	if err := checkText(value); err != nil {
		return secret.Value{}, err
	}
	if last, _ := utf8.DecodeLastRune(value.Reveal()); unicode.IsSpace(last) && !f.KeepTrailingSpace {
		return secret.Value{}, usage("the secret ends in white space, which an editor or echo has mostly added; nothing was sent: " +
			"--trim-newline takes one line end off, --keep-trailing-space sends it as it is")
	}
	return value, nil
}

// readToken reads a file that holds one token. No token has white space in it, so what
// is around it is not part of it.
func (s *session) readToken(ctx context.Context, path string) (string, error) {
	value, err := s.readSecretFile(ctx, path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(value.RevealString())
	if strings.ContainsFunc(token, unicode.IsSpace) {
		return "", usage("%s holds more than one word, which is no token", shownPath(path))
	}
	return token, checkText(secret.NewString(token))
}

// checkText refuses what cannot be a secret or does not fit into a request.
func checkText(value secret.Value) error {
	if len(bytes.TrimSpace(value.Reveal())) == 0 {
		return usage("it is empty; nothing was sent")
	}
	if !utf8.Valid(value.Reveal()) {
		return usage("it is not text in UTF-8; nothing was sent")
	}
	return nil
}

// parseReference reads MOUNT/PATH#FIELD, or MOUNT//PATH#FIELD.
func parseReference(text string) (*pb.SecretReference, error) {
	place, field, hasField := strings.Cut(text, "#")
	mount, path, hasPath := strings.Cut(place, "//")
	if !hasPath {
		mount, path, hasPath = strings.Cut(place, "/")
	}
	if !hasField || !hasPath || mount == "" || path == "" || field == "" {
		return nil, usage("--reference must be MOUNT/PATH#FIELD, such as secret/crm/oauth#client_secret, or MOUNT//PATH#FIELD if the mount has a slash")
	}
	return &pb.SecretReference{Mount: mount, Path: path, Field: field}, nil
}

// parseTime reads a time by RFC 3339, or a day, which means its beginning in UTC.
func parseTime(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usage("--expire-time must be a day such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z")
}
