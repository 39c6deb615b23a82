package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// TestAuthorizationInTheConfiguration has what can be wrong with the callback.
func TestAuthorizationInTheConfiguration(t *testing.T) {
	const url = "callback_url: 'https://broker.example/cb'"
	tests := []struct {
		name, file string
		want       []string
	}{
		{"sound", sound + "authorization: {" + url + ", callback_listen: ':7446'}\n", nil},
		{"own certificate", sound + "authorization: {" + url + ", callback_listen: ':7446', certificate_file: FILE, key_file: FILE}\n", nil},
		{"behind a proxy", sound + "authorization: {" + url + ", callback_listen: 'localhost:7446', insecure_plaintext: true}\n", nil},
		{"for development", sound + "authorization: {callback_url: 'http://127.0.0.1:7446/cb', callback_listen: '127.0.0.1:7446', insecure_plaintext: true}\n", nil},
		{"no URL", sound + "authorization: {callback_listen: ':7446'}\n", []string{"authorization.callback_url: is empty"}},
		{"no address", sound + "authorization: {" + url + "}\n", []string{"authorization.callback_listen: is \"\""}},
		{"http", sound + "authorization: {callback_url: 'http://broker.example/cb', callback_listen: ':1'}\n", []string{"authorization.callback_url: must be https"}},
		{"http elsewhere", sound + "authorization: {callback_url: 'http://broker.example/cb', callback_listen: 'localhost:1', insecure_plaintext: true}\n", []string{"authorization.callback_url: must be https"}},
		{"query", sound + "authorization: {callback_url: 'https://broker.example/cb?a=b', callback_listen: ':1'}\n", []string{"authorization.callback_url: is no absolute URL"}},
		{"no path", sound + "authorization: {callback_url: 'https://broker.example', callback_listen: ':1'}\n", []string{"authorization.callback_url: has no path"}},
		{"plaintext elsewhere", sound + "authorization: {" + url + ", callback_listen: ':1', insecure_plaintext: true}\n", []string{"authorization.insecure_plaintext: plaintext is served on loopback only"}},
		{"half a certificate", sound + "authorization: {" + url + ", callback_listen: ':1', certificate_file: FILE}\n", []string{"authorization.certificate_file: goes together"}},
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
			for _, want := range test.want {
				if !strings.Contains(got.err.Error(), want) {
					t.Errorf("problems %v, want %q", got.err, want)
				}
			}
		})
	}
}

// TestCallbackIsServed serves the callback on a listener of its own.
func TestCallbackIsServed(t *testing.T) {
	path, address := setup(t, harness.UnusedAddress(t), false), harness.UnusedAddress(t)
	appendTo(t, path, "authorization: {callback_url: 'http://"+address+"/cb', callback_listen: '"+address+"', insecure_plaintext: true}\n")
	stop := serve(t, path)
	var body []byte
	var code int
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get("http://" + address + "/cb?state=forged&code=c")
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
	if code != http.StatusBadRequest || !strings.Contains(string(body), "STATE_INVALID") {
		t.Errorf("answered %d %q", code, body)
	}
	got := stop()
	got.want(t, 0)
	if strings.Contains(got.stderr, "forged") {
		t.Errorf("the log has the state: %s", got.stderr)
	}
}

// TestCallbackAddressThatIsTaken ends the start.
func TestCallbackAddressThatIsTaken(t *testing.T) {
	path := setup(t, harness.UnusedAddress(t), false)
	taken := listenOn(t, "127.0.0.1:0").Addr().String()
	appendTo(t, path, "authorization: {callback_url: 'http://"+taken+"/cb', callback_listen: '"+taken+"', insecure_plaintext: true}\n")
	command(t, "serve", "--config", path).want(t, 1, "authorization.callback_listen", "address already in use")
}
