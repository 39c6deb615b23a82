package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

const (
	// maxDepth is how deep paths lead (package profile).
	maxDepth = 16
	// maxEntries is how much of a list is kept: more scopes than that are too many bytes
	// of them.
	maxEntries = maxScopeBytes + 1
)

// pruner decodes as much of a JSON text as paths can lead to. All of it could take a
// hundred times the memory of the text, which a hostile server chooses.
type pruner struct {
	// names are of the members that paths lead through.
	names map[string]bool
}

// object decodes an object that is depth steps below the document. errRepeated if one of
// the names is there twice.
func (p *pruner) object(text []byte, depth int) (map[string]any, error) {
	decoder, members := json.NewDecoder(bytes.NewReader(text)), make(map[string]any)
	if _, err := decoder.Token(); err != nil { // the brace
		return nil, err
	}
	var raw json.RawMessage
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		if err := decoder.Decode(&raw); err != nil {
			return nil, err
		}
		name, _ := token.(string)
		if !p.names[name] {
			continue
		}
		if _, repeated := members[name]; repeated {
			return nil, errRepeated
		}
		if members[name], err = p.value(raw, depth+1); err != nil {
			return nil, err
		}
	}
	return members, ended(decoder)
}

func (p *pruner) list(text []byte, depth int) ([]any, error) {
	decoder, entries := json.NewDecoder(bytes.NewReader(text)), []any{}
	if _, err := decoder.Token(); err != nil { // the bracket
		return nil, err
	}
	var raw json.RawMessage
	for decoder.More() && len(entries) < maxEntries {
		if err := decoder.Decode(&raw); err != nil {
			return nil, err
		}
		entry, err := p.value(raw, depth+1)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil // the text is whole: it was a value of an object
}

// value decodes any value as [profile.Path] wants it: numbers as they are written. What
// lies deeper than paths lead is there, but empty.
func (p *pruner) value(text json.RawMessage, depth int) (any, error) {
	deep := depth > maxDepth
	switch text = bytes.TrimSpace(text); {
	case len(text) == 0:
		return nil, io.ErrUnexpectedEOF
	case text[0] == '{' && deep:
		return map[string]any{}, nil
	case text[0] == '{':
		return p.object(text, depth)
	case text[0] == '[' && deep:
		return []any{}, nil
	case text[0] == '[':
		return p.list(text, depth)
	case strings.IndexByte("-0123456789", text[0]) >= 0:
		return json.Number(text), nil
	}
	var value any
	err := json.Unmarshal(text, &value)
	return value, err
}

// ended closes an object, after which there must be nothing.
func ended(decoder *json.Decoder) error {
	if _, err := decoder.Token(); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more after the object")
	}
	return nil
}
