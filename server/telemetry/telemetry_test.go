package telemetry_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/server/audit"
	"github.com/tokenbroker/tokenbroker/server/notify"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serveAt serves an admin listener on loopback and returns its address.
func serveAt(t *testing.T, admin *telemetry.Admin) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- admin.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return listener.Addr().String()
}

// serve returns the pages of an admin listener on loopback.
func serve(t *testing.T, admin *telemetry.Admin) (get func(path string) (int, string)) {
	t.Helper()
	address := serveAt(t, admin)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return func(path string) (int, string) {
		answer, err := client.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
}

// exercise makes every metric appear.
func exercise(t *testing.T, m *telemetry.Metrics) {
	t.Helper()
	m.RPC(telemetry.WarmMethod, "OK", "", time.Millisecond)
	m.RPC("/tokenbroker.v1.ClientService/GetClient", "NotFound", string(broker.ReasonClientNotFound), time.Millisecond)
	m.TokenServed(telemetry.ServedFromMemory)
	m.ObserveReady(func() bool { return true })
	m.ReloadFailing(telemetry.AccessTable, true)
	m.ObserveWebhooks(func() []notify.Status {
		return []notify.Status{{Webhook: "pager", Counts: map[notify.Outcome]int64{notify.Failed: 3}, Queued: 2}}
	})
	m.ObserveSecretExpiry(func() time.Time { return time.Now().Add(time.Hour) })
	m.ObserveCensus(func() broker.Census {
		return broker.Census{
			Time: time.Now().Add(-time.Minute), Clients: 7, Unreadable: 1, Stuck: 2, SecretExpiry: time.Now().Add(time.Hour),
			Rotations: map[broker.RotationState]int{broker.RotationCompleted: 4}, Unwell: map[broker.Reason]int{broker.ReasonSecretNotSet: 3},
		}
	})
	m.ObserveRotations(func() map[broker.RotationState]int64 {
		return map[broker.RotationState]int64{broker.RotationCompleted: 3, broker.RotationFailed: 0}
	}, func() int64 { return 5 })
	m.AuditEntry(audit.Allowed)
	m.ObserveAudit(func() audit.Status {
		return audit.Status{Lag: 2 * time.Second, Failing: map[string]bool{"stdout": true, "syslog": false}}
	})
	m.VaultLogin("approle", nil)
	m.VaultLogin("approle", &broker.Error{Reason: broker.ReasonStoreLoginFailed})
	m.ObserveVaultTokenExpiry(func() (time.Time, bool) { return time.Time{}, true })
	store := m.Store(brokertest.NewMemory())
	if _, err := store.Write(t.Context(), "meta", secret.NewString("{}"), 0); err != nil {
		t.Fatal(err)
	}
	_, _ = store.Read(t.Context(), "absent") // is counted as RECORD_ABSENT
	upstream := brokertest.NewUpstream()
	_, _ = m.RequestToken(upstream.RequestToken)(t.Context(), broker.TokenRequest{Endpoint: "https://a.example/t"}) // is counted as refused
}

var ownMetric = regexp.MustCompile(`(?m)^# TYPE (tokenbroker_\w+)`)

func TestMetricsAreThoseOfTheDocument(t *testing.T) {
	m := telemetry.New("v1")
	exercise(t, m)
	_, page := serve(t, &telemetry.Admin{Metrics: m, Ready: func() bool { return true }})("/metrics")
	document, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	names := func(pattern *regexp.Regexp, text string) []string {
		var list []string
		for _, match := range pattern.FindAllStringSubmatch(text, -1) {
			list = append(list, match[1])
		}
		slices.Sort(list)
		return list
	}
	got := names(ownMetric, page)
	want := names(regexp.MustCompile("(?m)^\\| `(tokenbroker_\\w+)` \\|"), string(document))
	if !slices.Equal(got, want) {
		t.Errorf("served: %v\ndocumented in docs/operations.md: %v", got, want)
	}
}

func TestCountsByReason(t *testing.T) {
	m := telemetry.New("v1")
	exercise(t, m)
	_, page := serve(t, &telemetry.Admin{Metrics: m, Ready: func() bool { return true }})("/metrics")
	for _, want := range []string{
		`tokenbroker_rpcs_total{code="OK",method="/tokenbroker.v1.TokenService/GetToken",reason=""} 1`,
		`tokenbroker_rpcs_total{code="NotFound",method="/tokenbroker.v1.ClientService/GetClient",reason="CLIENT_NOT_FOUND"} 1`,
		`tokenbroker_tokens_served_total{from="memory"} 1`,
		`tokenbroker_tokens_served_total{from="mint"} 0`,
		`tokenbroker_token_requests_total{reason="DESTINATION_NOT_BOUND"} 1`,
		`tokenbroker_store_calls_total{operation="write",reason="OK"} 1`,
		`tokenbroker_store_calls_total{operation="read",reason="RECORD_ABSENT"} 1`,
		`tokenbroker_audit_entries_total{outcome="allowed"} 1`,
		`tokenbroker_audit_entries_total{outcome="denied"} 0`,
		"tokenbroker_audit_lag_seconds 2",
		`tokenbroker_webhook_deliveries_total{outcome="failed",webhook="pager"} 3`,
		`tokenbroker_webhook_deliveries_total{outcome="delivered",webhook="pager"} 0`,
		`tokenbroker_webhook_queue_length{webhook="pager"} 2`,
		"tokenbroker_audit_sinks_failing 1",
		`tokenbroker_vault_logins_total{method="approle",outcome="OK"} 1`,
		`tokenbroker_vault_logins_total{method="approle",outcome="STORE_LOGIN_FAILED"} 1`,
		`tokenbroker_vault_token_expiry_seconds +Inf`,
		`tokenbroker_build_info{version="v1"} 1`,
		`tokenbroker_ready 1`,
		`tokenbroker_clients 7`,
		`tokenbroker_clients_unreadable 1`,
		`tokenbroker_clients_unwell{reason="SECRET_NOT_SET"} 3`,
		`tokenbroker_rotations_stuck 2`,
		`tokenbroker_client_rotations{state="completed"} 4`,
		`tokenbroker_client_rotations{state="needs_operator"} 0`,
		`tokenbroker_rotations_ended_total{state="completed"} 3`,
		`tokenbroker_rotations_ended_total{state="failed"} 0`,
		`tokenbroker_secret_values_swept_total 5`,
		`tokenbroker_reload_failing{what="access_table"} 1`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestCensusThatIsNotKnown(t *testing.T) {
	m := telemetry.New("")
	m.ObserveCensus(func() broker.Census { return broker.Census{} })
	_, page := serve(t, &telemetry.Admin{Metrics: m, Ready: func() bool { return true }})("/metrics")
	for _, want := range []string{"tokenbroker_client_secret_expiry_seconds +Inf", "tokenbroker_census_age_seconds +Inf", "tokenbroker_clients 0"} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestVaultTokenExpiry(t *testing.T) {
	tests := []struct {
		name     string
		left     time.Duration // 0: no end
		byItself bool
		want     string // pattern of the value
	}{
		{"never ends", 0, false, `\+Inf`},
		{"is renewed", time.Hour, true, `\+Inf`},
		{"ends", time.Hour, false, `35\d\d\.\d+`},
		{"has ended", -time.Hour, false, `-36\d\d\.\d+`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := telemetry.New("")
			m.ObserveVaultTokenExpiry(func() (time.Time, bool) {
				if test.left == 0 {
					return time.Time{}, test.byItself
				}
				return time.Now().Add(test.left), test.byItself
			})
			_, page := serve(t, &telemetry.Admin{Metrics: m, Ready: func() bool { return true }})("/metrics")
			if want := regexp.MustCompile(`(?m)^tokenbroker_vault_token_expiry_seconds ` + test.want + `$`); !want.MatchString(page) {
				t.Errorf("/metrics has no line like %s", want)
			}
		})
	}
}

func TestPages(t *testing.T) {
	ready := false
	get := serve(t, &telemetry.Admin{Metrics: telemetry.New("v1"), Ready: func() bool { return ready }})
	tests := []struct {
		name, path string
		ready      bool
		want       int
	}{
		{"alive while the store is not read", "/livez", false, 200},
		{"not ready", "/readyz", false, 503},
		{"ready", "/readyz", true, 200},
		{"profiles", "/debug/pprof/goroutine?debug=1", true, 200},
		{"no command line", "/debug/pprof/cmdline", true, 404},
		{"nothing else", "/", true, 404},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ready = test.ready
			if got, _ := get(test.path); got != test.want {
				t.Errorf("GET %s = %d, want %d", test.path, got, test.want)
			}
		})
	}
}

func TestStorePassesTheSuite(t *testing.T) {
	brokertest.TestStore(t, func(*testing.T) broker.Store { return telemetry.New("").Store(brokertest.NewMemory()) })
}
