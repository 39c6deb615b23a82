package oauth_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

func TestMain(m *testing.M) {
	// net/http keeps a connection for half a second after a body that it did not read.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// canary marks every secret of these tests: no error may have it in any spelling.
const canary = "canary-7f3a9c/+%=~!: ü\""

// serve runs a token endpoint with TLS, and returns a client that trusts it.
func serve(t *testing.T, handler http.HandlerFunc, change ...func(*httptest.Server, *oauth.Config)) (*oauth.Client, *httptest.Server) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	cfg := oauth.Config{AllowHTTPLoopback: true, Timeout: 5 * time.Second}
	for _, c := range change {
		c(server, &cfg)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	if cfg.RootCAs == nil {
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AddCert(server.Certificate())
	}
	client := oauth.New(cfg)
	t.Cleanup(client.Close)
	return client, server
}

func timeout(d time.Duration) func(*httptest.Server, *oauth.Config) {
	return func(_ *httptest.Server, cfg *oauth.Config) { cfg.Timeout = d }
}

// answer returns a handler that always answers so; headers are name and value in turn.
func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// tokenRequest is a good request to the server by HTTP Basic.
func tokenRequest(server *httptest.Server) broker.TokenRequest {
	return requestTo(server.URL + "/token")
}

func requestTo(endpoint string) broker.TokenRequest {
	origin, err := broker.Origin(endpoint)
	if err != nil {
		panic(err)
	}
	return broker.TokenRequest{
		Endpoint: endpoint, Destinations: []string{origin}, ClientID: "reports", Secret: secret.NewString(canary),
		Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
	}
}

// wantReason checks reason and text of an error, and that it gives nothing away.
func wantReason(t *testing.T, err error, reason broker.Reason, text string) *broker.Error {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) {
		t.Fatalf("error = %v, want a *broker.Error with %s", err, reason)
	}
	if e.Reason != reason {
		t.Errorf("error = %v, want reason %s", err, reason)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error = %v, want %q in it", err, text)
	}
	wantNoCanary(t, err)
	return e
}

// wantNoCanary looks at everything that can be printed of an error and its causes.
func wantNoCanary(t *testing.T, err error) {
	t.Helper()
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s"} {
			text := strings.ToLower(fmt.Sprintf(verb, cause))
			for _, piece := range []string{"canary", "7f3a9c", "y2fuyxj5", "63616e617279"} {
				if strings.Contains(text, piece) {
					t.Errorf("%s of the error has %q: %s", verb, piece, text)
				}
			}
		}
	}
}
