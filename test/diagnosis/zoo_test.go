package diagnosis_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/zoo"
)

// TestZoo has the quirks of the field checked, each through its profile: a check finds
// fault where a caller gets no token, and nowhere else.
func TestZoo(t *testing.T) {
	animals := zoo.New()
	origin := serve(t, http.HandlerFunc(animals.ServeHTTP), listening{})
	folder := t.TempDir()
	var quirks []zoo.Quirk
	for _, quirk := range zoo.Quirks() {
		if quirk.Grant != "" && quirk.Grant != "client_credentials" {
			continue // a check spends no grant of a user
		}
		if quirk.Name == "never-answers" {
			continue // the catalogue has one, which does not have to be waited for three times
		}
		quirks = append(quirks, quirk)
		if err := os.WriteFile(filepath.Join(folder, "zoo-"+quirk.Name+".yaml"), []byte(quirk.Definition(origin)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	profiles, err := profile.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, embeddedStore(t), settings{
		upstream: func(cfg *oauth.Config) { cfg.Profiles = profiles },
		broker:   func(cfg *broker.Config) { cfg.Providers = profiles },
	})
	together(t, quirks, func(q zoo.Quirk) string { return q.Name }, func(t *testing.T, q zoo.Quirk) { visit(t, s, q) })
}

// visit compares what a check says of a quirk with what a caller gets.
func visit(t *testing.T, s *site, q zoo.Quirk) {
	value := q.Secret
	if value == "" {
		value = zoo.ClientSecret
	}
	name := "clients/" + strings.ReplaceAll("zoo-"+q.Name, "_", "-")
	_, err := s.clients.CreateClient(t.Context(), &pb.CreateClientRequest{
		Client: &pb.Client{Name: name, Provider: "zoo-" + q.Name, ClientId: zoo.ClientID}, Secret: clientSecret(value),
	})
	if err != nil {
		t.Fatalf("create the client: %v", err)
	}
	report, err := s.diagnostics.CheckLookup(t.Context(), &pb.CheckLookupRequest{Client: name, Depth: token, ReportFormat: pb.ReportFormat_REPORT_FORMAT_TEXT})
	if err != nil {
		t.Fatal(err)
	}
	requireSound(t, report)
	got, cause := s.reasonOf(t.Context(), name), report.GetRootCause()
	if (got == "") != (cause == nil) {
		t.Errorf("a caller gets %q, the check says %q: %s\n%s", got, cause.GetReason(), q.Sends, report.GetReportText())
	}
}

// reasonOf is why a caller gets no token; "" if it gets one.
func (s *site) reasonOf(ctx context.Context, client string) string {
	_, err := s.tokens.GetToken(ctx, &pb.GetTokenRequest{Client: client})
	if err == nil {
		return ""
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return err.Error()
}
