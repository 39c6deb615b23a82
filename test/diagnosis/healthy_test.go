package diagnosis_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// healthy is a set-up of which the check must report no failure: slow or odd, but legal.
// Warnings are fine where they are true.
type healthy struct {
	name  string
	depth pb.LookupDepth
	// arrange makes the scene what it is.
	arrange func(*scene)
}

func healthyName(h healthy) string { return h.name }

// show has a set-up checked.
func (h healthy) show(t *testing.T, s *site, count *tally) {
	scene := newScene(t, s)
	h.arrange(scene)
	scene.register()
	h.judge(t, scene.run(h.depth), count)
}

func (h healthy) judge(t *testing.T, report *pb.CheckLookupResponse, count *tally) {
	t.Helper()
	if cause := report.GetRootCause(); cause != nil {
		count.falseAlarm()
		t.Errorf("a false alarm: %s at %s\n%s", cause.GetReason(), cause.GetStage(), report.GetReportText())
	}
}

// slowly waits before it answers.
func slowly(wait time.Duration, handler http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			handler.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}
}

// asBefore answers as the strict server does, and changes the answer.
func (s *scene) asBefore(change func(w http.ResponseWriter, r *http.Request)) {
	server := s.as.Server
	s.as.answer(func(w http.ResponseWriter, r *http.Request) {
		change(w, r)
		server.ServeHTTP(w, r)
	})
}

// opaque has the API take whatever token the hostile answers of this package give.
func (s *scene) opaque() {
	s.as.answerAPI(func(w http.ResponseWriter, r *http.Request) {
		if token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); strings.HasPrefix(token, canary) || strings.HasPrefix(token, "eyJ") {
			fixed(200, "application/json", `{"me":"`+canary+`"}`)(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", "Bearer")
		fixed(401, "application/json", `{}`)(w, r)
	})
}

// strictly gives an answer to whoever brings the right secret by Basic, and refuses others.
func (s *scene) strictly(contentType, body string, status int) {
	id, value := s.message.GetClientId(), s.value
	s.opaque()
	s.as.answer(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != url.QueryEscape(id) || password != url.QueryEscape(value) {
			fixed(401, "application/json", `{"error":"invalid_client"}`)(w, r)
			return
		}
		fixed(status, contentType, body)(w, r)
	})
}

// oddServer speaks JSON both ways, by names of its own, and answers 200 whatever comes of
// it, as testdata/providers/odd.yaml says.
func oddServer(id, value string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ AppID, AppSecret string }
		if json.NewDecoder(r.Body).Decode(&asked) != nil || asked.AppID != id || asked.AppSecret != value {
			fixed(200, "application/json", `{"ok":false,"code":"bad_app","msg":"who is it?"}`)(w, r)
			return
		}
		fixed(201, "application/json", `{"ok":true,"data":{"token":"`+canary+`","life":60000}}`)(w, r)
	}
}

// connectProxy is a proxy that makes tunnels.
func connectProxy(t *testing.T) (address string) {
	origin := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := net.Dial("tcp", r.Host)
		if r.Method != http.MethodConnect || err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer out.Close()
		in, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer in.Close()
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = io.Copy(out, in)
			_ = out.Close()
		}()
		_, _ = io.Copy(in, out)
		_ = in.Close()
		<-ended
	}), listening{plain: true})
	return "http" + strings.TrimPrefix(origin, "https")
}

