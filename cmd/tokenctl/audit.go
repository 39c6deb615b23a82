package main

import (
	"errors"
	"io/fs"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// auditCommand looks into audit files, without a broker.
type auditCommand struct {
	Verify auditVerifyCommand `cmd:"" help:"Check that no entry of audit files was changed, added, removed or moved."`
}

// auditVerifyCommand takes what `tokenbroker audit verify` takes, and says the same.
type auditVerifyCommand struct {
	KeyFile       []string `name:"key-file" aliases:"key" help:"Key file that the files were written with; may be repeated." placeholder:"FILE" complete:"file" sep:"none"`
	PublicKeyFile []string `name:"public-key-file" aliases:"public-key" help:"Public key file, which checks up to the last checkpoint; may be repeated." placeholder:"FILE" complete:"file" sep:"none"`
	Running       int      `help:"How many processes are known to be running; fewer in the files is wrong." placeholder:"N"`
	Killed        []string `help:"A chain that is known to have been killed, as the finding about it says; may be repeated." placeholder:"CHAIN/LINE" sep:"none"`
	OlderRemoved  bool     `help:"Older files are not kept, so chains may begin in the middle."`
	Files         []string `arg:"" help:"All files of all replicas and sinks, in any order, also gzipped." complete:"file"`
}

// Help implements kong.HelpProvider.
func (c *auditVerifyCommand) Help() string {
	return `It reads files and asks nobody. Status 13 says that something is wrong.

Examples:

    tokenctl audit verify --public-key-file audit.pub audit.log audit.log.1.gz
    tokenctl audit verify --key-file audit.key --running 3 replica-a.log replica-b.log replica-c.log`
}

// Run implements the command.
func (c *auditVerifyCommand) Run(s *session) error {
	cfg := audit.VerifyConfig{Running: c.Running, Killed: c.Killed, OlderRemoved: c.OlderRemoved}
	if len(c.KeyFile)+len(c.PublicKeyFile) == 0 {
		return usage("--key-file or --public-key-file is required: without one nothing is proven")
	}
	for _, path := range c.KeyFile {
		key, err := audit.LoadKey(path)
		if err != nil {
			return usage("%w", err)
		}
		cfg.Keys = append(cfg.Keys, key)
	}
	for _, path := range c.PublicKeyFile {
		key, err := audit.LoadPublicKey(path)
		if err != nil {
			return usage("%w", err)
		}
		cfg.PublicKeys = append(cfg.PublicKeys, key)
	}
	report, err := audit.VerifyFiles(cfg, c.Files...)
	if errors.Is(err, fs.ErrNotExist) {
		return usage("%w", err)
	}
	if err != nil {
		return err
	}
	if s.Output == outputText {
		err = report.Write(s.stdout)
	} else {
		err = s.write(s.stdout, struct {
			Sound bool `json:"sound"`
			audit.Report
		}{report.Sound(), report})
	}
	if err != nil {
		return err
	}
	if !report.Sound() {
		return fault("the audit log is not sound")
	}
	return nil
}
