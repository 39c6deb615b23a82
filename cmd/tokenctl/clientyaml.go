package main

import (
	"bytes"
	"cmp"
	"slices"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// settingsYAML returns the settings of a client as files have them.
func settingsYAML(c *pb.Client) ([]byte, error) {
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(messageNode(c.ProtoReflect(), true)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// messageNode spells the fields of a message in the order of the contract.
func messageNode(m protoreflect.Message, top bool) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if m.Has(f) && !(top && outputOnly(f.Name())) {
			node.Content = append(node.Content, textNode(string(f.Name())), fieldNode(f, m.Get(f)))
		}
	}
	return node
}

func fieldNode(f protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch {
	case f.IsMap():
		node := &yaml.Node{Kind: yaml.MappingNode}
		var keys []string
		v.Map().Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
			keys = append(keys, key.String())
			return true
		})
		slices.SortFunc(keys, cmp.Compare[string])
		for _, key := range keys {
			value := v.Map().Get(protoreflect.ValueOfString(key).MapKey())
			node.Content = append(node.Content, textNode(key), valueNode(f.MapValue(), value))
		}
		return node
	case f.IsList():
		node := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.List().Len() {
			node.Content = append(node.Content, valueNode(f, v.List().Get(i)))
		}
		return node
	}
	return valueNode(f, v)
}

func valueNode(f protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch {
	case f.Message() != nil && !isDuration(f):
		return messageNode(v.Message(), false)
	case f.Kind() == protoreflect.StringKind, f.Enum() != nil, isDuration(f):
		return textNode(scalar(f, v))
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: scalar(f, v)}
}

// textNode is text, in quotes where it would else be read as something else.
func textNode(text string) *yaml.Node {
	node := &yaml.Node{}
	node.SetString(text)
	return node
}
