package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// auditConfig says where decisions are recorded.
type auditConfig struct {
	// KeyFile holds the key of the chain, mode 0600; it is made if it is not there.
	KeyFile string `yaml:"key_file"`
	// File, Stdout and Syslog are the sinks; several may be had at once.
	File auditFileConfig `yaml:"file"`
	// Stdout writes the lines to standard output.
	Stdout bool `yaml:"stdout"`
	// Syslog is "local", or where a daemon listens: udp://host:514, tcp://host:601,
	// unix:///dev/log.
	Syslog string `yaml:"syslog"`
	// SyncAlways makes each entry durable before its call is answered, not within a second.
	SyncAlways bool `yaml:"sync_always"`
	// InsecureOff serves without an audit log.
	InsecureOff bool `yaml:"insecure_off"`
}

// auditFileConfig is a file that is moved aside when it is full.
type auditFileConfig struct {
	Path string `yaml:"path"`
	// MaxBytes is 0 for a file that something else rotates.
	MaxBytes int64 `yaml:"max_bytes"`
}

func (a *auditConfig) validate(add func(key, format string, args ...any)) {
	sinks := a.File.Path != "" || a.Stdout || a.Syslog != ""
	switch {
	case a.InsecureOff && (sinks || a.KeyFile != ""):
		add("audit.insecure_off", "cannot be combined with sinks or a key; remove one or the other")
	case a.InsecureOff:
	case !sinks:
		add("audit", "needs a sink: file.path, stdout or syslog; insecure_off serves without a record of who got what")
	case a.KeyFile == "":
		add("audit.key_file", "is required; the file is made if it is not there")
	}
	if a.File.MaxBytes < 0 || a.File.MaxBytes > 0 && a.File.MaxBytes < 1<<20 {
		add("audit.file.max_bytes", "is %d; it must be 0 or at least 1048576", a.File.MaxBytes)
	}
	if a.File.MaxBytes > 0 && a.File.Path == "" {
		add("audit.file.path", "is required with max_bytes")
	}
	if _, _, err := syslogAddress(a.Syslog); err != nil {
		add("audit.syslog", "%v", err)
	}
}

// syslogAddress returns what audit.DialSyslog takes.
func syslogAddress(text string) (network, address string, err error) {
	network, address, found := strings.Cut(text, "://")
	switch {
	case text == "" || text == "local":
		return "", "", nil
	case found && address != "" && (network == "udp" || network == "tcp"):
		return network, address, nil
	case found && strings.HasPrefix(address, "/") && network == "unix":
		return "unixgram", address, nil
	default:
		return "", "", fmt.Errorf("is %q; it must be local, udp://host:port, tcp://host:port or unix:///path", text)
	}
}

// auditLog is the audit log of a service and the file that a signal reopens.
type auditLog struct {
	*audit.Log
	file *audit.File // nil if there is none
	ran  bool
}

// openAudit opens the sinks and begins a chain; nil if the configuration has none.
func openAudit(cfg auditConfig, log *slog.Logger) (_ *auditLog, err error) {
	if cfg.InsecureOff {
		return nil, nil
	}
	if err := audit.CreateKey(cfg.KeyFile); err != nil {
		return nil, err
	}
	key, err := audit.LoadKey(cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	opened := &auditLog{}
	var sinks []audit.Sink
	defer func() {
		if err != nil {
			for _, sink := range sinks {
				err = errors.Join(err, sink.Close())
			}
		}
	}()
	if cfg.File.Path != "" {
		if opened.file, err = audit.OpenFile(cfg.File.Path, cfg.File.MaxBytes); err != nil {
			return nil, err
		}
		sinks = append(sinks, opened.file)
	}
	if cfg.Stdout {
		stdout, err := audit.OpenStdout()
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, stdout)
	}
	if cfg.Syslog != "" {
		network, address, _ := syslogAddress(cfg.Syslog) // validated with the configuration
		syslog, err := audit.DialSyslog(network, address)
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, syslog)
	}
	opened.Log, err = audit.New(audit.Config{Key: key, Sinks: sinks, SyncAlways: cfg.SyncAlways, Logger: log})
	return opened, err
}

// Run looks after the log until ctx ends, then closes it.
func (a *auditLog) Run(ctx context.Context) error {
	a.ran = true
	return a.Log.Run(ctx)
}

// close closes a log that was never run.
func (a *auditLog) close() error {
	if a.ran {
		return nil
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	return a.Run(over)
}
