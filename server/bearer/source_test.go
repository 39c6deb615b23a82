package bearer_test

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// TestFile: a file is taken whole or not at all.
func TestFile(t *testing.T) {
	k := testKeys()
	synctest.Test(t, func(t *testing.T) {
		var path string
		v := withFile(t, jwkSet(t, jwk(k.rsa.Public(), "rsa")), func(i *bearer.Issuer) { path, i.MaxStale = i.JWKSFile, time.Hour })
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- v.Run(ctx) }()
		old := goodToken(t)
		id := wantGood(t, v, old)

		whole := jwkSet(t, jwk(k.otherRSA.Public(), "new"))
		for _, half := range []string{whole[:len(whole)/2], "", whole[:len(whole)-1]} {
			writeFile(t, path, half)
			time.Sleep(2 * time.Second)
			wantGood(t, v, old)
			wantGood(t, v, goodToken(t))
			if v.Status()[0].Err == nil {
				t.Error("nobody is told that the file cannot be used")
			}
		}
		writeFile(t, path, whole)
		time.Sleep(31 * time.Second)
		wantRefused(t, v, old, bearer.UnknownKey)
		wantGood(t, v, compact(t, rs256Header().with(members{"kid": "new"}), goodClaims(), withRSA(t, k.otherRSA)))
		if v.Valid(id) || v.Status()[0].Err != nil {
			t.Errorf("got %v, %+v", v.Valid(id), v.Status()[0])
		}

		// As Kubernetes does it: a link is put in the place of another.
		dir := filepath.Dir(path)
		writeFile(t, filepath.Join(dir, "next.json"), jwkSet(t, jwk(k.rsa.Public(), "rsa")))
		if err := os.Symlink("next.json", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "link"), path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		wantGood(t, v, old)

		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Minute)
		wantGood(t, v, old)
		time.Sleep(11 * time.Minute)
		wantRefused(t, v, old, bearer.Expired)
		wantRefused(t, v, goodToken(t), bearer.KeysUnavailable)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestFileChangedWithinATick: a change that leaves no trace in the file's stamp is seen.
func TestFileChangedWithinATick(t *testing.T) {
	k := testKeys()
	synctest.Test(t, func(t *testing.T) {
		first, second := jwkSet(t, jwk(k.rsa.Public(), "rsa")), jwkSet(t, jwk(k.otherRSA.Public(), "new"))
		if len(first) != len(second) {
			t.Fatalf("the sets have %d and %d bytes, want the same", len(first), len(second))
		}
		tick := time.Now().Add(500 * time.Millisecond)
		var path string
		v := withFile(t, first, func(i *bearer.Issuer) {
			path = i.JWKSFile
			if err := os.Chtimes(path, tick, tick); err != nil {
				t.Fatal(err)
			}
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- v.Run(ctx) }()
		time.Sleep(time.Second)
		writeFile(t, path, second)
		if err := os.Chtimes(path, tick, tick); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		wantRefused(t, v, goodToken(t), bearer.UnknownKey)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// server runs an issuer with TLS, and gives the file of its certificate.
func server(t *testing.T, handler http.Handler) (*httptest.Server, string) {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	path := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return s, path
}

// running returns a verifier of one issuer that runs on the network.
func running(t *testing.T, issuer bearer.Issuer) *bearer.Verifier {
	t.Helper()
	if issuer.Audiences == nil {
		issuer.Audiences = []string{audience}
	}
	if issuer.Algorithms == nil {
		issuer.Algorithms = everyAlgorithm
	}
	v, err := bearer.New(bearer.Config{Issuers: []bearer.Issuer{issuer}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return v
}

// eventually verifies until the first fetch has ended: Run begins in its own time.
func eventually(t *testing.T, v *bearer.Verifier) {
	t.Helper()
	for v.Status()[0].Generation == 0 && v.Status()[0].Err == nil {
		if t.Context().Err() != nil {
			t.Fatal("no fetch ended")
		}
		claims := goodClaims().with(members{"iss": v.Status()[0].Issuer})
		_, _ = v.Verify(t.Context(), compact(t, rs256Header(), claims, withRSA(t, testKeys().rsa))) // waits for the fetch under way
	}
}

func TestRealTLS(t *testing.T) {
	other, _ := server(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	tokenFile := filepath.Join(t.TempDir(), "token")
	writeFile(t, tokenFile, "canary-token\n")
	s, caFile := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/keys":
			serving(jwkSet(t))(w, r)
		case "/redirect":
			http.Redirect(w, r, other.URL+"/keys", http.StatusFound)
		case "/home":
			http.Redirect(w, r, "/keys", http.StatusFound)
		case "/authorized":
			if r.Header.Get("Authorization") != "Bearer canary-token" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			serving(jwkSet(t))(w, r)
		}
	}))
	garbled, garbledCA := server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(connection, "HTTP/1.1 canary\r\n\r\n")
		_ = connection.Close()
	}))
	tests := []struct {
		name   string
		issuer bearer.Issuer
		want   string // in the error; "" for a good one
	}{
		{"good", bearer.Issuer{JWKSURL: s.URL + "/keys", CAFile: caFile}, ""},
		{"with our token", bearer.Issuer{JWKSURL: s.URL + "/authorized", CAFile: caFile, TokenFile: tokenFile}, ""},
		{"without our token", bearer.Issuer{JWKSURL: s.URL + "/authorized", CAFile: caFile}, "answered 403"},
		{"our token is not there", bearer.Issuer{JWKSURL: s.URL + "/authorized", CAFile: caFile, TokenFile: tokenFile + "2"}, "no such file"},
		{"unknown authority", bearer.Issuer{JWKSURL: s.URL + "/keys"}, "certificate"},
		{"redirect to another host", bearer.Issuer{JWKSURL: s.URL + "/redirect", CAFile: caFile}, "answered 302"},
		{"redirect within", bearer.Issuer{JWKSURL: s.URL + "/home", CAFile: caFile}, "answered 302"},
		{"garbled", bearer.Issuer{JWKSURL: garbled.URL, CAFile: garbledCA}, "broke off"},
		{"nobody there", bearer.Issuer{JWKSURL: "https://127.0.0.1:1/keys", CAFile: caFile}, "cannot connect"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.issuer.Issuer = issuerName
			v := running(t, test.issuer)
			eventually(t, v)
			if test.want == "" {
				wantGood(t, v, goodToken(t))
				return
			}
			if refused := wantRefused(t, v, goodToken(t), bearer.KeysUnavailable); !strings.Contains(refused.Error(), test.want) {
				t.Errorf("got %v, want %q in it", refused, test.want)
			}
		})
	}
}

