package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// mostClientFileBytes is more than all settings of a client can have.
const mostClientFileBytes = 1 << 20

// clientFile is a client as a file describes it.
type clientFile struct {
	path   string
	client *pb.Client
	secret *pb.SecretInput // nil if it says nothing of one
}

// clientReader reads one description of a client. It is strict: what it does not know is
// a problem, with its line, and it goes on to find all of them.
type clientReader struct {
	path string
	// plainSecrets takes secrets themselves, and not only where they are.
	plainSecrets bool
	// line is that of the first line of what is read.
	line     int
	problems []string
	scrubber *scrubber
}

func (r *clientReader) problem(node *yaml.Node, format string, args ...any) {
	line := r.line
	if node != nil && node.Line > 0 {
		line += node.Line - 1
	}
	r.problems = append(r.problems, fmt.Sprintf("%s:%d: %s", shownPath(r.path), line, fmt.Sprintf(format, args...)))
}

// err is all that is wrong, a line each.
func (r *clientReader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return usage("%s", strings.Join(r.problems, "\n"))
}

// readClientFile reads a file with one client, or standard input.
func (s *session) readClientFile(ctx context.Context, path string) (*clientFile, error) {
	content, err := s.readText(ctx, path)
	if err != nil {
		return nil, err
	}
	r := &clientReader{path: path, line: 1, scrubber: &s.scrubber}
	file := r.read(content)
	return file, r.err()
}

// readText reads a file that is no secret, or standard input.
func (s *session) readText(ctx context.Context, path string) ([]byte, error) {
	file := s.stdin
	if path != standardInput {
		opened, err := os.Open(path)
		if err != nil {
			return nil, usage("%w", err)
		}
		defer func() { _ = opened.Close() }()
		file = opened
	}
	content, err := await(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(file, mostClientFileBytes+1)) })
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, usage("read %s: %w", shownPath(path), err)
	case len(content) > mostClientFileBytes:
		return nil, usage("%s has more than %d bytes, which is no client", shownPath(path), mostClientFileBytes)
	}
	return content, nil
}

// read reads one YAML document, of which JSON is a part.
func (r *clientReader) read(content []byte) *clientFile {
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	var document yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			r.problem(nil, "is empty")
			return nil
		}
		r.syntax(err)
		return nil
	}
	if !errors.Is(decoder.Decode(&yaml.Node{}), io.EOF) {
		r.problem(nil, "has a second document; a file has one client")
	}
	root := document.Content[0]
	file := &clientFile{path: r.path, client: &pb.Client{}}
	if !r.isMapping(root, "a client") {
		return nil
	}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if key.Value == "secret" {
			file.secret = r.readSecret(value)
			continue
		}
		r.readField(file.client, key, value)
	}
	if name := file.client.GetName(); name != "" && !strings.HasPrefix(name, clientPrefix) {
		file.client.Name = clientPrefix + name
	}
	if file.client.GetName() == "" {
		r.problem(root, "name is required: that of the client, such as acme-crm")
	}
	return file
}

// syntaxLine is how the YAML library says where.
var syntaxLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntax says where YAML is malformed, without what stands there: it may be a secret.
func (r *clientReader) syntax(err error) {
	text := "is no YAML"
	node := &yaml.Node{}
	if found := syntaxLine.FindStringSubmatch(err.Error()); found != nil {
		_, _ = fmt.Sscan(found[1], &node.Line)
		if cause, _, _ := strings.Cut(found[2], ` "`); cause != "" && !strings.ContainsAny(cause, "'`") {
			text += ": " + cause
		}
	}
	r.problem(node, "%s", text)
}

// isMapping reports whether node has keys, each once and none of them by alias.
func (r *clientReader) isMapping(node *yaml.Node, what string) bool {
	if node.Kind != yaml.MappingNode {
		r.problem(node, "%s must be keys with values", what)
		return false
	}
	seen, sound := map[string]bool{}, true
	for i := 0; i < len(node.Content); i += 2 {
		key := node.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode || key.Value == "<<":
			r.problem(key, "must be a plain key")
			sound = false
		case seen[key.Value]:
			r.problem(key, "%s is there twice", shownKey(key))
			sound = false
		}
		seen[key.Value] = true
	}
	return sound
}

// shownKey is a key of the file, bounded: it may be anything.
func shownKey(key *yaml.Node) string { return fmt.Sprintf("%.64q", key.Value) }

// readField sets one field of the client.
func (r *clientReader) readField(c *pb.Client, key, value *yaml.Node) {
	field := c.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(key.Value))
	switch {
	case field == nil:
		r.problem(key, "%s is no field of a client", shownKey(key))
		return
	case outputOnly(field.Name()):
		return // what `client get` shows besides may stay in the file
	}
	before := len(r.problems)
	converted := r.convert(field, value, true)
	if len(r.problems) > before {
		return
	}
	raw, err := json.Marshal(map[string]any{key.Value: converted})
	if err == nil {
		part := &pb.Client{}
		if err = protojson.Unmarshal(raw, part); err == nil {
			part.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
				c.ProtoReflect().Set(f, v)
				return true
			})
			return
		}
	}
	r.problem(value, "%s has a value of another kind", shownKey(key))
}

