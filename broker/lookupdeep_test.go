package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const api = "https://api.example/me"

// probed is a broker whose authorization server, way and API say what a test wants.
type probed struct {
	*fixture
	// takes reports whether the server gives a token for a request.
	takes func(broker.TokenRequest) error
	// answer is what it then answers.
	answer broker.TokenResponse
	sights []broker.Sight
	// api answers for a token; "" is none.
	api func(token string) broker.APIAnswer

	mu      sync.Mutex
	asked   []broker.TokenRequest // guarded by mu
	called  []string              // guarded by mu
	revoked []string              // guarded by mu
}

// Reach implements broker.Prober.
func (p *probed) Reach(context.Context, broker.ReachTarget) []broker.Sight { return p.sights }

// CallAPI implements broker.Prober.
func (p *probed) CallAPI(_ context.Context, call broker.APICall) (broker.APIAnswer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.called = append(p.called, call.Token.RevealString())
	return p.api(call.Token.RevealString()), nil
}

func (p *probed) requestToken(_ context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	req.Secret = secret.NewString(req.Secret.RevealString()) // it is wiped
	p.asked = append(p.asked, req)
	if err := p.takes(req); err != nil {
		return broker.TokenResponse{}, err
	}
	answer := p.answer
	answer.SentTime, answer.TokenType = time.Now(), "Bearer"
	if answer.AccessToken.IsZero() {
		answer.AccessToken = secret.NewString(fmt.Sprintf("access-%d", len(p.asked)))
	}
	if answer.ExpiresIn == nil {
		answer.ExpiresIn = in(time.Hour)
	}
	return answer, nil
}

func (p *probed) revoke(_ context.Context, req broker.RevocationRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revoked = append(p.revoked, req.Token.RevealString())
	return nil
}

// refuse is what a server says to a credential that it does not take.
func refuse(reason broker.Reason) error {
	return &broker.Error{Reason: reason, Op: "request token", Detail: "answered 401"}
}

// strict takes the right secret by the client's method.
func strict(req broker.TokenRequest) error {
	if req.Secret.RevealString() == password && req.Authentication.Method == broker.ClientSecretBasic {
		return nil
	}
	return refuse(broker.ReasonClientRejected)
}

func newProbed(t *testing.T, edit func(*broker.Config)) *probed {
	t.Helper()
	p := &probed{takes: strict, api: func(token string) broker.APIAnswer {
		if strings.HasPrefix(token, "access-") {
			return broker.APIAnswer{Status: 200, Kind: "a JSON object"}
		}
		return broker.APIAnswer{Status: 401, Kind: "an empty body", Challenged: true}
	}}
	for _, stage := range []string{broker.StageDNS, broker.StageTCP, broker.StageTLS, broker.StageHTTP, broker.StageClock} {
		p.sights = append(p.sights, broker.Sight{Stage: stage, Evidence: []string{"seen"}, Duration: time.Millisecond})
	}
	memory := brokertest.NewMemory()
	p.fixture = open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.RequestToken, cfg.RevokeToken, cfg.Prober, cfg.WrongTries = p.requestToken, p.revoke, p, 2
		if edit != nil {
			edit(cfg)
		}
	})
	return p
}

func withAPI(n *broker.NewClient) {
	n.Upstream.APIEndpoint, n.Upstream.TokenDestinations = api, []string{"https://api.example"}
	n.Upstream.RevocationEndpoint = "https://as.example/revoke"
}

func (p *probed) walk(t *testing.T, depth broker.LookupDepth, edits ...func(*broker.LookupCheck)) broker.LookupReport {
	t.Helper()
	check := broker.LookupCheck{ClientID: "acme", Depth: depth, Permitted: broker.DepthAPI, Fresh: true}
	for _, edit := range edits {
		edit(&check)
	}
	report, err := p.CheckLookup(t.Context(), check)
	if err != nil {
		t.Fatalf("CheckLookup: %v", err)
	}
	if shown := text(report); strings.Contains(shown, password) || strings.Contains(shown, "access-") {
		t.Errorf("the report shows a secret:\n%s", shown)
	}
	return report
}

func stageOf(t *testing.T, report broker.LookupReport, name string) broker.LookupStage {
	t.Helper()
	i := slices.IndexFunc(report.Stages, func(s broker.LookupStage) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no stage %s in\n%s", name, text(report))
	}
	return report.Stages[i]
}

