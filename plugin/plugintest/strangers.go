package plugintest

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
)

// testStrangers shows the rotator a certificate of somebody else's authority.
func testStrangers(r *run) {
	if r.Config.CAFile == "" {
		r.Skip("the subject speaks no TLS")
	}
	authority, err := devpki.New("stranger")
	if err != nil {
		r.Fatal(err)
	}
	certificate, key, err := authority.Caller("spiffe://stranger.example/tokenbroker")
	if err != nil {
		r.Fatal(err)
	}
	stranger, dir := r.Config, r.TempDir()
	stranger.CertificateFile, stranger.KeyFile = filepath.Join(dir, "stranger.pem"), filepath.Join(dir, "stranger-key.pem")
	if err := errors.Join(os.WriteFile(stranger.CertificateFile, certificate, 0o600), os.WriteFile(stranger.KeyFile, key, 0o600)); err != nil {
		r.Fatal(err)
	}
	call := r.begin(newToken())
	_, err = r.dial(stranger).Create(r.Context(), call)
	r.wantRefused("Create by a stranger", err, broker.ReasonUpstreamConnect)
	r.wantUntouched()
}
