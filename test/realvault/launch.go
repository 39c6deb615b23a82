package realvault

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// ErrMissing is what [Open] returns: it tells that there is no Vault to start: a matter of the machine, not of the test.
var ErrMissing = errors.New("no Vault: none at TOKENBROKER_TEST_VAULT_ADDR, no vault or bao on PATH, none built")

// launch starts the server's process, sealed, at its address, or at a free one the first time.
func (in *instance) launch() error {
	for _, name := range []string{"vault", "bao"} {
		if path, err := exec.LookPath(name); err == nil {
			return in.launchInstalled(path, name)
		}
	}
	path, _, err := builtProgram()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return ErrMissing
	}
	return in.launchBuilt(path)
}

// launchBuilt starts the program of tools/vault, which prints where it listens.
func (in *instance) launchBuilt(path string) error {
	args := []string{"-storage=inmem"}
	if !in.inMem {
		args = []string{"-storage=raft", "-dir=" + filepath.Join(in.dir, "raft")}
	}
	if in.address != "" {
		parsed, err := url.Parse(in.address)
		if err != nil {
			return fmt.Errorf("starting Vault: %w", err)
		}
		args = append(args, "-listen="+parsed.Host)
	} else if in.host != "" {
		args = append(args, "-listen="+in.host)
	}
	if in.tls {
		args = append(args, "-tls-cert="+in.certFile, "-tls-key="+in.keyFile)
	}
	ready := harness.NewFirstLine(`{"address"`)
	process, err := harness.StartProcess(exec.Command(path, args...), ready)
	if err != nil {
		return err
	}
	in.process = process
	select {
	case line := <-ready.C():
		var told struct{ Address string }
		if err := json.Unmarshal([]byte(line), &told); err != nil {
			return fmt.Errorf("starting Vault: its first line is %q: %w", line, err)
		}
		in.address = told.Address
		return nil
	case <-process.Done():
		return fmt.Errorf("starting Vault: it ended: %w; the end of its output:\n%s", process.Err(), process.Output())
	case <-time.After(readyWithin):
		return fmt.Errorf("starting Vault: no address after %s; the end of its output:\n%s", readyWithin, process.Output())
	}
}

// launchInstalled starts the command of a Vault or OpenBao that is installed, with a configuration file.
func (in *instance) launchInstalled(path, name string) error {
	scheme := "http"
	if in.tls {
		scheme = "https"
	}
	if in.address == "" {
		address := in.host
		if address == "" {
			var err error
			if address, err = freeAddress(); err != nil {
				return fmt.Errorf("starting %s: %w", name, err)
			}
		}
		in.address = scheme + "://" + address
	}
	config, err := in.installedConfig(name)
	if err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	file := filepath.Join(in.dir, "vault.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	process, err := harness.StartProcess(exec.Command(path, "server", "-config="+file))
	if err != nil {
		return err
	}
	in.process = process
	return in.waitUntil("to listen at "+in.address, func() (bool, error) {
		select {
		case <-process.Done():
			return false, fmt.Errorf("it ended: %w", process.Err())
		default:
		}
		_, _, err := in.send("", "GET", "sys/health", nil)
		return err == nil, err
	})
}

// installedConfig is the configuration file, as JSON, which both servers read.
func (in *instance) installedConfig(name string) ([]byte, error) {
	parsed, err := url.Parse(in.address)
	if err != nil {
		return nil, err
	}
	cluster, err := freeAddress()
	if err != nil {
		return nil, err
	}
	listener := map[string]any{"address": parsed.Host, "cluster_address": cluster, "tls_disable": !in.tls}
	if in.tls {
		listener["tls_cert_file"], listener["tls_key_file"] = in.certFile, in.keyFile
	}
	config := map[string]any{
		"api_addr":      in.address,
		"cluster_addr":  "https://" + cluster,
		"disable_mlock": true,
		"listener":      map[string]any{"tcp": listener},
	}
	if in.inMem {
		config["storage"] = map[string]any{"inmem": map[string]any{}}
	} else {
		dir := filepath.Join(in.dir, "raft")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		config["storage"] = map[string]any{"raft": map[string]any{
			"path": dir, "node_id": "tests", "performance_multiplier": "1",
		}}
	}
	if name == "bao" {
		// OpenBao takes audit devices from its configuration alone unless told otherwise; Vault does not know this key.
		config["unsafe_allow_api_audit_creation"] = true
	}
	return json.Marshal(config)
}

// freeAddress finds a loopback port that nobody listens on. Another process may take it before it is used; then the server says so.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