// TestDeepCheckOfAHealthyClient passes each stage and says what it cost.
func TestDeepCheckOfAHealthyClient(t *testing.T) {
	p := newProbed(t, nil)
	p.create(t, "acme", withAPI)
	report := p.walk(t, broker.DepthAPI)
	for _, s := range report.Stages {
		if s.Outcome != broker.OutcomePassed || s.Title == "" {
			t.Errorf("%s %s %s %q, want it passed", s.Name, s.Outcome, s.Reason, s.Evidence)
		}
	}
	if want := len(broker.LookupStages()) - 1; len(report.Stages) != want { // nobody's permission was asked about
		t.Errorf("%d stages, want %d", len(report.Stages), want)
	}
	want := broker.CheckCost{TokenRequests: 1, WrongTries: 2, WrongTriesLeft: 0, APICalls: 3}
	if report.Cost != want || len(p.asked) != 3 || len(p.called) != 3 {
		t.Errorf("cost = %+v with %d requests and %d calls, want %+v", report.Cost, len(p.asked), len(p.called), want)
	}
	for _, req := range p.asked[1:] {
		if req.Secret.RevealString() == password {
			t.Error("a wrong try had the right secret")
		}
	}
	// The token that was got is served: the check cost one request and spared one.
	if token := p.token(t, "acme"); token.Access.RevealString() != "access-1" || len(p.asked) != 3 {
		t.Errorf("served token %s after %d requests, want the check's", token.ID, len(p.asked))
	}
}

