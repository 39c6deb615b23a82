package server_test

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

const (
	operatorIdentity = "spiffe://example.org/operator"
	callerIdentity   = "spiffe://example.org/crm"
)

// overSockets returns a world behind mutual TLS on a loopback socket, and an
// operator's connection to it.
func overSockets(t *testing.T) (w *world, a *authority, operator *peer) {
	t.Helper()
	a = newAuthority(t)
	files := a.serverFiles(t)
	w = newWorld(t, setup{tls: &files, socket: true, callers: []server.Caller{
		{Name: "operator", Identity: operatorIdentity, Role: server.RoleOperator},
		{Name: "crm", Identity: callerIdentity, Role: server.RoleCaller},
	}})
	return w, a, w.connectTLS(t, a, a.caller(t, operatorIdentity))
}

// fullClient sets every field that a client can have.
func fullClient(id string) *pb.Client {
	return &pb.Client{
		Name: "clients/" + id, Labels: map[string]string{"team": "crm"},
		TokenEndpoint: endpoint, ClientId: id + "-at-provider",
		AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_JWT,
		Assertion:            &pb.AssertionSettings{SigningAlgorithm: "ES256", KeyId: "key-1", Audience: "https://auth.example.com"},
		DefaultScopes:        []string{"read"}, AllowedScopes: []string{"write"},
		Audience: "https://api.example.com", AllowedAudiences: []string{"https://other.example.com"},
		Resources: []string{"https://api.example.com/a"}, AllowedResources: []string{"https://api.example.com/b"},
		Parameters:         map[string]string{"tenant": "t1"},
		RevocationEndpoint: "https://auth.example.com/revoke",
		IssueBudget:        &pb.IssueBudget{Tokens: 10, Period: durationpb.New(time.Hour)}, MaxLiveTokens: 5,
		TokenPolicy: &pb.TokenPolicy{MinValidity: durationpb.New(20 * second), AssumedLifetime: durationpb.New(time.Hour), RequireAllScopes: true},
		GrantType:   pb.GrantType_GRANT_TYPE_AUTHORIZATION_CODE, Issuer: "https://auth.example.com",
		AuthorizationEndpoint: "https://login.example.com/authorize?prompt=consent", DeviceAuthorizationEndpoint: "https://auth.example.com/device",
		IntrospectionEndpoint: "https://auth.example.com/introspect", RefreshEndpoint: "https://auth.example.com/refresh",
	}
}

// settingsOf returns the fields of c that a peer sets.
func settingsOf(c *pb.Client) *pb.Client {
	settings := proto.CloneOf(c)
	settings.Uid, settings.Etag, settings.State, settings.SecretVersions = "", "", 0, nil
	settings.CreateTime, settings.UpdateTime, settings.DeleteTime, settings.MinSecretVersion = nil, nil, nil, 0
	return settings
}