// convert turns a node into what protojson takes, with the words and durations of people.
func (r *clientReader) convert(field protoreflect.FieldDescriptor, node *yaml.Node, whole bool) any {
	switch {
	case node.Kind == yaml.AliasNode:
		r.problem(node, "aliases are not taken")
	case node.Tag == "!!null":
		r.problem(node, "%s has no value; leave it out", field.Name())
	case whole && field.IsMap():
		if !r.isMapping(node, string(field.Name())) {
			return nil
		}
		entries := map[string]any{}
		for i := 0; i < len(node.Content); i += 2 {
			entries[node.Content[i].Value] = r.convert(field.MapValue(), node.Content[i+1], false)
		}
		return entries
	case whole && field.IsList():
		if node.Kind != yaml.SequenceNode {
			r.problem(node, "%s must be a list", field.Name())
			return nil
		}
		var items []any
		for _, each := range node.Content {
			items = append(items, r.convert(field, each, false))
		}
		return items
	case isDuration(field):
		d, err := time.ParseDuration(node.Value)
		if err != nil {
			r.problem(node, "%s must be a duration, such as 90s or 1h30m", field.Name())
			return nil
		}
		return fmt.Sprintf("%d.%09ds", d/time.Second, (d % time.Second).Abs())
	case field.Message() != nil:
		return r.convertMessage(field, node)
	case node.Kind != yaml.ScalarNode:
		r.problem(node, "%s must be one value", field.Name())
	case field.Enum() != nil:
		return r.convertEnum(field, node)
	default:
		return scalarOf(field, node)
	}
	return nil
}

func (r *clientReader) convertMessage(field protoreflect.FieldDescriptor, node *yaml.Node) any {
	if !r.isMapping(node, string(field.Name())) {
		return nil
	}
	members := map[string]any{}
	for i := 0; i < len(node.Content); i += 2 {
		key := node.Content[i]
		member := field.Message().Fields().ByName(protoreflect.Name(key.Value))
		if member == nil {
			r.problem(key, "%s is no field of %s", shownKey(key), field.Name())
			continue
		}
		members[key.Value] = r.convert(member, node.Content[i+1], true)
	}
	return members
}

func (r *clientReader) convertEnum(field protoreflect.FieldDescriptor, node *yaml.Node) any {
	values := field.Enum().Values()
	var known []string
	for i := range values.Len() {
		value := values.Get(i)
		if node.Value == string(value.Name()) || node.Value == enumWord(field.Enum(), value.Number()) {
			return string(value.Name())
		}
		if value.Number() != 0 {
			known = append(known, enumWord(field.Enum(), value.Number()))
		}
	}
	r.problem(node, "%s is none of %s", field.Name(), strings.Join(known, ", "))
	return nil
}

// scalarOf keeps text text: a client_id of digits is no number.
func scalarOf(field protoreflect.FieldDescriptor, node *yaml.Node) any {
	if field.Kind() == protoreflect.StringKind {
		return node.Value
	}
	var value any
	if node.Decode(&value) != nil {
		return node.Value
	}
	return value
}

// readSecret reads where a client's secret is.
func (r *clientReader) readSecret(node *yaml.Node) *pb.SecretInput {
	if !r.isMapping(node, "secret") {
		return nil
	}
	input := &pb.SecretInput{}
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if value.Kind != yaml.ScalarNode {
			r.problem(value, "secret.%.64s must be one value", key.Value)
			continue
		}
		r.readSecretField(input, key, value)
	}
	if input.GetValue() == nil && len(r.problems) == 0 {
		r.problem(node, "secret must say where it is: reference, wrapping_token or wrapping_token_file")
	}
	return input
}

func (r *clientReader) readSecretField(input *pb.SecretInput, key, value *yaml.Node) {
	taken := input.GetValue() != nil
	switch key.Value {
	case "reference":
		reference, err := parseReference(value.Value)
		if err != nil {
			r.problem(value, "secret.reference must be MOUNT/PATH#FIELD, or MOUNT//PATH#FIELD if the mount has a slash")
		}
		input.Value = &pb.SecretInput_Reference{Reference: reference}
	case "wrapping_token":
		r.scrubber.note(secret.NewString(value.Value))
		input.Value = &pb.SecretInput_WrappingToken{WrappingToken: value.Value}
	case "wrapping_token_file":
		input.Value = &pb.SecretInput_WrappingToken{WrappingToken: r.wrappingToken(value)}
	case "client_secret", "private_key":
		r.scrubber.note(secret.NewString(value.Value))
		if !r.plainSecrets {
			r.problem(key, "secret.%s would be a secret in a file that is kept: name where it is by reference, wrap it, or stage it with `tokenctl secret stage`; if it was committed, change it", key.Value)
			return
		}
		if key.Value == "private_key" {
			input.Value = &pb.SecretInput_PrivateKey{PrivateKey: value.Value}
		} else {
			input.Value = &pb.SecretInput_ClientSecret{ClientSecret: value.Value}
		}
	case "expire_time":
		at, err := parseTime(value.Value)
		if err != nil {
			r.problem(value, "secret.expire_time must be a day such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z")
		}
		input.ExpireTime, taken = timestamppb.New(at), false
	default:
		r.problem(key, "secret.%.64s is not known", key.Value)
		return
	}
	if taken {
		r.problem(key, "secret says twice where it is")
	}
}

// readStart reads at most so many bytes of a file.
func readStart(path string, most int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, most))
}

// wrappingToken reads a file whose path is relative to the one that names it.
func (r *clientReader) wrappingToken(node *yaml.Node) string {
	path := node.Value
	if !filepath.IsAbs(path) && r.path != standardInput {
		path = filepath.Join(filepath.Dir(r.path), path)
	}
	content, err := readStart(path, mostSecretBytes+1)
	token := strings.TrimSpace(string(content))
	r.scrubber.note(secret.NewString(token))
	switch {
	case err != nil:
		r.problem(node, "%v", err)
	case token == "" || len(token) > mostSecretBytes || strings.ContainsAny(token, " \t\r\n"):
		r.problem(node, "%s holds no token", path)
	}
	return token
}
