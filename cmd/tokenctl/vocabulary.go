package main

import (
	"regexp"
	"strings"
)

// vocabulary returns what the API's words are called here: the broker's errors speak of
// methods and fields, which a person at this tool does not type.
func vocabulary() map[string]string {
	return map[string]string{
		"UndeleteClient":     "tokenctl client undelete CLIENT",
		"EnableClient":       "tokenctl client enable CLIENT",
		"ListProviders":      "tokenctl provider list",
		"StageSecret":        "tokenctl secret stage CLIENT",
		"VerifySecret":       "tokenctl secret verify CLIENT",
		"PromoteSecret":      "tokenctl secret promote CLIENT",
		"RollbackSecret":     "tokenctl secret rollback CLIENT",
		"RetireSecret":       "tokenctl secret retire CLIENT --secret-version N",
		"AdoptSecret":        "tokenctl secret adopt CLIENT",
		"ListSecretVersions": "tokenctl secret versions CLIENT",
		"RotateSecret":       "tokenctl rotate CLIENT",
		"GetRotation":        "tokenctl rotations get CLIENT",
		"ListRotations":      "tokenctl rotations list",
		"WatchRotation":      "tokenctl rotations watch CLIENT",
		"AbortRotation":      "tokenctl rotations abort CLIENT",
		"GetToken":           "tokenctl token get CLIENT",
		"WhoAmI":             "tokenctl whoami",
		"WatchToken":         "tokenctl watch CLIENT",
		"SweepLookups":       "tokenctl sweep",
		"ExplainError":       "tokenctl explain REQUEST",
		"CheckLookup":        "tokenctl check CLIENT",
		"allow_unverified":   "--allow-unverified",
		"accept_gap":         "--accept-gap",
		"drop_tokens":        "--drop-tokens",
		"request_id":         "--request-id",
	}
}

var apiWord = regexp.MustCompile(`[A-Za-z_]+`)

// translated explains the words of the API that a text has, each once.
func translated(text string) (lines []string) {
	words := vocabulary()
	for _, found := range apiWord.FindAllString(text, -1) {
		if here, known := words[found]; known {
			lines = append(lines, found+" is `"+strings.ReplaceAll(strings.ReplaceAll(here, " CLIENT", ""), " REQUEST", "")+"`")
			delete(words, found)
		}
	}
	return lines
}
