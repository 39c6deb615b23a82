package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/checkup"
	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
)

// doctorCommand looks at the set-up of a server on its own machine.
type doctorCommand struct {
	configFlag
	Output string `short:"o" help:"text for people, json for programs." enum:"text,json" default:"text" placeholder:"text|json"`
}

// errBroken says that a look found something broken.
var errBroken = errors.New("something is broken; what is printed says what mends it")

// Run looks at everything that the configuration names and changes nothing; status 1 if
// something is broken.
func (c *doctorCommand) Run(ctx context.Context, p *process) error {
	d := &doctor{process: p}
	if c.Output == "text" {
		d.Tell = d.print
	}
	if cfg := d.configuration(c.Config); cfg != nil {
		now := time.Now()
		d.Part = "files"
		d.files(cfg, now)
		d.Part = "store"
		d.store(ctx, cfg)
		d.Part = "machine"
		d.KernelClock()
		d.audit(cfg.Audit)
		d.ports(ctx, cfg)
	}
	bad := d.Count(checkup.Bad)
	if c.Output == "json" {
		encoder := json.NewEncoder(p.stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(map[string]any{"looks": d.Looks(), "fail": bad, "look": d.Count(checkup.Doubtful)}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(p.stdout, "\n%d ok, %d to look at, %d broken, %d not looked at\n", d.Count(checkup.Good), d.Count(checkup.Doubtful), bad, d.Count(checkup.Skipped))
	}
	if bad > 0 {
		return errBroken
	}
	return nil
}

// doctor goes from one look to the next. It belongs to one command.
type doctor struct {
	checkup.Sheet
	process *process
	printed string // the part that was printed last
}

// doctorMarks is outcome → the word for it, as tokenctl has them.
var doctorMarks = map[checkup.Outcome]string{checkup.Good: "ok", checkup.Doubtful: "look", checkup.Bad: "FAIL", checkup.Skipped: "-"}

func (d *doctor) print(l checkup.Look) {
	if l.Part != d.printed {
		if d.printed != "" {
			fmt.Fprintln(d.process.stdout)
		}
		fmt.Fprintln(d.process.stdout, strings.ToUpper(l.Part[:1])+l.Part[1:])
		d.printed = l.Part
	}
	const indent = "                                  "
	first := fmt.Sprintf("%-4s  %-26s  ", doctorMarks[l.Outcome], l.Name)
	for _, seen := range l.Seen {
		fmt.Fprintln(d.process.stdout, first+seen)
		first = indent
	}
	if l.Mend != "" {
		fmt.Fprintln(d.process.stdout, indent+"> "+l.Mend)
	}
}

// configuration reads the configuration; nil if it is not sound.
func (d *doctor) configuration(path string) *config {
	const name = "configuration"
	d.Part = name
	cfg, err := loadConfig(path)
	var wrong *strictyaml.Error
	switch {
	case errors.As(err, &wrong):
		for _, p := range wrong.Problems {
			d.Bad(name, "docs/operations.md describes every key", fmt.Sprintf("line %d: %s", p.Line, p))
		}
		return nil
	case err != nil:
		d.Bad(name, "name the configuration with --config", err.Error())
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o022 != 0 {
		d.Bad("who may write it", "run `chmod go-w "+path+"`: whoever writes it decides where secrets go", fmt.Sprintf("mode %04o", info.Mode().Perm()))
	}
	d.Good(name, path+" is sound")
	for _, warning := range cfg.warnings() {
		d.Doubtful(name, "change it, unless it is meant", warning)
	}
	return cfg
}

// files looks at certificates, keys and authorities.
func (d *doctor) files(cfg *config, now time.Time) {
	if cfg.Listen.tls() != nil {
		d.KeyPair(cfg.Listen.CertificateFile, cfg.Listen.KeyFile, now)
		if cfg.Listen.ClientCAFile != "" {
			d.Authorities("listen.client_ca_file", cfg.Listen.ClientCAFile, now)
		}
	} else if cfg.Listen.Address != "" {
		d.Doubtful("listen.insecure_plaintext", "use it for development only", "served without TLS, on loopback")
	}
	if cfg.JWKS.CertificateFile != "" {
		d.KeyPair(cfg.JWKS.CertificateFile, cfg.JWKS.KeyFile, now)
	}
	if cfg.Upstream.CAFile != "" {
		d.Authorities("upstream.ca_file", cfg.Upstream.CAFile, now)
	}
	if cfg.Store.Vault == nil {
		return
	}
	files := cfg.Store.Vault.Files()
	for _, key := range slices.Sorted(maps.Keys(files)) {
		name := "store.vault." + key
		switch key {
		case "ca_file":
			d.Authorities(name, files[key], now)
		case "client_cert_file", "approle.role_id_file": // no secrets; that they can be read was seen
		default:
			d.PrivateFile(name, files[key], true)
		}
	}
}
