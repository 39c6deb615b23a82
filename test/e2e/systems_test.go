package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/zoo"
)

// system is one of package systems behind TLS, and a server of ours that trusts it.
type system struct {
	*node
	t      *testing.T
	origin string
	http   *http.Client
}

// systemAccess lets the caller have the tokens of users, and nothing else of theirs.
const systemAccess = `callers:
  - {name: crm, identities: ["` + callerIdentity + `"]}
  - {name: oncall, identities: ["` + operatorIdentity + `"]}
rules:
  - {callers: [crm], permissions: ["role:caller"], clients: ["*"], subjects: ["prefix:users/"]}
  - {callers: [oncall], permissions: ["role:operator"], clients: ["*"], subjects: ["*"]}
...
`

// newSystem starts both. The profiles are those of a user: name → YAML, with ORIGIN for the system's origin.
func newSystem(t *testing.T, handler http.Handler, profiles map[string]string) *system {
	t.Helper()
	needServers(t)
	served, err := zoo.Serve("127.0.0.1:0", false, handler)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = served.Close() })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(served.CA)
	site := newSite(t, nil, served.CA)
	site.config["store"] = embeddedStore(site.dir)
	site.addProfiles(t, served.Origin, profiles)
	delete(site.config, "callers")
	site.config["access"] = map[string]any{"file": site.write(t, "access.yaml", []byte(systemAccess))}
	s := &system{t: t, origin: served.Origin, http: &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	s.node = site.start(t, program(t))
	return s
}

// call sends a caller's request to the system's API and returns the status and the body.
func (s *system) call(path, token string) (int, string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.origin+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := s.http.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// wantStatus calls the API and demands a status.
func (s *system) wantStatus(what, path, token string, want int) {
	s.t.Helper()
	if got, body := s.call(path, token); got != want {
		s.t.Errorf("%s: the API says %d, want %d: %s", what, got, want, body)
	}
}

// renewed reports a token as refused, and demands another one with which the API's path opens. A token is replaced for such a report
// only once it is some seconds old, so that a mistake of a caller's costs the provider little.
func (s *system) renewed(client string, refused *pb.GetTokenResponse, path string) *pb.GetTokenResponse {
	s.t.Helper()
	var got *pb.GetTokenResponse
	eventually(s.t, time.Minute, "a token in place of the refused one", func() (err error) {
		got, err = s.caller.tokens.GetToken(s.t.Context(), &pb.GetTokenRequest{Client: client, RejectedTokenId: refused.GetTokenId()})
		if err == nil && got.GetTokenId() == refused.GetTokenId() {
			err = fmt.Errorf("it is the same one, with the warnings %v", got.GetWarnings())
		}
		return err
	})
	s.wantStatus("the token in place of the refused one", path, got.GetAccessToken(), http.StatusOK)
	return got
}

// addProfiles makes a folder of provider profiles.
func (s *site) addProfiles(t *testing.T, origin string, profiles map[string]string) {
	t.Helper()
	if len(profiles) == 0 {
		return
	}
	folder := filepath.Join(s.dir, "providers")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range profiles {
		s.write(t, filepath.Join("providers", name+".yaml"), []byte(strings.ReplaceAll(text, "ORIGIN", origin)))
	}
	s.config["providers"] = map[string]any{"dir": folder}
}
