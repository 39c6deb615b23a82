// Command promql reads PromQL queries, one JSON string a line, on standard input,
// and prints for each, as one line of JSON, what it selects: metrics and the labels
// that it matches or groups by. A query that is none ends it with status 1.
//
// It is a module of its own because the parser, Prometheus' own, brings half of
// Prometheus along.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// selection is what one selector of a query asks for.
type selection struct {
	Metric string `json:"metric"`
	// Matches is label → what it is compared with, as =, !=, =~ or !~ and the value.
	Matches map[string]string `json:"matches"`
}

// asked is what one query asks for.
type asked struct {
	Selections []selection `json:"selections"`
	// Grouped are the labels that aggregations and vector matches name.
	Grouped []string `json:"grouped"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	decoder, encoder, queries := json.NewDecoder(in), json.NewEncoder(out), parser.NewParser(parser.Options{})
	for {
		var query string
		if err := decoder.Decode(&query); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read queries: %w", err)
		}
		expression, err := queries.ParseExpr(query)
		if err != nil {
			return fmt.Errorf("%q: %w", query, err)
		}
		if err := encoder.Encode(walk(expression)); err != nil {
			return err
		}
	}
}

func walk(expression parser.Expr) asked {
	result := asked{Selections: []selection{}, Grouped: []string{}}
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			s := selection{Metric: n.Name, Matches: map[string]string{}}
			for _, m := range n.LabelMatchers {
				if m.Name != labels.MetricName {
					s.Matches[m.Name] = m.Type.String() + m.Value
				}
			}
			result.Selections = append(result.Selections, s)
		case *parser.AggregateExpr:
			result.Grouped = append(result.Grouped, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				result.Grouped = append(result.Grouped, n.VectorMatching.MatchingLabels...)
				result.Grouped = append(result.Grouped, n.VectorMatching.Include...)
			}
		}
		return nil
	})
	return result
}
