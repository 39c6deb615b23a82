package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// process is a measured server in a process of its own. It is not safe for
// concurrent use.
type process struct {
	name    string
	address string
	command *exec.Cmd
	stdin   io.WriteCloser
	answers *bufio.Scanner
}

// startProcess starts this program again as a server, on one core: the client
// that drives it has the other, and the two do not take each other's time.
func startProcess(ctx context.Context, name string, cfg childConfig, stderr io.Writer) (*process, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, command: exec.CommandContext(ctx, executable, childArgument, string(encoded))}
	p.command.Env = append(os.Environ(), "GOMAXPROCS=1")
	p.command.Stderr = stderr
	// A killed server may have left the pipe of its standard error to nobody.
	p.command.WaitDelay = time.Second
	if p.stdin, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.answers = bufio.NewScanner(stdout)
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	first, err := p.next()
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	p.address = first.Address
	return p, nil
}

// next reads one answer.
func (p *process) next() (answer, error) {
	var a answer
	if !p.answers.Scan() {
		return a, fmt.Errorf("the %s server has ended: %w", p.name, errors.Join(p.answers.Err(), io.ErrUnexpectedEOF))
	}
	if err := json.Unmarshal(p.answers.Bytes(), &a); err != nil {
		return a, fmt.Errorf("the %s server answered %q: %w", p.name, p.answers.Text(), err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s server: %s", p.name, a.Error)
	}
	return a, nil
}

func (p *process) ask(command string) (answer, error) {
	if _, err := io.WriteString(p.stdin, command+"\n"); err != nil {
		return answer{}, fmt.Errorf("%s server: %w", p.name, err)
	}
	return p.next()
}

// during returns what the server used while work ran.
func (p *process) during(work func() error) (usage, error) {
	before, err := p.ask(commandUsage)
	if err != nil {
		return usage{}, err
	}
	if err := work(); err != nil {
		return usage{}, err
	}
	after, err := p.ask(commandUsage)
	return usage{
		CPU: after.Usage.CPU - before.Usage.CPU, Mallocs: after.Usage.Mallocs - before.Usage.Mallocs,
		Reads: after.Usage.Reads - before.Usage.Reads, Writes: after.Usage.Writes - before.Usage.Writes,
	}, err
}

// memory returns what the server holds.
func (p *process) memory() (memory, error) {
	a, err := p.ask(commandMemory)
	return a.Memory, err
}

// profiled writes profiles of the server into folder while work runs; "" only
// runs it.
func (p *process) profiled(folder string, work func() error) error {
	if folder == "" {
		return work()
	}
	if _, err := p.ask(commandProfile + " " + filepath.Join(folder, p.name+".cpu.pprof")); err != nil {
		return err
	}
	err := work()
	_, stopErr := p.ask(commandStop)
	return errors.Join(err, stopErr)
}

// stop ends the server and returns how it ended.
func (p *process) stop() error {
	closeErr := p.stdin.Close()
	if err := p.command.Wait(); err != nil {
		return fmt.Errorf("%s server: %w", p.name, err)
	}
	return closeErr
}
