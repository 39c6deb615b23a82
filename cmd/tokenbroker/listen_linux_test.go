package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUNIXSocketAlone serves a sidecar: no TCP, no certificates.
func TestUNIXSocketAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "socket")
	config := filepath.Join(dir, "config.yaml")
	content := fmt.Sprintf("listen: {address: '', unix_socket: {path: %s, mode: '0660'}}\ncallers: [{name: me, identity: 'unix:uid=%d', role: operator}]\n"+
		"store: {embedded: {file: %s/store.db, key_file: %s/store.key}}\naudit: {insecure_off: true}\nadmin: {address: off}\nlimits: {shutdown_grace: 2s}\n", path, os.Getuid(), dir, dir)
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "check-config", "--config", config).want(t, 0)
	command(t, "health", "--config", config).want(t, 1, "no such file")
	stop := serve(t, config)
	var got outcome
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = command(t, "health", "--config", config); got.err == nil {
			break
		}
	}
	got.want(t, 0)
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("the socket is %v (%v), want mode 0660", info, err)
	}
	// The store's lock is not what keeps a second one from taking the socket.
	second := strings.ReplaceAll(content, "/store.", "/second.")
	command(t, "serve", "--config", write(t, "config.yaml", second)).want(t, 1, "another process listens on it")
	stop().want(t, 0)
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there (%v)", err)
	}
}
