package main

import (
	"errors"
	"fmt"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// auditCommand looks into audit logs without a server.
type auditCommand struct {
	Verify    verifyCommand    `cmd:"" help:"Check that no entry of audit files was changed, added, removed or moved."`
	PublicKey publicKeyCommand `cmd:"" help:"Print the public key that belongs to an audit key, for those who may check and not forge."`
}

type verifyCommand struct {
	Key          []string `help:"Key file that the files were written with; may be repeated." placeholder:"FILE" type:"path"`
	PublicKey    []string `help:"Public key file, which checks up to the last checkpoint; may be repeated." placeholder:"FILE" type:"path"`
	Running      int      `help:"How many processes are known to be running; fewer in the files is wrong." placeholder:"N"`
	Killed       []string `help:"A chain that is known to have been killed, as the finding about it says; may be repeated." placeholder:"CHAIN/LINE"`
	OlderRemoved bool     `help:"Older files are not kept, so chains may begin in the middle."`
	Files        []string `arg:"" help:"All files of all replicas and sinks, in any order, also gzipped." placeholder:"FILE" type:"path"`
}

// errUnsound says that audit files are not what was written.
var errUnsound = errors.New("the audit log is not sound")

// Run prints what it found; status 1 if anything is wrong.
func (c *verifyCommand) Run(p *process) error {
	cfg := audit.VerifyConfig{Running: c.Running, Killed: c.Killed, OlderRemoved: c.OlderRemoved}
	if len(c.Key)+len(c.PublicKey) == 0 {
		return usageError{errors.New("--key or --public-key is required: without one nothing is proven")}
	}
	for _, path := range c.Key {
		key, err := audit.LoadKey(path)
		if err != nil {
			return usageError{err}
		}
		cfg.Keys = append(cfg.Keys, key)
	}
	for _, path := range c.PublicKey {
		key, err := audit.LoadPublicKey(path)
		if err != nil {
			return usageError{err}
		}
		cfg.PublicKeys = append(cfg.PublicKeys, key)
	}
	report, err := audit.VerifyFiles(cfg, c.Files...)
	if err != nil {
		return err
	}
	if err := report.Write(p.stdout); err != nil {
		return err
	}
	if !report.Sound() {
		return errUnsound
	}
	return nil
}

type publicKeyCommand struct {
	Key string `help:"Key file." placeholder:"FILE" required:"" type:"path"`
}

// Run prints the text of a public key file.
func (c *publicKeyCommand) Run(p *process) error {
	key, err := audit.LoadKey(c.Key)
	if err != nil {
		return usageError{err}
	}
	_, err = fmt.Fprint(p.stdout, key.Public())
	return err
}
