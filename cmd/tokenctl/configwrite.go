package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

// changeConfig writes keys of the configuration: current, and one context. What else
// stands in the file, comments among it, stays.
func changeConfig(path string, raw []byte, current, name string, context *contextConfig) error {
	var document yaml.Node
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return err
	}
	if len(document.Content) == 0 {
		document = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode}}}
	}
	root := document.Content[0]
	if err := setKey(root, "current", current); err != nil {
		return err
	}
	if context != nil {
		contexts := getKey(root, "contexts")
		if contexts == nil {
			contexts = &yaml.Node{Kind: yaml.MappingNode}
			root.Content = append(root.Content, keyNode("contexts"), contexts)
		}
		contexts.Style = 0
		if err := setKey(contexts, name, context); err != nil {
			return err
		}
	}
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return err
	}
	var written configFile
	if problems := append(strictyaml.Decode(b.Bytes(), &written), written.validate()...); len(problems) > 0 {
		// A file that is spelled so oddly that it does not survive being written again.
		return usage("%s cannot be changed by tokenctl, change it by hand: %s", path, texts(problems))
	}
	return replaceFile(path, b.Bytes())
}

func keyNode(name string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}
}

// getKey returns the value of a key of a mapping; nil if there is none.
func getKey(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// setKey sets or adds a key of a mapping.
func setKey(mapping *yaml.Node, name string, value any) error {
	node := getKey(mapping, name)
	if node == nil {
		node = &yaml.Node{}
		mapping.Content = append(mapping.Content, keyNode(name), node)
	}
	comment := node.LineComment
	if err := node.Encode(value); err != nil {
		return err
	}
	node.LineComment = comment
	return nil
}

// replaceFile writes a file that only its owner may read, whole or not at all.
func replaceFile(path string, content []byte) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link to a file that is kept elsewhere stays one
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	aside, err := os.CreateTemp(dir, ".config-*.yaml") // mode 0600
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	defer func() { _ = os.Remove(aside.Name()) }() // gone after the rename
	_, err = aside.Write(content)
	if closeErr := aside.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(aside.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
