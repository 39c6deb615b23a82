package main

import "embed"

//go:embed completion
var completionScripts embed.FS

// completionCommand prints what a shell loads.
type completionCommand struct {
	Shell string `arg:"" help:"bash, zsh or fish." enum:"bash,zsh,fish"`
}

// Help implements kong.HelpProvider.
func (c *completionCommand) Help() string {
	return `It completes commands, flags, contexts and, by asking the broker, names of clients.

Put one of these into the file that your shell begins with:

    source <(tokenctl completion bash)
    source <(tokenctl completion zsh)
    tokenctl completion fish | source`
}

// Run implements the command.
func (c *completionCommand) Run(s *session) error {
	script, err := completionScripts.ReadFile("completion/tokenctl." + c.Shell)
	if err != nil {
		return err
	}
	_, err = s.stdout.Write(script)
	return err
}
