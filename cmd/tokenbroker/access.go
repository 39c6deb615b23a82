package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/tokenbroker/tokenbroker/server/access"
)

// accessCommand asks an access table without a server.
type accessCommand struct {
	Explain explainCommand `cmd:"" help:"Say which row of an access table decides, or what the nearest one lacks."`
	Test    testCommand    `cmd:"" help:"Try what a team expects of an access table."`
}

// tableFlag names the table.
type tableFlag struct {
	File string `help:"Access table (YAML); docs/access.md describes it." placeholder:"FILE" required:"" env:"TOKENBROKER_ACCESS_FILE" type:"path"`
}

func loadTable(path string) (*access.Table, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read access table: %w", err)
	}
	return access.Parse(path, raw)
}

type explainCommand struct {
	tableFlag
	Caller     string            `help:"Name or identity of the caller." placeholder:"CALLER" required:""`
	Permission string            `help:"Permission, such as token.get." placeholder:"PERMISSION" required:""`
	Client     string            `help:"Id of the client; none for what is about no client." placeholder:"ID"`
	Subject    string            `help:"Subject that the call names; none if it names none." placeholder:"SUBJECT"`
	Label      map[string]string `help:"A label that the client has; may be repeated." placeholder:"KEY=VALUE"`
}

// Run prints the decision and the row behind it; a denial is no error.
func (c *explainCommand) Run(p *process) error {
	table, err := loadTable(c.File)
	if err != nil {
		return usageError{err}
	}
	permission, ok := access.ParsePermission(c.Permission)
	if !ok {
		var names []string
		for _, known := range access.Permissions() {
			names = append(names, known.String())
		}
		return usageError{fmt.Errorf("--permission %q is unknown; known are %s", c.Permission, strings.Join(names, ", "))}
	}
	id := strings.TrimPrefix(c.Client, "clients/")
	_, err = fmt.Fprintln(p.stdout, table.Explain(c.Caller, permission, id, c.Label).For(c.Subject))
	return err
}

type testCommand struct {
	tableFlag
	Expectations string `arg:"" help:"File of expectations (YAML)." placeholder:"FILE" type:"path"`
}

// errUnmet says that an access table does not do what is expected of it.
var errUnmet = errors.New("the access table does not meet all expectations")

// Run tries each expectation; status 1 if one is not met.
func (c *testCommand) Run(p *process) error {
	table, err := loadTable(c.File)
	if err != nil {
		return usageError{err}
	}
	raw, err := os.ReadFile(c.Expectations)
	if err != nil {
		return usageError{err}
	}
	expected, err := access.ParseExpectations(c.Expectations, raw)
	if err != nil {
		return usageError{err}
	}
	failures := table.Test(expected)
	for _, f := range failures {
		fmt.Fprintf(p.stdout, "%s:%d: %s\n", c.Expectations, f.Line, f.Text)
	}
	fmt.Fprintf(p.stdout, "%d of %d expectations met\n", len(expected.Expectations)-len(failures), len(expected.Expectations))
	if len(failures) > 0 {
		return errUnmet
	}
	return nil
}
