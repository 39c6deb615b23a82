package completion

import (
	"embed"
	"strings"
)

// Shells are those that there are scripts for.
const Shells = "bash,zsh,fish"

//go:embed scripts
var scripts embed.FS

// Script returns what a shell, one of [Shells], loads to complete the command lines of a
// program of that name, which hands what follows [Word] to [Completer.Complete].
func Script(program, shell string) (string, error) {
	script, err := scripts.ReadFile("scripts/script." + shell)
	if err != nil {
		return "", err
	}
	return strings.ReplaceAll(string(script), "PROGRAM", program), nil
}