var healthySetups = []healthy{
	{"nothing special", toAPI, func(*scene) {}},
	{"a slow server", toAPI, func(s *scene) { s.as.answer(slowly(time.Second, s.as.Server)) }},
	{"a token of 32 KiB", toAPI, func(s *scene) {
		s.strictly("application/json", `{"access_token":"`+canary+strings.Repeat("x", 32<<10)+`","token_type":"bearer","expires_in":600}`, 200)
	}},
	{"expires_in as a string", toAPI, func(s *scene) {
		s.strictly("application/json", `{"access_token":"`+canary+`","token_type":"BEARER","expires_in":"3599"}`, 200)
	}},
	{"an answer as a form", toAPI, func(s *scene) {
		s.strictly("application/x-www-form-urlencoded", "access_token="+canary+"&token_type=bearer&expires_in=3600", 200)
	}},
	{"JSON that calls itself text", toAPI, func(s *scene) { s.strictly("text/plain", bearer+"}", 200) }},
	{"JSON with a byte order mark", toAPI, func(s *scene) { s.strictly("application/json", "\ufeff"+bearer+"}", 200) }},
	{"members that nobody has heard of", toAPI, func(s *scene) {
		s.strictly("application/json", bearer+`,"not_before_policy":0,"instance_url":"https://x.test","nested":{"access_token":"`+canary+`"}}`, 200)
	}},
	{"an answer with 201", toAPI, func(s *scene) { s.strictly("application/json", bearer+"}", 201) }},
	{"a server with a form of its own, through a profile", toAPI, func(s *scene) {
		s.message.Provider = "odd"
		s.message.AuthenticationMethod = pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_POST
		s.opaque()
		s.as.answer(oddServer(s.message.GetClientId(), s.value))
	}},
	{"a JWT that says its own end", toAPI, func(s *scene) {
		part := base64.RawURLEncoding.EncodeToString
		jwt := part([]byte(`{"alg":"none"}`)) + "." + part(fmt.Appendf(nil, `{"exp":%d}`, time.Now().Add(time.Hour).Unix())) + "." + part([]byte(canary))
		s.strictly("application/json", `{"access_token":"`+jwt+`","token_type":"Bearer"}`, 200)
	}},
	{"a token without an end", toAPI, func(s *scene) {
		s.strictly("application/json", `{"access_token":"`+canary+`","token_type":"Bearer"}`, 200)
	}},
	{"more scopes than asked for", toAPI, func(s *scene) { s.strictly("application/json", bearer+`,"scope":"read write profile"}`, 200) }},
	{"a secret with every special character", toAPI, func(s *scene) {
		s.onlyBy(authserver.MethodBasic, s.value+"+/=:%&? ~ä€")
	}},
	{"secrets in the form alone", toAPI, func(s *scene) {
		s.message.AuthenticationMethod = pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_POST
		s.onlyBy(authserver.MethodPost, s.value)
	}},
	{"a private key, EdDSA", toAPI, func(s *scene) { s.byKey() }},
	{"IPv6 and nothing else", toAPI, func(s *scene) {
		names.set("six.test", "::1")
		s.elsewhereToo(listening{address: "[::1]:0", host: "six.test"})
	}},
	{"an address for a name", toAPI, func(s *scene) { s.elsewhereToo(listening{address: "[::1]:0"}) }},
	{"several addresses", toAPI, func(s *scene) {
		names.set("both.test", "127.0.0.1", "::1")
		s.elsewhereToo(listening{address: "[::]:0", host: "both.test"})
	}},
	{"a chain with an intermediate authority", toAPI, func(s *scene) {
		below, err := authority.Intermediate("Below")
		s.must(err)
		s.elsewhereToo(listening{signer: below})
	}},
	{"an authority of its own", toAPI, func(s *scene) {
		own, err := devpki.New("Own CA")
		s.must(err)
		s.elsewhereToo(listening{signer: own})
		s.then(func() {
			s.site = newSite(s.t, s.store, settings{upstream: func(cfg *oauth.Config) {
				cfg.RootCAs = x509.NewCertPool()
				cfg.RootCAs.AddCert(own.Certificate())
			}})
		})
	}},
	{"a proxy", toAPI, func(s *scene) { s.behind(connectProxy(s.t)) }},
	{"no Date, and a header that nobody knows", toAPI, func(s *scene) {
		s.asBefore(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			w.Header().Set("X-Odd", canary)
		})
	}},
	{"a clock ten minutes off, and secrets that do not care", toAPI, func(s *scene) {
		s.asBefore(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))
		})
	}},
	{"403 for what lacks credentials", toAPI, func(s *scene) {
		server := s.as.Server
		s.as.answer(func(w http.ResponseWriter, r *http.Request) {
			if _, value, _ := r.BasicAuth(); value != s.value {
				fixed(403, "application/json", `{"error":"access_denied"}`)(w, r)
				return
			}
			server.ServeHTTP(w, r)
		})
	}},
	{"an API that answers 204", toAPI, func(s *scene) {
		s.as.answerAPI(func(w http.ResponseWriter, r *http.Request) {
			if strings.Count(r.Header.Get("Authorization"), ".") == 2 {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.WriteHeader(http.StatusForbidden)
		})
	}},
	{"metadata that agrees", toAPI, func(s *scene) { s.metadata(func(map[string]any) {}) }},
	{"a user's grant, in use", toAPI, func(s *scene) {
		s.forUsers(&usersServer{})
		s.imported()
		s.then(func() { s.must(s.use()) })
	}},
	{"a user's grant, not used yet", toAPI, func(s *scene) {
		s.forUsers(&usersServer{})
		s.imported()
	}},
	{"one active token", toAPI, func(s *scene) { s.message.SingleActiveToken = true }},
	{"a bound on live tokens", toAPI, func(s *scene) { s.message.MaxLiveTokens = 3 }},
	{"a budget of tokens", toAPI, func(s *scene) {
		s.message.IssueBudget = &pb.IssueBudget{Tokens: 5, Period: durationpb.New(time.Hour)}
	}},
	{"a pending secret beside the current one", toAPI, func(s *scene) {
		s.then(func() {
			_, err := s.rotations.StageSecret(s.t.Context(), &pb.StageSecretRequest{Client: s.message.GetName(), Secret: clientSecret(newSecret())})
			s.must(err)
		})
	}},
	{"as a caller who may", toAPI, func(s *scene) {
		s.message.Name = "clients/reports-" + s.id()
		s.check.Client, s.check.Caller, s.check.Scopes = s.message.GetName(), "reports", []string{"read"}
	}},
	{"a sandbox, all of it", toAPI, func(s *scene) {
		names.set("sandbox-whole.example", "127.0.0.1")
		s.elsewhereToo(listening{host: "sandbox-whole.example"})
		s.message.Labels = map[string]string{"env": "staging"}
	}},
	{"a client_id that is an address", toAPI, func(s *scene) {
		s.message.ClientId = "reports@project.example.com"
		s.onlyBy("", s.value)
	}},
}

// elsewhereToo has an authorization server of its own at another listener, which knows
// itself by that address.
func (s *scene) elsewhereToo(l listening) {
	s.as = newUpstream(s.t, l, authserver.Client{ID: s.message.GetClientId(), Secrets: []secret.Value{text(s.value)}, Scopes: []string{"read", "write"}})
	s.at(s.as.origin)
}

// referencedSecret is a healthy set-up that needs a Vault.
func referencedSecret(t *testing.T, m *mount, count *tally) {
	scene := newScene(t, m.newVaultSite())
	m.refer(scene)
	healthy{name: "a secret that its owner keeps"}.judge(t, scene.run(toAPI), count)
}
