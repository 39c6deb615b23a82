package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Values of --output.
const (
	outputText = "text"
	outputJSON = "json"
	outputYAML = "yaml"
	// outputMarkdown is of some commands only.
	outputMarkdown = "markdown"
)

// show prints an answer: as text makes it for people, or as the protocol spells it.
func (s *session) show(answer proto.Message, text func(w io.Writer)) error {
	if s.Output == outputText {
		var b bytes.Buffer
		text(&b)
		_, err := s.stdout.Write(b.Bytes())
		return err
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(answer)
	if err != nil {
		return err
	}
	return s.write(s.stdout, json.RawMessage(raw))
}

// showLine prints one of several answers: a line of JSON or a document of YAML.
func (s *session) showLine(answer proto.Message) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(answer)
	if err != nil {
		return err
	}
	if s.Output == outputYAML {
		if _, err := io.WriteString(s.stdout, "---\n"); err != nil {
			return err
		}
		return s.write(s.stdout, json.RawMessage(raw))
	}
	var line bytes.Buffer
	if err := json.Compact(&line, raw); err != nil { // protojson's blanks are not stable
		return err
	}
	line.WriteByte('\n')
	_, err = s.stdout.Write(line.Bytes())
	return err
}

// write prints a value as JSON or YAML.
func (s *session) write(w io.Writer, value any) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	if s.Output == outputYAML {
		// JSON is YAML; read as nodes it keeps the order of its keys.
		var node yaml.Node
		if err := yaml.Unmarshal(raw, &node); err != nil {
			return err
		}
		blockStyle(&node)
		var b bytes.Buffer
		encoder := yaml.NewEncoder(&b)
		encoder.SetIndent(2)
		if err := encoder.Encode(&node); err != nil {
			return err
		}
		raw = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	}
	_, err = w.Write(append(raw, '\n'))
	return err
}

func blockStyle(node *yaml.Node) {
	node.Style = 0
	if len(node.Content) == 0 && node.Kind != yaml.ScalarNode {
		node.Style = yaml.FlowStyle // {} and []
	}
	for _, c := range node.Content {
		blockStyle(c)
	}
}

// listing is text of names and values.
type listing struct {
	rows [][2]string
}

// addIf adds a row for each value that is not empty; further ones have no name.
func (l *listing) addIf(name string, values ...string) {
	for _, value := range values {
		if value != "" {
			l.rows = append(l.rows, [2]string{name, value})
			name = ""
		}
	}
}

// write aligns the rows behind an indent.
func (l *listing) write(w io.Writer, indent string) {
	widest := 0
	for _, row := range l.rows {
		widest = max(widest, len(row[0]))
	}
	for _, row := range l.rows {
		fmt.Fprintf(w, "%s%-*s  %s\n", indent, widest, row[0], clean(row[1]))
	}
}

// table prints rows under a heading, aligned.
func table(w io.Writer, heading []string, rows [][]string) {
	aligned := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cells[i] = clean(cell); cell == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(aligned, strings.Join(cells, "\t"))
	}
	_ = aligned.Flush() // to memory
}

// clean replaces what a terminal might obey: text of others must not move the cursor,
// nor turn the direction of what follows.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// when spells a time for people; "" if there is none.
func when(now time.Time, stamp *timestamppb.Timestamp) string {
	if stamp == nil {
		return ""
	}
	t := stamp.AsTime()
	away := t.Sub(now)
	if away < 0 {
		return fmt.Sprintf("%s (%s ago)", t.Format(secondsUTC), about(-away))
	}
	return fmt.Sprintf("%s (in %s)", t.Format(secondsUTC), about(away))
}

const secondsUTC = "2006-01-02 15:04:05 UTC"

// about spells a duration by its largest unit.
func about(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// yes is for rows that are there only if something holds.
func yes(holds bool, text string) string {
	if holds {
		return text
	}
	return ""
}
