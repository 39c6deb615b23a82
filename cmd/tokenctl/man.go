package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
)

// manPage is the name of the file, and what man finds it by.
const manPage = "tokenctl.1"

// manCommand writes the manual page, which is made of the commands' own help.
type manCommand struct {
	Dir string `arg:"" optional:"" help:"Folder to write tokenctl.1 into, such as ~/.local/share/man/man1; by default the page is printed." complete:"file"`
}

// Help implements kong.HelpProvider.
func (c *manCommand) Help() string {
	return `Examples:

    tokenctl man ~/.local/share/man/man1
    tokenctl man | man -l -`
}

// Run implements the command.
func (c *manCommand) Run(_ context.Context, s *session) error {
	var cli commands
	parser, err := newParser(&cli, io.Discard, io.Discard, func(int) {})
	if err != nil {
		return err
	}
	page := manual(parser.Model)
	if c.Dir == "" {
		_, err := io.WriteString(s.stdout, page)
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return usage("%w", err)
	}
	path := filepath.Join(c.Dir, manPage)
	if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
		return usage("%w", err)
	}
	_, err = fmt.Fprintln(s.stdout, path)
	return err
}

// roff builds a page of the man macros: man(7).
type roff struct{ strings.Builder }

// macro writes a line of a macro with arguments.
func (r *roff) macro(name string, args ...string) {
	r.WriteString("." + name)
	for _, arg := range args {
		r.WriteString(` "` + strings.ReplaceAll(escaped(arg), `"`, `\(dq`) + `"`)
	}
	r.WriteByte('\n')
}

// text writes words that are filled into lines.
func (r *roff) text(text string) {
	for line := range strings.Lines(text) {
		r.WriteString(guarded(escaped(strings.TrimSpace(line))) + "\n")
	}
}

// escaped keeps text from being taken for requests of roff: a backslash, and the minus
// that is to be copied as one.
func escaped(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\&...`, "→", `\(->`).Replace(text)
}

// guarded keeps a line from being taken for a request by its first character.
func guarded(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// manual returns the page.
func manual(app *kong.Application) string {
	r := &roff{}
	r.macro("TH", "tokenctl", "1", "", "tokenctl "+version, "tokenbroker")
	r.macro("SH", "NAME")
	r.WriteString("tokenctl \\- the operator's tool of tokenbroker\n")
	r.macro("SH", "SYNOPSIS")
	r.WriteString(".B tokenctl\n.I command\n.RI [ arguments ]\n.RI [ flags ]\n")
	r.macro("SH", "DESCRIPTION")
	r.prose(appHelp)
	r.macro("SH", "FLAGS OF ALL COMMANDS")
	for _, flag := range app.Flags {
		r.flag(flag)
	}
	r.macro("SH", "COMMANDS")
	for _, leaf := range app.Leaves(true) {
		r.command(leaf)
	}
	r.macro("SH", "EXIT STATUS")
	for _, cause := range exitStatuses() {
		r.macro("TP")
		r.WriteString(fmt.Sprintf(".B %d\n", cause.status))
		r.text(strings.ReplaceAll(cause.meaning, "`", ""))
	}
	r.macro("SH", "ENVIRONMENT")
	for _, each := range [][2]string{
		{configVariable, "The configuration file; --config wins."},
		{contextVariable, "The context; --context wins."},
		{"NO_COLOR", "If it is not empty, nothing is coloured."},
	} {
		r.macro("TP")
		r.macro("B", each[0])
		r.text(each[1])
	}
	r.macro("SH", "FILES")
	r.macro("TP")
	r.macro("I", "~/.config/tokenctl/config.yaml")
	r.text("Which brokers there are, and who you are there; $XDG_CONFIG_HOME takes the place of ~/.config. It holds names of files, never a secret.")
	return r.String()
}

// command writes one command: how it is called, what it does, its flags.
func (r *roff) command(leaf *kong.Node) {
	r.macro("SS", strings.TrimSuffix(leaf.Path(), " [flags]"))
	r.text(leaf.Help)
	for _, arg := range leaf.Positional {
		r.macro("TP")
		r.macro("I", arg.Summary())
		r.text(arg.Help)
	}
	for _, flag := range leaf.Flags {
		r.flag(flag)
	}
	if leaf.Detail != "" {
		r.macro("PP")
		r.prose(leaf.Detail)
	}
}

// doubled is how help texts write a dollar sign for kong.
var doubled = regexp.MustCompile(`\$\$`)

func (r *roff) flag(flag *kong.Flag) {
	if flag.Hidden {
		return
	}
	name := "--" + flag.Name
	if flag.Short != 0 {
		name = "-" + string(flag.Short) + ", " + name
	}
	if !flag.IsBool() && !flag.IsCounter() {
		name += "=" + flag.FormatPlaceHolder()
	}
	r.macro("TP")
	r.macro("B", name)
	r.text(doubled.ReplaceAllString(flag.Help, "$$"))
}

// prose writes paragraphs, and what is indented as it is.
func (r *roff) prose(text string) {
	for i, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if strings.HasPrefix(paragraph, "    ") {
			r.WriteString(".PP\n.RS 4\n.nf\n")
			for line := range strings.Lines(paragraph) {
				r.WriteString(guarded(escaped(strings.TrimSpace(line))) + "\n")
			}
			r.WriteString(".fi\n.RE\n")
			continue
		}
		if i > 0 {
			r.macro("PP")
		}
		r.text(paragraph)
	}
}
