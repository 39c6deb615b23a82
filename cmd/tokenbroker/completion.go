package main

import (
	"context"
	"io"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/completion"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

type completionCommand struct {
	Shell string `arg:"" help:"bash, zsh or fish." enum:"bash,zsh,fish"`
}

// Help says what to do with the script.
func (c *completionCommand) Help() string {
	return `It completes commands, flags, files and names of provider profiles.

Put one of these into the file that your shell begins with:

    source <(tokenbroker completion bash)
    source <(tokenbroker completion zsh)
    tokenbroker completion fish | source`
}

// Run prints what a shell loads.
func (c *completionCommand) Run(p *process) error {
	script, err := completion.Script("tokenbroker", c.Shell)
	if err != nil {
		return err
	}
	_, err = io.WriteString(p.stdout, script)
	return err
}

// completer completes command lines of this program in such an environment.
func completer(environ []string) completion.Completer {
	var own dirFlag
	for _, entry := range environ {
		if dir, found := strings.CutPrefix(entry, providersDirVariable+"="); found {
			own.Dir = dir
		}
	}
	return completion.Completer{
		Flag: func(name, value string) {
			if name == "dir" {
				own.Dir = value
			}
		},
		Names: func(context.Context, string, string) []string { // of profiles, the only names here
			set, err := own.load()
			if err != nil {
				if set, err = profile.Load(""); err != nil {
					return nil
				}
			}
			return set.Names()
		},
	}
}