// TestTokenStaysHome: our own token goes to the issuer's origin only.
func TestTokenStaysHome(t *testing.T) {
	tokenFile := filepath.Join(t.TempDir(), "token")
	writeFile(t, tokenFile, "canary-token")
	sent := make(map[string]string)
	inWorld(t, func(w http.ResponseWriter, r *http.Request) {
		sent[r.URL.Host] = r.Header.Get("Authorization")
		if r.URL.Host == "issuer.example" {
			serving(`{"issuer":"`+issuerName+`","jwks_uri":"https://keys.example/k"}`)(w, r)
			return
		}
		serving(jwkSet(t))(w, r)
	}, func(t *testing.T, w *world) {
		wantGood(t, w.Verifier, goodToken(t))
		if sent["issuer.example"] != "Bearer canary-token" || sent["keys.example"] != "" {
			t.Errorf("sent %q", sent)
		}
	}, func(i *bearer.Issuer) { i.JWKSURL, i.Discovery, i.TokenFile = "", true, tokenFile })
}

// TestKeysThatWantOurTokenElsewhere: the API server of Kubernetes names the address of a
// node in its discovery document, and refuses whoever shows no token there.
func TestKeysThatWantOurTokenElsewhere(t *testing.T) {
	tokenFile := filepath.Join(t.TempDir(), "token")
	writeFile(t, tokenFile, "canary-token")
	inWorld(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Host == "issuer.example":
			serving(`{"issuer":"`+issuerName+`","jwks_uri":"https://192.0.2.2:6443/openid/v1/jwks"}`)(w, r)
		case r.Header.Get("Authorization") == "":
			w.WriteHeader(http.StatusForbidden)
		default:
			serving(jwkSet(t))(w, r)
		}
	}, func(t *testing.T, w *world) {
		refused := wantRefused(t, w.Verifier, goodToken(t), bearer.KeysUnavailable)
		for _, want := range []string{"403 Forbidden", "was not sent", "set jwks_url"} {
			if !strings.Contains(refused.Error(), want) {
				t.Errorf("got %v, want %q in it", refused, want)
			}
		}
	}, func(i *bearer.Issuer) { i.JWKSURL, i.Discovery, i.TokenFile = "", true, tokenFile })
}

// TestPlaintextLoopback: http is for loopback, and only if it was asked for.
func TestPlaintextLoopback(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(serving(jwkSet(t))))
	t.Cleanup(s.Close)
	v := running(t, bearer.Issuer{Issuer: issuerName, JWKSURL: s.URL, InsecureHTTPLoopback: true})
	eventually(t, v)
	wantGood(t, v, goodToken(t))
}
