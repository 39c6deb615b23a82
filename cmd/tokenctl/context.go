package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

// contextCommand keeps the configuration file.
type contextCommand struct {
	List contextListCommand `cmd:"" help:"List the contexts; the current one has a star."`
	Use  contextUseCommand  `cmd:"" help:"Make a context the current one."`
	Show contextShowCommand `cmd:"" help:"Show a context with its paths resolved."`
	Set  contextSetCommand  `cmd:"" help:"Make a context, or change what is named of one."`
}

type contextListCommand struct{}

// Run implements the command.
func (c *contextListCommand) Run(s *session) error {
	config, _, _, err := s.loadConfig()
	if err != nil {
		return err
	}
	if s.Output != outputText {
		return s.write(s.stdout, config)
	}
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(config.Contexts)) {
		each := config.Contexts[name]
		rows = append(rows, []string{yes(name == config.Current, "*"), name, orElse(each.Address, each.UnixSocket), each.identity()})
	}
	table(s.stdout, []string{"CURRENT", "NAME", "BROKER", "IDENTITY"}, rows)
	return nil
}

// identity says in a word or two how the operator is known there.
func (c contextConfig) identity() string {
	switch {
	case c.CertificateFile != "" && c.TokenFile != "":
		return "certificate and token"
	case c.CertificateFile != "":
		return "certificate"
	case c.TokenFile != "":
		return "token"
	case c.UnixSocket != "":
		return "user of this machine"
	}
	return "none (insecure plaintext)"
}

type contextUseCommand struct {
	Name string `arg:"" help:"Name of the context." complete:"context"`
}

// Run implements the command.
func (c *contextUseCommand) Run(s *session) error {
	config, path, raw, err := s.loadConfig()
	if err != nil {
		return err
	}
	if _, known := config.Contexts[c.Name]; !known {
		return usage("there is no context %q in %s; `tokenctl context list` shows which there are", c.Name, path)
	}
	return changeConfig(path, raw, c.Name, "", nil)
}

type contextShowCommand struct {
	Name string `arg:"" optional:"" help:"Name of the context; the current one by default." complete:"context"`
}

// Run implements the command.
func (c *contextShowCommand) Run(s *session) error {
	s.Context = orElse(c.Name, s.Context)
	chosen, name, err := s.chosen()
	if err != nil {
		return err
	}
	if s.Output != outputText {
		return s.write(s.stdout, struct {
			Name string `json:"name"`
			contextConfig
		}{name, chosen})
	}
	var l listing
	l.addIf("name", name)
	l.addIf("address", chosen.Address)
	l.addIf("unix_socket", chosen.UnixSocket)
	l.addIf("ca_file", chosen.CAFile)
	l.addIf("server_name", chosen.ServerName)
	l.addIf("certificate_file", chosen.CertificateFile)
	l.addIf("key_file", chosen.KeyFile)
	l.addIf("token_file", chosen.TokenFile)
	l.addIf("insecure_plaintext", yes(chosen.InsecurePlaintext, "true"))
	l.write(s.stdout, "")
	return nil
}

// contextSetCommand has a flag for each key. Pointers tell what was not named.
type contextSetCommand struct {
	Name              string  `arg:"" help:"Name of the context: a-z, 0-9, _ and -." complete:"context"`
	Address           *string `help:"The broker's host:port." placeholder:"HOST:PORT"`
	UnixSocket        *string `help:"The broker's socket on this machine, in place of --address." placeholder:"FILE" complete:"file"`
	CaFile            *string `help:"Authorities of the broker's certificate (PEM); by default the system's." placeholder:"FILE" complete:"file"`
	ServerName        *string `help:"Name in the broker's certificate; by default the address's host." placeholder:"NAME"`
	CertificateFile   *string `help:"Your certificate (PEM)." placeholder:"FILE" complete:"file"`
	KeyFile           *string `help:"Its key (PEM), which nobody else may read." placeholder:"FILE" complete:"file"`
	TokenFile         *string `help:"A JWT that says who you are; read again when it changes." placeholder:"FILE" complete:"file"`
	InsecurePlaintext *bool   `negatable:"" help:"Connect without TLS, to this machine only."`
	Use               bool    `help:"Make it the current context; the first one always is."`
}

// Help implements kong.HelpProvider.
func (c *contextSetCommand) Help() string {
	return `Files are written down with their whole path. An empty value takes a key away.

Examples:

    tokenctl context set prod --address broker.example.org:7443 --ca-file ca.pem --certificate-file me.pem --key-file me-key.pem
    tokenctl context set job --address broker.example.org:7443 --token-file /var/run/secrets/tokens/broker
    tokenctl context set prod --server-name broker.internal
    tokenctl context set prod --server-name=`
}

// Run implements the command.
func (c *contextSetCommand) Run(s *session) error {
	config, path, raw, err := s.loadConfig()
	if err != nil {
		return err
	}
	changed := config.Contexts[c.Name]
	if err := c.apply(&changed); err != nil {
		return err
	}
	current := config.Current
	if c.Use || len(config.Contexts) == 0 {
		current = c.Name
	}
	if problems := (configFile{Contexts: map[string]contextConfig{c.Name: changed}}).validate(); len(problems) > 0 {
		return usage("%s", texts(problems))
	}
	if err := changeConfig(path, raw, current, c.Name, &changed); err != nil {
		return err
	}
	if s.Output == outputText {
		fmt.Fprintf(s.stdout, "%s is in %s%s\n", c.Name, path, yes(current == c.Name, " and current"))
	}
	c.warnOfMissing(s.stderr, changed)
	return nil
}

// texts joins problems of what is not in a file yet.
func texts(problems []strictyaml.Problem) string {
	text := ""
	for i, p := range problems {
		text += yes(i > 0, "\n") + p.String()
	}
	return text
}

func (c *contextSetCommand) apply(to *contextConfig) error {
	for _, value := range []struct {
		from *string
		to   *string
	}{{c.Address, &to.Address}, {c.ServerName, &to.ServerName}} {
		if value.from != nil {
			*value.to = *value.from
		}
	}
	if c.InsecurePlaintext != nil {
		to.InsecurePlaintext = *c.InsecurePlaintext
	}
	given := []*string{c.UnixSocket, c.CaFile, c.CertificateFile, c.KeyFile, c.TokenFile} // as in paths
	for i, path := range to.paths() {
		if given[i] == nil {
			continue
		}
		*path = *given[i]
		if *path == "" {
			continue
		}
		whole, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = whole
	}
	return nil
}

// warnOfMissing names files that are not there: a certificate may come later.
func (c *contextSetCommand) warnOfMissing(w io.Writer, context contextConfig) {
	for _, path := range context.paths() {
		if *path == "" {
			continue
		}
		if _, err := os.Stat(*path); err != nil {
			fmt.Fprintf(w, "note: %v\n", err)
		}
	}
}
