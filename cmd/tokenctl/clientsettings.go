package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// outputOnly are the fields of a client that the broker sets. A test compares them with
// the contract.
func outputOnly(name protoreflect.Name) bool {
	return slices.Contains([]protoreflect.Name{
		"uid", "secret_versions", "state", "etag", "create_time", "update_time", "delete_time", "min_secret_version",
	}, name)
}

// setting is one leaf of a client's settings.
type setting struct {
	path, value string
}

// flatten returns the settings of a client but its name, in the order of the contract:
// "token_policy.min_validity" is "30s".
func flatten(c *pb.Client) []setting {
	var all []setting
	flattenMessage(c.ProtoReflect(), "", &all)
	return all
}

func flattenMessage(m protoreflect.Message, prefix string, all *[]setting) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) || prefix == "" && (outputOnly(f.Name()) || f.Name() == "name") {
			continue
		}
		path := prefix + string(f.Name())
		switch {
		case f.IsMap():
			var entries []setting
			m.Get(f).Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				entries = append(entries, setting{path + "." + key.String(), scalar(f.MapValue(), value)})
				return true
			})
			slices.SortFunc(entries, func(a, b setting) int { return cmp.Compare(a.path, b.path) })
			*all = append(*all, entries...)
		case f.IsList() && f.Message() != nil:
			for j := range m.Get(f).List().Len() {
				flattenMessage(m.Get(f).List().Get(j).Message(), fmt.Sprintf("%s[%d].", path, j), all)
			}
		case f.IsList():
			var values []string
			for j := range m.Get(f).List().Len() {
				values = append(values, scalar(f, m.Get(f).List().Get(j)))
			}
			*all = append(*all, setting{path, strings.Join(values, " ")})
		case f.Message() != nil && !isDuration(f):
			flattenMessage(m.Get(f).Message(), path+".", all)
		default:
			*all = append(*all, setting{path, scalar(f, m.Get(f))})
		}
	}
}

func isDuration(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && f.Message().FullName() == (&durationpb.Duration{}).ProtoReflect().Descriptor().FullName()
}

// scalar spells a value as files do.
func scalar(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case f.Enum() != nil:
		return enumWord(f.Enum(), v.Enum())
	case isDuration(f):
		if d, ok := v.Message().Interface().(*durationpb.Duration); ok {
			return shortDuration(d.AsDuration())
		}
	}
	return v.String()
}

// shortDuration is "1h" for "1h0m0s".
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// enumPrefix is what all values of an enum begin with.
func enumPrefix(e protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(e.Values().ByNumber(0).Name()), "UNSPECIFIED")
}

// enumWord is "client_secret_post" for AUTHENTICATION_METHOD_CLIENT_SECRET_POST.
func enumWord(e protoreflect.EnumDescriptor, number protoreflect.EnumNumber) string {
	value := e.Values().ByNumber(number)
	if value == nil {
		return fmt.Sprint(number)
	}
	return strings.ToLower(strings.TrimPrefix(string(value.Name()), enumPrefix(e)))
}

// change is what happens to one setting; "" is that there is none.
type change struct {
	Field  string `json:"field"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// compare returns how the settings of two clients differ; nil has none.
func compare(before, after *pb.Client) []change {
	was := map[string]string{}
	for _, f := range flatten(before) {
		was[f.path] = f.value
	}
	var changes []change
	for _, f := range flatten(after) {
		if old, ok := was[f.path]; !ok || old != f.value {
			changes = append(changes, change{f.path, old, f.value})
		}
		delete(was, f.path)
	}
	for _, f := range flatten(before) {
		if value, gone := was[f.path]; gone {
			changes = append(changes, change{f.path, value, ""})
		}
	}
	return changes
}

// Colours of a difference at a terminal.
const (
	green  = "\x1b[32m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

// writeChanges prints a difference, a line for each field.
func writeChanges(w io.Writer, changes []change, colours bool) {
	line := func(colour, text string) {
		text = clean(text)
		if colours {
			text = colour + text + plain
		}
		fmt.Fprintln(w, text)
	}
	for _, c := range changes {
		switch {
		case c.Before == "":
			line(green, "  + "+c.Field+": "+c.After)
		case c.After == "":
			line(red, "  - "+c.Field+": "+c.Before)
		default:
			line(yellow, "  ~ "+c.Field+": "+c.Before+" → "+c.After)
		}
	}
}