func TestClientLifeOverMTLS(t *testing.T) {
	_, _, operator := overSockets(t)
	expire := time.Now().Add(24 * time.Hour).Truncate(time.Second)
	key := &pb.SecretInput{Value: &pb.SecretInput_PrivateKey{PrivateKey: string(keyPEM(t, newKey(t)))}, ExpireTime: timestamppb.New(expire)}

	created, err := operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: fullClient("acme"), Secret: key, RequestId: "create-1"})
	if err != nil {
		t.Fatal(err)
	}
	c := created.GetClient()
	if got, want := settingsOf(c), fullClient("acme"); !proto.Equal(got, want) {
		t.Errorf("created client:\ngot  %v\nwant %v", got, want)
	}
	if c.GetUid() == "" || c.GetEtag() == "" || c.GetState() != pb.ClientState_CLIENT_STATE_ACTIVE || c.GetCreateTime() == nil || c.GetUpdateTime() == nil || c.GetDeleteTime() != nil {
		t.Errorf("created client has unset or wrong output fields: %v", c)
	}
	versions := c.GetSecretVersions()
	if len(versions) != 1 {
		t.Fatalf("got %d secret versions, want 1", len(versions))
	}
	v := versions[0]
	if v.GetNumber() != 1 || v.GetStage() != pb.SecretStage_SECRET_STAGE_CURRENT || !v.GetExpireTime().AsTime().Equal(expire) || v.GetPromoteTime() == nil || v.GetVerifyTime() != nil {
		t.Errorf("got version %v, want number 1, current, promoted, not verified, expiring at %v", v, expire)
	}
	if got, want := v.GetBoundDestinations(), []string{"https://auth.example.com"}; !slices.Equal(got, want) {
		t.Errorf("got bound destinations %q, want %q", got, want)
	}

	again, err := operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: fullClient("acme"), Secret: key, RequestId: "create-1"})
	if err != nil || !proto.Equal(again.GetClient(), c) {
		t.Errorf("repeated CreateClient: got %v, %v, want the same client", again, err)
	}
	got, err := operator.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/acme"})
	if err != nil || !proto.Equal(got.GetClient(), c) {
		t.Errorf("GetClient: got %v, %v, want the created client", got, err)
	}

	disabled, err := operator.clients.DisableClient(t.Context(), &pb.DisableClientRequest{Name: "clients/acme"})
	requireState(t, disabled.GetClient(), err, pb.ClientState_CLIENT_STATE_DISABLED)
	enabled, err := operator.clients.EnableClient(t.Context(), &pb.EnableClientRequest{Name: "clients/acme"})
	requireState(t, enabled.GetClient(), err, pb.ClientState_CLIENT_STATE_ACTIVE)
	deleted, err := operator.clients.DeleteClient(t.Context(), &pb.DeleteClientRequest{Name: "clients/acme", Etag: enabled.GetClient().GetEtag()})
	requireState(t, deleted.GetClient(), err, pb.ClientState_CLIENT_STATE_DELETED)
	if deleted.GetClient().GetDeleteTime() == nil {
		t.Error("a deleted client has no delete_time")
	}
	undeleted, err := operator.clients.UndeleteClient(t.Context(), &pb.UndeleteClientRequest{Name: "clients/acme"})
	requireState(t, undeleted.GetClient(), err, pb.ClientState_CLIENT_STATE_ACTIVE)
	if got, want := settingsOf(undeleted.GetClient()), fullClient("acme"); !proto.Equal(got, want) {
		t.Errorf("undeleted client:\ngot  %v\nwant %v", got, want)
	}
}

func requireState(t *testing.T, c *pb.Client, err error, want pb.ClientState) {
	t.Helper()
	if err != nil || c.GetState() != want {
		t.Fatalf("got state %v, %v, want %v", c.GetState(), err, want)
	}
}