// TestDeepCheckNamesTheCause for what only asking can show.
func TestDeepCheckNamesTheCause(t *testing.T) {
	type test struct {
		name       string
		client     func(*broker.NewClient)
		break_     func(*probed)
		depth      broker.LookupDepth
		stage      string
		reason     broker.Reason
		confidence broker.Confidence
	}
	tests := []test{
		{"DNS", nil, func(p *probed) {
			p.sights = []broker.Sight{{Stage: broker.StageDNS, Err: refuse(broker.ReasonUpstreamDNS)}}
		}, broker.DepthToken, broker.StageDNS, broker.ReasonUpstreamDNS, broker.Proven},
		{"a login page", nil, func(p *probed) {
			p.sights = append(p.sights[:3], broker.Sight{Stage: broker.StageHTTP, Err: refuse(broker.ReasonUpstreamNotOAuth)})
		}, broker.DepthToken, broker.StageHTTP, broker.ReasonUpstreamNotOAuth, broker.Likely},
		{"wrong secret", nil, func(p *probed) {
			p.takes = func(broker.TokenRequest) error { return refuse(broker.ReasonClientRejected) }
		}, broker.DepthToken, broker.StageTokenRequest, broker.ReasonClientRejected, broker.Proven},
		{"wrong method", nil, func(p *probed) {
			p.takes = func(req broker.TokenRequest) error {
				if req.Authentication.Method == broker.ClientSecretPost && req.Secret.RevealString() == password {
					return nil
				}
				return refuse(broker.ReasonClientRejected)
			}
		}, broker.DepthToken, broker.StageTokenRequest, broker.ReasonAuthenticationMethodWrong, broker.Proven},
		{"client_id as secret", func(n *broker.NewClient) { n.Upstream.ClientID = password }, func(p *probed) {
			p.takes = func(broker.TokenRequest) error { return refuse(broker.ReasonClientRejected) }
		}, broker.DepthToken, broker.StageSecretFit, broker.ReasonSecretDoubtful, broker.Likely},
		{"sandbox and production", func(n *broker.NewClient) {
			n.Upstream.TokenEndpoint, n.Labels = "https://sandbox.as.example/token", map[string]string{"env": "production"}
			n.Upstream.RevocationEndpoint = ""
		}, func(p *probed) {
			p.takes = func(broker.TokenRequest) error { return refuse(broker.ReasonClientRejected) }
		}, broker.DepthToken, broker.StageSettings, broker.ReasonEndpointsMixed, broker.Likely},
		{"unknown refusal", nil, func(p *probed) {
			p.takes = func(broker.TokenRequest) error { return refuse(broker.ReasonUpstreamRefused) }
		}, broker.DepthToken, broker.StageTokenRequest, broker.ReasonUpstreamRefused, broker.Unknown},
		{"no secret needed", nil, func(p *probed) {
			p.takes = func(broker.TokenRequest) error { return nil }
		}, broker.DepthEnforcement, broker.StageNoSecret, broker.ReasonAuthenticationNotEnforced, broker.Proven},
		{"any secret will do", nil, func(p *probed) {
			p.takes = func(req broker.TokenRequest) error {
				if req.Authentication.Method == broker.NoAuthentication {
					return refuse(broker.ReasonClientRejected)
				}
				return nil
			}
		}, broker.DepthEnforcement, broker.StageWrongSecret, broker.ReasonAuthenticationNotEnforced, broker.Proven},
		{"the API refuses the token", nil, func(p *probed) {
			p.api = func(string) broker.APIAnswer { return broker.APIAnswer{Status: 401} }
		}, broker.DepthAPI, broker.StageAPIToken, broker.ReasonAPITokenRefused, broker.Proven},
		{"a permission is missing", nil, func(p *probed) {
			p.api = func(string) broker.APIAnswer { return broker.APIAnswer{Status: 403} }
		}, broker.DepthAPI, broker.StageAPIToken, broker.ReasonAPIPermissionMissing, broker.Proven},
		{"the API is open", nil, func(p *probed) {
			p.api = func(string) broker.APIAnswer { return broker.APIAnswer{Status: 200} }
		}, broker.DepthAPI, broker.StageAPINoToken, broker.ReasonAPINotEnforcing, broker.Proven},
		{"the API takes any token", nil, func(p *probed) {
			p.api = func(token string) broker.APIAnswer {
				if token == "" {
					return broker.APIAnswer{Status: 401}
				}
				return broker.APIAnswer{Status: 200}
			}
		}, broker.DepthAPI, broker.StageAPIWrongToken, broker.ReasonAPINotEnforcing, broker.Proven},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProbed(t, nil)
				p.create(t, "acme", withAPI, func(n *broker.NewClient) {
					if tt.client != nil {
						tt.client(n)
					}
				})
				tt.break_(p)
				report := p.walk(t, tt.depth)
				cause, _ := report.RootCause()
				if cause.Stage != tt.stage || cause.Reason != tt.reason || cause.Confidence != tt.confidence {
					t.Errorf("cause = %+v, want %s %s %s\n%s", cause, tt.stage, tt.reason, tt.confidence, text(report))
				}
				if tt.reason == broker.ReasonAuthenticationNotEnforced && len(p.revoked) != 1 {
					t.Errorf("%d tokens revoked, want the one that should not have been given", len(p.revoked))
				}
			})
		})
	}
}

// TestOddAnswersAreNoRefusal: only what says that a credential is not taken passes.
func TestOddAnswersAreNoRefusal(t *testing.T) {
	for _, reason := range []broker.Reason{broker.ReasonTokenTypeUnsupported, broker.ReasonUpstreamTLS, broker.ReasonUpstreamRedirected, broker.ReasonUpstreamRateLimited} {
		t.Run(string(reason), func(t *testing.T) {
			p := newProbed(t, nil)
			p.create(t, "acme")
			p.takes = func(req broker.TokenRequest) error {
				if req.Secret.RevealString() == password {
					return nil
				}
				return refuse(reason)
			}
			if s := stageOf(t, p.walk(t, broker.DepthEnforcement), broker.StageNoSecret); s.Outcome != broker.OutcomeWarned || s.Reason != reason {
				t.Errorf("%s %s, want it warned of %s", s.Outcome, s.Reason, reason)
			}
		})
	}
}

