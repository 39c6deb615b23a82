package e2e_test

import (
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestDoctorOfAVault looks at a real Vault as it should be, and is not, and leaves no
// record there.
func TestDoctorOfAVault(t *testing.T) {
	t.Parallel()
	v := ownStore(t)
	s := newSite(t, v.config(v.Addr()))
	doctor := func(status int, texts ...string) {
		t.Helper()
		encoded, err := yaml.Marshal(s.config)
		if err != nil {
			t.Fatal(err)
		}
		printed, stderr, got := output(t, "doctor", "--config", s.write(t, "config.yaml", encoded))
		if got != status {
			t.Errorf("status %d, want %d\n%s%s", got, status, printed, stderr)
		}
		for _, text := range texts {
			if !strings.Contains(printed, text) {
				t.Errorf("%q is not in\n%s", text, printed)
			}
		}
		if strings.Contains(printed+stderr, v.secretID) {
			t.Error("it printed the secret id")
		}
	}
	doctor(0, "mount "+v.mount, "it can be read, and is empty", "grants all that the broker needs", "0 broken")
	if status, _ := v.Do("GET", v.mount+"/metadata/meta", nil); status != 404 {
		t.Errorf("reading the broker's first record: status %d, want 404: the doctor founds no store", status)
	}
	v.PutPolicy(v.role, strings.Replace(v.policy, "/destroy/", "/nothing/", 1))
	doctor(1, "FAIL  policy", "lacks update", "tokenbroker vault-policy")
	v.PutPolicy(v.role, v.policy)
	right := v.secretID
	v.writeFile("secret-id", "00000000-0000-0000-0000-000000000000")
	doctor(1, "FAIL  store", "STORE_LOGIN_FAILED")
	v.writeFile("secret-id", right)
	if err := os.Chmod(v.dir+"/secret-id", 0o644); err != nil {
		t.Fatal(err)
	}
	doctor(1, "FAIL  store.vault.approle.secret_id_file", "everybody on this machine can use it")
	if err := os.Chmod(v.dir+"/secret-id", 0o600); err != nil {
		t.Fatal(err)
	}
	settings := s.config["store"].(map[string]any)["vault"].(map[string]any)
	settings["mount"] = "no-such-mount"
	doctor(1, "FAIL  store", "STORE_MOUNT_MISSING")
	delete(settings, "mount")
	doctor(0, "mount tokenbroker", "it can be read") // the default, where the engine is
	settings["mount"] = v.mount
	v.Seal()
	doctor(1, "FAIL  store", "STORE_SEALED")
	v.Stop()
	doctor(1, "FAIL  store", "STORE_UNREACHABLE")
}
