package profile

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

// extension ends the names of files of profiles.
const extension = ".yaml"

const (
	maxFile       = 64 << 10
	maxText       = 1024
	maxList       = 64
	maxListLength = 512
	day           = 24 * time.Hour
)

// Parse reads one profile. The file's name must be that of the profile and ".yaml"; its
// folder is for errors only. An error is a *strictyaml.Error with all problems.
func Parse(file string, raw []byte) (*Profile, error) {
	if len(raw) > maxFile {
		return nil, strictyaml.NewError(file, []strictyaml.Problem{{Line: 1, Text: fmt.Sprintf("has %d bytes; at most %d", len(raw), maxFile)}})
	}
	document := strictyaml.NewDocument(raw)
	if problems := document.Duplicates(); len(problems) > 0 {
		return nil, strictyaml.NewError(file, problems)
	}
	p := &Profile{definition: string(raw)}
	problems := strictyaml.Decode(raw, p)
	problems = append(append(problems, document.Nulls()...), document.Aliases()...)
	if len(problems) == 0 { // else the same fault might be told twice, in other words
		c := &checker{}
		if want := strings.TrimSuffix(filepath.Base(file), extension); p.Name != "" && p.Name != want {
			c.add("name", "is %q; it must be %q, as the file is called", truncate(p.Name), truncate(want))
		}
		p.fillDefaults()
		p.compiled = c.profile(p)
		p.compiled.request.whole, p.compiled.refresh.whole = &p.compiled, &p.compiled
		problems = c.problems
		document.Locate(problems)
	}
	if err := strictyaml.NewError(file, problems); err != nil {
		return nil, err
	}
	return p, nil
}

// fillDefaults says what the file leaves to the standards.
func (p *Profile) fillDefaults() {
	fill := func(field *string, standard string) { *field = cmp.Or(*field, standard) }
	p.Authentication.AssertionLifetime = cmp.Or(p.Authentication.AssertionLifetime, time.Minute)
	fill(&p.Request.Format, FormatForm)
	fill(&p.Request.Method, "POST")
	fill(&p.Request.ScopeSeparator, " ")
	fill(&p.Consent.ScopeName, "scope")
	fill(&p.Consent.ScopeSeparator, p.Request.ScopeSeparator)
	fill(&p.Consent.PKCE, PKCESupported)
	fill(&p.Response.ScopeSeparator, " ")
	fill(&p.Response.ExpiresIn.Unit, UnitSeconds)
	fill(&p.Response.ExpiresIn.Zero, ZeroAbsent)
	fill(&p.Response.RefreshExpiresIn.Unit, UnitSeconds)
	fill(&p.Response.RefreshExpiresIn.Zero, ZeroAbsent)
	fill(&p.Expiry.Policy, PolicyAnswer)
	fill(&p.Refresh.With, RefreshWithToken)
	fill(&p.Refresh.Rotation, rotationUnknown)
	standard := func(list *[]string, names ...string) {
		if len(*list) == 0 {
			*list = names
		}
	}
	standard(&p.Grants, string(broker.ClientCredentials))
	standard(&p.Authentication.Methods, string(broker.ClientSecretBasic))
	standard(&p.Response.AccessToken, "access_token")
	standard(&p.Response.TokenType, "token_type")
	standard(&p.Response.RefreshToken, "refresh_token")
	standard(&p.Response.IDToken, "id_token")
	standard(&p.Response.Scope, "scope")
	standard(&p.Response.ExpiresIn.Paths, "expires_in")
	standard(&p.Response.RefreshExpiresIn.Paths, "refresh_expires_in", "refresh_token_expires_in")
	standard(&p.Errors.Code, "error")
	standard(&p.Errors.Description, "error_description")
}

// checker collects what is wrong with a profile.
type checker struct {
	problems []strictyaml.Problem
}

func (c *checker) add(key, format string, args ...any) {
	c.problems = append(c.problems, strictyaml.Problem{Key: key, Text: fmt.Sprintf(format, args...), Line: 1})
}

// text checks something that people read.
func (c *checker) text(key, s string) {
	if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
		c.add(key, "must have at most %d bytes and no control characters", maxText)
	}
}

// oneOf checks an enumeration.
func (c *checker) oneOf(key, value string, known ...string) {
	if !slices.Contains(known, value) {
		c.add(key, "is %q; it must be one of %s", truncate(value), strings.Join(known, ", "))
	}
}

// within checks a duration; 0 says nothing.
func (c *checker) within(key string, d, most time.Duration) {
	if d != 0 && (d < time.Second || d > most) {
		c.add(key, "is %v; it must lie between 1s and %v", d, most)
	}
}

// list checks the number of entries and that none is empty or there twice.
func (c *checker) list(key string, entries []string) {
	if len(entries) > maxList {
		c.add(key, "has %d entries; at most %d", len(entries), maxList)
	}
	for i, entry := range entries {
		at := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case entry == "":
			c.add(at, "is empty")
		case len(entry) > maxListLength:
			c.add(at, "has %d bytes; at most %d", len(entry), maxListLength)
		case slices.Contains(entries[:i], entry):
			c.add(at, "is there twice")
		}
	}
}

func truncate(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