func TestUpdateClientWithASecretChangesMethodAndOrigin(t *testing.T) {
	w := newWorld(t, setup{})
	before := w.register(t, w.peer, "acme")
	w.upstream.Register("acme-at-provider", "secret-2")
	moved := &pb.Client{
		Name: "clients/acme", Etag: before.GetEtag(), TokenEndpoint: "https://elsewhere.example.com/token",
		AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_POST,
	}
	response, err := w.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{
		Client: moved, Secret: clientSecret("secret-2"), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"token_endpoint", "authentication_method"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := response.GetClient()
	if c.GetTokenEndpoint() != moved.GetTokenEndpoint() || c.GetAuthenticationMethod() != moved.GetAuthenticationMethod() || c.GetClientId() != before.GetClientId() {
		t.Errorf("got %v, want the new endpoint and method and the old client_id", c)
	}
	versions := c.GetSecretVersions()
	if len(versions) != 2 || versions[0].GetStage() != pb.SecretStage_SECRET_STAGE_PREVIOUS || versions[1].GetStage() != pb.SecretStage_SECRET_STAGE_CURRENT {
		t.Fatalf("got versions %v, want 1 previous and 2 current", versions)
	}
	if got, want := versions[1].GetBoundDestinations(), []string{"https://elsewhere.example.com"}; !slices.Equal(got, want) {
		t.Errorf("got bound destinations %q, want %q", got, want)
	}
	token, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
	if err != nil || token.GetSecretVersion() != 2 {
		t.Errorf("got token %v, %v, want one of secret version 2", token, err)
	}
}

func TestListClients(t *testing.T) {
	w := newWorld(t, setup{})
	for _, id := range []string{"a-1", "a-2", "a-3", "b-1"} {
		w.register(t, w.peer, id, func(c *pb.Client) { c.Labels = map[string]string{"letter": id[:1]} })
	}
	if _, err := w.clients.DeleteClient(t.Context(), &pb.DeleteClientRequest{Name: "clients/a-3"}); err != nil {
		t.Fatal(err)
	}
	w.memory.Put(w.recordKey(t, "b-1"), `{"schema": 1}`)
	var got []string
	request := &pb.ListClientsRequest{PageSize: 1}
	for pages := 0; ; pages++ {
		response, err := w.clients.ListClients(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range response.GetClients() {
			got = append(got, c.GetName())
		}
		for _, u := range response.GetUnreadable() {
			got = append(got, u.GetName()+" "+u.GetReason())
		}
		if request.PageToken = response.GetNextPageToken(); request.PageToken == "" {
			break
		}
		if pages > 10 {
			t.Fatal("the pages do not end")
		}
	}
	slices.Sort(got)
	if want := []string{"clients/a-1", "clients/a-2", "clients/b-1 RECORD_FIELD_MISSING"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	filtered, err := w.clients.ListClients(t.Context(), &pb.ListClientsRequest{Filter: "state=deleted AND labels.letter=a AND prefix=a-"})
	if err != nil || len(filtered.GetClients()) != 1 || filtered.GetClients()[0].GetName() != "clients/a-3" {
		t.Errorf("filtered: got %v, %v, want clients/a-3", filtered, err)
	}
}

func TestRotationOverMTLS(t *testing.T) {
	w, a, operator := overSockets(t)
	crm := w.connectTLS(t, a, a.caller(t, callerIdentity))
	w.register(t, operator, "acme")
	first, err := crm.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme", MinValidity: durationpb.New(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	w.stage(t, operator, "acme", "secret-2")
	verified, err := operator.rotations.VerifySecret(t.Context(), &pb.VerifySecretRequest{Client: "clients/acme", SecretVersion: 2})
	if err != nil || verified.GetSecretVersion().GetVerifyTime() == nil || len(verified.GetWarnings()) != 0 {
		t.Fatalf("verify: got %v, %v, want a verify_time and no warnings", verified, err)
	}
	for range 2 { // a repetition is harmless
		promoted, err := operator.rotations.PromoteSecret(t.Context(), &pb.PromoteSecretRequest{Client: "clients/acme", SecretVersion: 2, DropTokens: true})
		if err != nil || promoted.GetCurrent().GetNumber() != 2 || promoted.GetPrevious().GetNumber() != 1 {
			t.Fatalf("promote: got %v, %v, want current 2 and previous 1", promoted, err)
		}
	}
	second, err := crm.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
	if err != nil || second.GetSecretVersion() != 2 || second.GetAccessToken() == first.GetAccessToken() {
		t.Errorf("after drop_tokens: got %v, %v, want another token, of version 2", second, err)
	}
	for range 2 {
		retired, err := operator.rotations.RetireSecret(t.Context(), &pb.RetireSecretRequest{Client: "clients/acme", SecretVersion: 1})
		if err != nil || retired.GetSecretVersion() != 1 {
			t.Fatalf("retire: got %v, %v", retired, err)
		}
	}
	list, err := operator.rotations.ListSecretVersions(t.Context(), &pb.ListSecretVersionsRequest{Client: "clients/acme"})
	if err != nil || len(list.GetSecretVersions()) != 1 || list.GetSecretVersions()[0].GetNumber() != 2 {
		t.Errorf("list: got %v, %v, want version 2 alone", list, err)
	}
}

func TestGetTokenOverMTLS(t *testing.T) {
	w, a, operator := overSockets(t)
	crm := w.connectTLS(t, a, a.caller(t, callerIdentity))
	w.register(t, operator, "acme", func(c *pb.Client) {
		c.DefaultScopes, c.AllowedScopes = []string{"read"}, []string{"write"}
		c.AllowedAudiences, c.AllowedResources = []string{"https://api.example.com"}, []string{"https://api.example.com/a"}
	})
	w.upstream.Script(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.Scopes = []string{"read"} }})
	got, err := crm.tokens.GetToken(t.Context(), &pb.GetTokenRequest{
		Client: "clients/acme", Scopes: []string{"write", "read"}, Audience: "https://api.example.com",
		Resources: []string{"https://api.example.com/a"}, MinValidity: durationpb.New(2 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := w.upstream.Requests()[0]
	if !slices.Equal(asked.Scopes, []string{"read", "write"}) || asked.Audience != "https://api.example.com" || !slices.Equal(asked.Resources, []string{"https://api.example.com/a"}) {
		t.Errorf("the authorization server was asked for %v, want what the caller wants", asked.TokenRequest)
	}
	var reasons []string
	for _, warning := range got.GetWarnings() {
		reasons = append(reasons, warning.GetReason())
		if warning.GetMessage() == "" {
			t.Errorf("warning %s has no message", warning.GetReason())
		}
	}
	if want := []string{"SCOPES_NARROWED", "TOKEN_SHORTER_THAN_ASKED"}; !slices.Equal(reasons, want) {
		t.Errorf("got warnings %q, want %q", reasons, want)
	}
	refreshAfter := got.GetRefreshAfter().AsTime()
	if after := refreshAfter.Sub(asked.Time); after < 45*time.Minute || after > 51*time.Minute {
		t.Errorf("refresh_after is %v after the request, want 48 minutes and some jitter", after)
	}
	sum := sha256.Sum256([]byte("token-1"))
	want := &pb.GetTokenResponse{
		AccessToken: "token-1", TokenType: "Bearer", IssueTime: timestamppb.New(asked.Time),
		ExpireTime: timestamppb.New(asked.Time.Add(time.Hour)), ExpirySource: pb.ExpirySource_EXPIRY_SOURCE_RESPONSE,
		RefreshAfter: timestamppb.New(refreshAfter), Scopes: []string{"read"},
		TokenId: hex.EncodeToString(sum[:8]), SecretVersion: 1, Warnings: got.GetWarnings(),
		ServerTime: got.GetServerTime(),
	}
	if since := time.Since(got.GetServerTime().AsTime()); since < 0 || since > time.Minute {
		t.Errorf("server_time is %v ago", since)
	}
	if !proto.Equal(got, want) {
		t.Errorf("\ngot  %v\nwant %v", got, want)
	}
}

// TestAWarmTokenIsSharedSafely lets callers read one token at once, with and
// without warnings of their own.
func TestAWarmTokenIsSharedSafely(t *testing.T) {
	w, a, operator := overSockets(t)
	crm := w.connectTLS(t, a, a.caller(t, callerIdentity))
	w.register(t, operator, "acme")
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for range 20 {
				request := &pb.GetTokenRequest{Client: "clients/acme"}
				warnings := 0
				if i%2 == 0 {
					request.MinValidity, warnings = durationpb.New(2*time.Hour), 1
				}
				token, err := crm.tokens.GetToken(t.Context(), request)
				if err != nil || token.GetAccessToken() != "token-1" || len(token.GetWarnings()) != warnings {
					t.Errorf("got %v, %v, want token-1 with %d warnings", token, err, warnings)
				}
			}
		})
	}
	callers.Wait()
	if got := w.upstream.Count(); got != 1 {
		t.Errorf("the authorization server was asked %d times, want once", got)
	}
}

func TestCheckLookupOverMTLS(t *testing.T) {
	w, _, operator := overSockets(t)
	w.register(t, operator, "acme")
	stages := slices.DeleteFunc(broker.LookupStages(), func(s broker.LookupStageInfo) bool {
		return s.Depth > broker.DepthSecret || s.Name == broker.StageCaller // which is there for a check for a caller
	})
	whole, err := operator.diagnostics.CheckLookup(t.Context(), &pb.CheckLookupRequest{Client: "clients/acme"})
	if err != nil || whole.GetRootCause() != nil || len(whole.GetStages()) != len(stages) {
		t.Fatalf("got %v, %v, want %d stages without a root cause", whole, err, len(stages))
	}
	for _, stage := range whole.GetStages() {
		if stage.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_PASSED || stage.GetDuration() == nil {
			t.Errorf("got stage %v, want it passed, with a duration", stage)
		}
	}
	index, err := operator.diagnostics.CheckLookup(t.Context(), &pb.CheckLookupRequest{Client: "clients/acme", Depth: pb.LookupDepth_LOOKUP_DEPTH_INDEX})
	if last := index.GetStages()[len(index.GetStages())-1]; err != nil || last.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_SKIPPED {
		t.Errorf("depth INDEX: got the last stage %v, %v, want it skipped", last, err)
	}
	// What the comment of CheckLookup promises to report instead of failing.
	unknown, err := operator.diagnostics.CheckLookup(t.Context(), &pb.CheckLookupRequest{Client: "clients/nobody"})
	requireCause(t, unknown, err, broker.ReasonClientNotFound)
	w.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
	unreachable, err := operator.diagnostics.CheckLookup(t.Context(), &pb.CheckLookupRequest{Client: "clients/acme"})
	requireCause(t, unreachable, err, broker.ReasonStoreUnreachable)
}

func requireCause(t *testing.T, report *pb.CheckLookupResponse, err error, want broker.Reason) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	cause, info := report.GetRootCause(), want.Info()
	if got := broker.Reason(cause.GetReason()); got != want || cause.GetStage() == "" || cause.GetSummary() != info.Summary || cause.GetRemedy() != info.Remedy {
		t.Errorf("got root cause %v, want %s with stage, summary and remedy", cause, want)
	}
	if got, want := cause.GetRecovery().String(), "RECOVERY_"+string(info.Recovery); got != want {
		t.Errorf("got recovery %s, want %s", got, want)
	}
}