// TestCheckDoesNoHarm: what could do harm is not tried, and says so.
func TestCheckDoesNoHarm(t *testing.T) {
	tests := []struct {
		name   string
		client func(*broker.NewClient)
		stage  string
		asks   int
	}{
		{"single active token", func(n *broker.NewClient) {
			n.Upstream.SingleActiveToken, n.Upstream.AllowedAudiences = true, nil
		}, broker.StageTokenRequest, 0},
		{"live tokens", func(n *broker.NewClient) { n.Upstream.MaxLiveTokens = 10 }, broker.StageTokenRequest, 0},
		{"budget", func(n *broker.NewClient) {
			n.Upstream.IssueBudget = broker.IssueBudget{Tokens: 10, Period: time.Hour}
		}, broker.StageTokenRequest, 0},
		{"lock-out", func(n *broker.NewClient) { n.Upstream.Provider = "locks" }, broker.StageNoSecret, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProbed(t, func(cfg *broker.Config) { cfg.Providers = locking{} })
			p.create(t, "acme", withAPI, tt.client)
			report := p.walk(t, broker.DepthAPI)
			if s := stageOf(t, report, tt.stage); s.Outcome != broker.OutcomeSkipped || s.Reason != broker.ReasonCheckWouldHarm {
				t.Errorf("%s %s %s, want it skipped with %s", s.Name, s.Outcome, s.Reason, broker.ReasonCheckWouldHarm)
			}
			if s := stageOf(t, report, broker.StageWrongSecret); s.Outcome != broker.OutcomeSkipped || s.Reason != broker.ReasonCheckWouldHarm {
				t.Errorf("%s %s %s, want it skipped with %s", s.Name, s.Outcome, s.Reason, broker.ReasonCheckWouldHarm)
			}
			if len(p.asked) != tt.asks || report.Cost.WrongTries != 0 {
				t.Errorf("%d requests and %d wrong tries, want %d and none", len(p.asked), report.Cost.WrongTries, tt.asks)
			}
		})
	}
}

// locking knows one profile, of a provider that locks clients out.
type locking struct{}

func (locking) Provider(name string) (broker.Provider, bool) {
	return broker.Provider{Name: "locks", LocksOut: true}, name == "locks"
}
func (locking) Names() []string { return []string{"locks"} }
func (locking) Complete(*broker.Upstream, *broker.TokenPolicy, *broker.RotationSettings) []broker.FieldViolation {
	return nil
}

// TestWrongTriesAreCounted in the whole fleet, before they are made.
func TestWrongTriesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProbed(t, nil)
		p.create(t, "acme", withAPI)
		other := open(t, p.memory, brokertest.NewFaulty(p.memory), p.upstream, func(cfg *broker.Config) {
			cfg.RequestToken, cfg.Prober, cfg.WrongTries = p.requestToken, p, 2
		})
		if report := p.walk(t, broker.DepthEnforcement); report.Cost.WrongTries != 2 {
			t.Fatalf("%d wrong tries, want 2:\n%s", report.Cost.WrongTries, text(report))
		}
		deep := broker.LookupCheck{ClientID: "acme", Depth: broker.DepthEnforcement, Permitted: broker.DepthAPI, Fresh: true}
		report, err := other.CheckLookup(t.Context(), deep)
		if err != nil {
			t.Fatal(err)
		}
		if s := stageOf(t, report, broker.StageNoSecret); s.Outcome != broker.OutcomeSkipped || s.Reason != broker.ReasonCheckBudgetSpent {
			t.Errorf("on the other replica: %s %s, want it skipped with %s", s.Outcome, s.Reason, broker.ReasonCheckBudgetSpent)
		}
		time.Sleep(24*time.Hour + time.Second)
		if report := p.walk(t, broker.DepthEnforcement); report.Cost.WrongTries != 2 {
			t.Errorf("a day later %d wrong tries, want 2 again", report.Cost.WrongTries)
		}
		// A store that does not take the note gets no try.
		time.Sleep(25 * time.Hour)
		p.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Writing)
		before := len(p.asked)
		report = p.walk(t, broker.DepthEnforcement)
		if tried := len(p.asked) - before; tried > 1 || report.Cost.WrongTries != 0 {
			t.Errorf("%d requests without a note, want only the one with the right secret:\n%s", tried, text(report))
		}
	})
}

// TestCheckLiftsParking: a check that gets a token disproves a rejection.
func TestCheckLiftsParking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProbed(t, nil)
		p.create(t, "acme")
		p.takes = func(broker.TokenRequest) error { return refuse(broker.ReasonClientRejected) }
		_, _, err := p.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken", err, broker.ReasonClientRejected)
		p.takes = strict
		_, _, err = p.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken while parked", err, broker.ReasonClientRejected)
		p.walk(t, broker.DepthToken)
		p.token(t, "acme")
	})
}

