package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// TestRotatorsAndKeysInTheConfiguration has what can be wrong; want are the beginnings
// of the lines of the answer.
func TestRotatorsAndKeysInTheConfiguration(t *testing.T) {
	const rotator = "rotators:\n- {name: hr, address: 'rotator.example:7443', ca_file: FILE, certificate_file: FILE, key_file: FILE, shape: overlapping"
	tests := []struct {
		name, file string
		want       []string
	}{
		{"sound", sound + rotator + ", server_name: hr.example, timeout: 10s, propagation: 1m, parameters: [pool], optional_parameters: [zone], send_current: true}\n- {name: local, address: 'unix:/run/r.sock', shape: replaced, takes_chosen: true}\njwks: {address: ':7445', max_age: 10m}\n", nil},
		{"two of a name", sound + rotator + "}\n- {name: hr, address: 'unix:/run/r.sock', shape: replaced}\n", []string{"9: rotators[1].name: hr is there twice"}},
		{"a name of the broker's own", sound + "rotators:\n- {name: key_pair, address: 'unix:/run/r.sock', shape: replaced}\n", []string{"8: rotators[0].name: key_pair is the broker's own rotator"}},
		{"no TLS", sound + "rotators:\n- {name: hr, address: 'rotator.example:7443', shape: replaced}\n", []string{"8: rotators[0].ca_file: is required", "8: rotators[0].certificate_file: is required", "8: rotators[0].key_file: is required"}},
		{"a missing file", sound + "rotators:\n- {name: hr, address: 'a:1', ca_file: /nonexistent/ca, certificate_file: FILE, key_file: FILE, shape: replaced}\n", []string{"8: rotators[0].ca_file: open /nonexistent/ca"}},
		{"a shape that there is not", sound + "rotators:\n- {name: hr, address: 'unix:/a', shape: round}\n", []string{"8: rotators[0].shape: is \"round\"; it must be one of [overlapping activated replaced]"}},

		{"keys nowhere", sound + "jwks: {max_age: 10m}\n", []string{"7: jwks.address: is empty"}},
		{"keys kept too short", sound + "jwks: {address: ':1', max_age: 30s}\n", []string{"7: jwks.max_age: is 30s; it must lie between 1m0s and 24h0m0s"}},
		{"keys in plaintext elsewhere", sound + "jwks: {address: ':1', insecure_plaintext: true}\n", []string{"7: jwks.insecure_plaintext: plaintext is served on loopback only"}},
		{"half a certificate", sound + "jwks: {address: ':1', certificate_file: FILE}\n", []string{"7: jwks.certificate_file: goes together"}},
		{"no certificate", "listen: {address: 'localhost:0', insecure_plaintext: true}\nstore: {embedded: {file: a, key_file: b}}\njwks: {address: ':1'}\n", []string{"3: jwks.certificate_file: is required, because listen has none"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, "config.yaml", "")
			path = write(t, "config.yaml", strings.ReplaceAll(test.file+"audit: {insecure_off: true}\n", "FILE", path))
			got := command(t, "check-config", "--config", path)
			if len(test.want) == 0 {
				got.want(t, 0)
				return
			}
			got.want(t, 2)
			lines := strings.Split(strings.TrimSuffix(got.err.Error(), "\n"), "\n")
			if len(lines) != len(test.want) {
				t.Fatalf("problems:\n%v\nwant:\n%s", got.err, strings.Join(test.want, "\n"))
			}
			for i, want := range test.want {
				if !strings.HasPrefix(strings.TrimPrefix(lines[i], path+":"), want) {
					t.Errorf("problem %q, want %q", lines[i], want)
				}
			}
		})
	}
}

// TestOpenRotators has each by its name, and key pairs where keys are served.
func TestOpenRotators(t *testing.T) {
	path := setup(t, harness.UnusedAddress(t), true)
	cfg, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{}
	if all, err := s.openRotators(cfg); err != nil || len(all) != len(builtInRotators)-1 || all[keyPairRotator] != nil {
		t.Errorf("without public keys: %v, %v; want all that are built in but key pairs", all, err)
	}
	cfg.JWKS = jwksConfig{Address: "127.0.0.1:0", MaxAge: 10 * time.Minute}
	all, err := s.openRotators(cfg)
	if err != nil || all[keyPairRotator] == nil || all[keyPairRotator].Traits(broker.RotationSettings{}).Propagation < 10*time.Minute {
		t.Errorf("with public keys: %v, %v", all, err)
	}
}

// TestKeysAreServed serves the public keys on a listener of their own.
func TestKeysAreServed(t *testing.T) {
	path, address := setup(t, harness.UnusedAddress(t), false), harness.UnusedAddress(t)
	appendTo(t, path, "jwks: {address: '"+address+"', insecure_plaintext: true}\n")
	stop := serve(t, path)
	var body []byte
	var code int
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get("http://" + address + "/clients/nobody/jwks.json")
		if err == nil {
			body, _ = io.ReadAll(answer.Body)
			code = answer.StatusCode
			_ = answer.Body.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if code != http.StatusNotFound || json.Valid(body) {
		t.Errorf("answered %d %q for nobody", code, body)
	}
	got := stop()
	got.want(t, 0)
	if !strings.Contains(got.stderr, `"msg":"serving public keys","address":"`+address+`"`) {
		t.Errorf("the log is %s", got.stderr)
	}
}

// TestKeysAddressThatIsTaken ends the start.
func TestKeysAddressThatIsTaken(t *testing.T) {
	path := setup(t, harness.UnusedAddress(t), false)
	appendTo(t, path, "jwks: {address: '"+listenOn(t, "127.0.0.1:0").Addr().String()+"', insecure_plaintext: true}\n")
	command(t, "serve", "--config", path).want(t, 1, "jwks.address", "address already in use")
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(text)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}
