package realvault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// instance is one Vault, whoever looks at it. Its functions return errors; those of Server end tests.
type instance struct {
	options
	dir      string // of data, certificates and the audit log
	remove   string // the folder that close removes, or ""
	unmount  string // the mount that close removes, or ""
	external bool   // not ours to seal or kill
	address  string // "http://127.0.0.1:port"; fixed once known, so that a restarted server is found
	certFile string
	keyFile  string
	caFile   string
	auditLog string
	key      string // the one unseal key
	token    string // the root token
	client   *http.Client
	process  *harness.Process
}

// close kills the server, if it is ours, and leaves nothing behind on one that is not.
func (in *instance) close() {
	if in.unmount != "" {
		_, _, _ = in.send(in.token, "DELETE", "sys/mounts/"+in.unmount, nil)
	}
	if in.process != nil {
		in.process.Kill()
	}
	if in.remove != "" {
		os.RemoveAll(in.remove)
	}
}

// output returns the end of what the server printed.
func (in *instance) output() string {
	if in.process == nil {
		return "(not our process)"
	}
	return in.process.Output()
}

// maxAnswer bounds what is read of an answer: more than Vault sends for anything that a test asks.
const maxAnswer = 64 << 20

// do sends one request and returns the status and the decoded body, which is nil where there is none. A refusal is no error.
func (in *instance) do(token, method, path string, body any) (int, map[string]any, error) {
	status, raw, err := in.send(token, method, path, body)
	if err != nil || len(raw) == 0 {
		return status, nil, err
	}
	var decoded map[string]any
	if err := json.Unmarshal(raw, &decoded); err != nil {
		return status, nil, fmt.Errorf("%s %s: status %d with a body that is no JSON object: %w", method, path, status, err)
	}
	return status, decoded, nil
}

// call sends one request with the root token, demands a 2xx and decodes the body into answer unless that is nil.
func (in *instance) call(method, path string, body, answer any) error {
	status, raw, err := in.send(in.token, method, path, body)
	if err != nil {
		return err
	}
	if status < 200 || status > 299 {
		return fmt.Errorf("%s %s: status %d: %s", method, path, status, bytes.TrimSpace(raw))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// upgrading is what a KV version 2 engine answers for a moment after it was mounted or unsealed.
const upgrading = "Upgrading from non-versioned to versioned data"

// send sends one request, again for as long as the engine is not ready. An empty token sends none; a nil body sends none.
func (in *instance) send(token, method, path string, body any) (status int, raw []byte, err error) {
	deadline := time.Now().Add(readyWithin)
	for {
		status, raw, err = in.sendOnce(token, method, path, body)
		if status != http.StatusBadRequest || !bytes.Contains(raw, []byte(upgrading)) || time.Now().After(deadline) {
			return status, raw, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sendOnce is send without another try.
func (in *instance) sendOnce(token, method, path string, body any) (int, []byte, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		content = bytes.NewReader(encoded)
	}
	url := in.address + "/v1/" + strings.TrimPrefix(path, "/")
	request, err := http.NewRequestWithContext(context.Background(), method, url, content)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		request.Header.Set("X-Vault-Token", token)
	}
	response, err := in.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: reading the answer: %w", method, path, err)
	}
	return response.StatusCode, raw, nil
}

// readyWithin bounds every wait for Vault. It takes a second or two; a loaded machine needs more.
const readyWithin = time.Minute

// waitUntil asks ready every few milliseconds until it holds.
func (in *instance) waitUntil(what string, ready func() (bool, error)) error {
	deadline := time.Now().Add(readyWithin)
	for {
		ok, err := ready()
		switch {
		case ok:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("waited %s for Vault %s (last: %v); the end of its output:\n%s", readyWithin, what, err, in.output())
		}
		// A real process on a real clock has nothing to wait on but time.
		time.Sleep(10 * time.Millisecond)
	}
}

// unseal unseals the server and waits until it is active.
func (in *instance) unseal() error {
	if err := in.call("PUT", "sys/unseal", map[string]any{"key": in.key}, nil); err != nil {
		return fmt.Errorf("unsealing Vault: %w", err)
	}
	return in.waitUntil("to become active", func() (bool, error) {
		status, _, err := in.do("", "GET", "sys/health", nil)
		return status == http.StatusOK, err
	})
}

// uniqueMount returns a name that no other mount has.
func uniqueMount() string { return "kv-" + strings.ToLower(rand.Text()[:12]) }

// mountKV mounts a KV engine and waits until it takes requests: version 2 answers 400 while it sets itself up.
func (in *instance) mountKV(name string, version int) error {
	engine := map[string]any{"type": "kv", "options": map[string]string{"version": fmt.Sprint(version)}}
	if err := in.call("POST", "sys/mounts/"+name, engine, nil); err != nil {
		return fmt.Errorf("mounting a KV engine at %s: %w", name, err)
	}
	if version != 2 {
		return nil
	}
	return in.waitUntil("to set up the mount "+name, func() (bool, error) {
		status, _, err := in.do(in.token, "GET", name+"/config", nil)
		return status == http.StatusOK, err
	})
}