// TestCheckTakesWhatWasJustSeen instead of asking again, and dates it.
func TestCheckTakesWhatWasJustSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProbed(t, nil)
		p.create(t, "acme")
		p.token(t, "acme")
		stale := func(c *broker.LookupCheck) { c.Fresh = false }
		report := p.walk(t, broker.DepthToken, stale)
		if s := stageOf(t, report, broker.StageTokenRequest); len(p.asked) != 1 || !strings.Contains(s.Evidence[0], "just now") {
			t.Errorf("%d requests, evidence %q, want the token of just now", len(p.asked), s.Evidence)
		}
		time.Sleep(time.Minute)
		if p.walk(t, broker.DepthToken, stale); len(p.asked) != 2 {
			t.Errorf("%d requests after a minute, want 2", len(p.asked))
		}
	})
}

// TestCheckForACaller reports the caller's permission as a stage, and stops there.
func TestCheckForACaller(t *testing.T) {
	p := newProbed(t, nil)
	p.create(t, "acme")
	report := p.walk(t, broker.DepthToken, func(c *broker.LookupCheck) {
		c.As = func(*broker.Client) error { return refuse(broker.ReasonCallerNotAllowed) }
	})
	if cause, _ := report.RootCause(); cause.Stage != broker.StageCaller || len(p.asked) != 0 {
		t.Errorf("cause = %+v after %d requests, want %s", cause, len(p.asked), broker.StageCaller)
	}
	report = p.walk(t, broker.DepthAPI, func(c *broker.LookupCheck) { c.Permitted = broker.DepthSecret })
	for _, s := range report.Stages {
		if deep := s.Name == broker.StageDNS || s.Name == broker.StageAPIToken; deep && s.Reason != broker.ReasonCheckNotPermitted {
			t.Errorf("%s %s %q, want it skipped with %s", s.Name, s.Outcome, s.Reason, broker.ReasonCheckNotPermitted)
		}
	}
	if len(p.asked) != 0 {
		t.Errorf("%d requests without the permission", len(p.asked))
	}
}

// TestNearMisses are offered to who may know them.
func TestNearMisses(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{"acme-crm", "acme-crn", "billing", "demo"} {
		f.create(t, id)
	}
	for asked, want := range map[string]string{"acme-cmr": "acme-crm, acme-crn", "acmecrm": "acme-crm", "zzzz": "", "biling": "billing", "dmo": "demo", "dmeo": "demo", "dm": ""} {
		report, err := f.CheckLookup(t.Context(), broker.LookupCheck{ClientID: asked, NearMisses: func(string) bool { return true }})
		if err != nil {
			t.Fatal(err)
		}
		s := stageOf(t, report, broker.StageIndex)
		got := strings.TrimPrefix(strings.Join(s.Evidence, " "), "near to it: ")
		names := strings.Split(got, ", ")
		slices.Sort(names)
		if got = strings.Join(names, ", "); got != want && !(asked == "acmecrm" && strings.Contains(got, want)) {
			t.Errorf("near to %s: %q, want %q", asked, got, want)
		}
	}
	hidden, _ := f.CheckLookup(t.Context(), broker.LookupCheck{ClientID: "acme-cmr", NearMisses: func(string) bool { return false }})
	if s := stageOf(t, hidden, broker.StageIndex); len(s.Evidence) != 0 {
		t.Errorf("names were told to who may not know them: %q", s.Evidence)
	}
}

// TestTokensThatEndEarly are recognised from what callers report as rejected.
func TestTokensThatEndEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProbed(t, nil)
		p.create(t, "acme")
		for range 4 {
			token := p.token(t, "acme")
			time.Sleep(10 * time.Minute)
			for range 3 { // many callers report one token
				_, _, err := p.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", RejectedTokenID: token.ID})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		s := stageOf(t, p.walk(t, broker.DepthToken), broker.StageTokenExpiry)
		if s.Reason != broker.ReasonTokensEndEarly || !strings.Contains(strings.Join(s.Evidence, " "), "were 10 min old") {
			t.Errorf("%s %s %q, want %s after 10 min", s.Outcome, s.Reason, s.Evidence, broker.ReasonTokensEndEarly)
		}
	})
}
