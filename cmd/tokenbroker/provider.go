package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// providersConfig says which provider profiles there are besides the built-in ones.
type providersConfig struct {
	// Dir is a folder of files *.yaml (docs/providers.md). Its profiles win over built-in
	// ones of the same name.
	Dir string `yaml:"dir"`
}

// load returns the profiles.
func (c providersConfig) load() (*profile.Set, error) { return profile.Load(c.Dir) }

func (c providersConfig) validate(add func(key, format string, args ...any)) {
	_, err := c.load()
	for _, problem := range joined(err) {
		for _, line := range strings.Split(problem.Error(), "\n") {
			add("providers.dir", "%s", line)
		}
	}
}

// providerCommand is about provider profiles, without a server.
type providerCommand struct {
	List  providerListCommand  `cmd:"" help:"List the provider profiles."`
	Show  providerShowCommand  `cmd:"" help:"Show one profile: what it means, and its YAML."`
	Check providerCheckCommand `cmd:"" help:"Say everything that is wrong with files of profiles, by line, or what they mean."`
}

// providersDirVariable is the variable of dirFlag.
const providersDirVariable = environmentPrefix + "PROVIDERS_DIR"

// dirFlag names profiles besides the built-in ones.
type dirFlag struct {
	Dir string `help:"Folder of your own profiles, as the configuration's providers.dir." placeholder:"DIR" env:"TOKENBROKER_PROVIDERS_DIR" type:"path"`
}

func (f dirFlag) load() (*profile.Set, error) {
	set, err := profile.Load(f.Dir)
	if err != nil {
		return nil, usageError{err}
	}
	return set, nil
}

type providerListCommand struct {
	dirFlag
}

// Run prints a table of all profiles.
func (c *providerListCommand) Run(p *process) error {
	set, err := c.load()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tFROM\tVARIABLES\tTITLE")
	for _, name := range set.Names() {
		provider, _ := set.Provider(name)
		from := c.Dir
		if provider.BuiltIn {
			from = "built in"
		}
		var variables []string
		for _, v := range provider.Variables {
			variables = append(variables, v.Name)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", name, from, strings.Join(variables, ","), provider.Title)
	}
	return table.Flush()
}

type providerShowCommand struct {
	dirFlag
	Name string `arg:"" help:"Name of the profile." placeholder:"NAME" complete:"provider"`
}

// Run prints what a profile means, with example variables, and its YAML.
func (c *providerShowCommand) Run(p *process) error {
	set, err := c.load()
	if err != nil {
		return err
	}
	found := set.Profile(c.Name)
	if found == nil {
		return usageError{fmt.Errorf("there is no profile %q; there are %s", c.Name, strings.Join(set.Names(), ", "))}
	}
	describe(p.stdout, found)
	_, err = fmt.Fprintf(p.stdout, "\n%s", found.Definition())
	return err
}

func describe(w io.Writer, p *profile.Profile) {
	fmt.Fprintf(w, "%s: %s\n", p.Name, p.Title)
	for _, line := range p.Describe(p.Examples()) {
		fmt.Fprintf(w, "  %s\n", line)
	}
}

//go:embed provider-example.yaml
var providerExample string

type providerCheckCommand struct {
	Files []string `arg:"" help:"Files of profiles (YAML)." placeholder:"FILE" name:"file" type:"path"`
}

// Help teaches what a profile is.
func (c *providerCheckCommand) Help() string {
	return "A profile says where one provider departs from OAuth 2.0. A client names it, says its variables, and needs no endpoints of its own. " +
		"docs/providers.md describes every key. An example:\n\n    " +
		strings.ReplaceAll(strings.TrimSpace(providerExample), "\n", "\n    ") +
		"\n\nStatus 0 if all files are sound, 1 if one is not; problems are printed as file:line: key: text."
}

// errUnsoundProfiles says that files have problems, which were printed.
var errUnsoundProfiles = errors.New("not all profiles are sound")

// Run prints what is wrong with files, or what they mean.
func (c *providerCheckCommand) Run(p *process) error {
	var failed error
	for _, file := range c.Files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return usageError{err}
		}
		parsed, err := profile.Parse(file, raw)
		var wrong *strictyaml.Error
		switch {
		case errors.As(err, &wrong):
			failed = errUnsoundProfiles
			fmt.Fprintln(p.stdout, wrong)
		case err != nil:
			return err
		default:
			describe(p.stdout, parsed)
		}
	}
	return failed
}
