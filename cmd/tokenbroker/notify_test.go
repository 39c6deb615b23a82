package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// TestServeTellsAWebhook of a secret that expires soon: the whole way from a client's
// record to a request, in which there is nothing of the secret.
func TestServeTellsAWebhook(t *testing.T) {
	const clientSecret, key = "canary-client-secret", "canary-webhook-key-0123456789abcdef"
	type told struct{ body, signature string }
	requests := make(chan told, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- told{string(body), r.Header.Get("Tokenbroker-Signature")}
	}))
	defer receiver.Close()
	address := harness.UnusedAddress(t)
	config := setup(t, address, false)
	secretFile := filepath.Join(filepath.Dir(config), "webhook.key")
	if err := os.WriteFile(secretFile, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	content = append(content, "callers: [{name: local, identity: insecure-loopback, role: operator}]\nnotify: {webhooks: [{name: pager, url: \""+
		receiver.URL+"/canary-path\", secret_file: "+secretFile+", insecure_http_loopback: true}]}\n"...)
	if err := os.WriteFile(config, content, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := serve(t, config)
	healthy(t, config) // what ends soon is looked for some seconds after the start
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = pb.NewClientServiceClient(conn).CreateClient(t.Context(), &pb.CreateClientRequest{
		Client: &pb.Client{
			Name: "clients/acme", TokenEndpoint: "https://login.example.com/token", ClientId: "acme",
			AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC,
		},
		Secret: &pb.SecretInput{
			Value:      &pb.SecretInput_ClientSecret{ClientSecret: clientSecret},
			ExpireTime: timestamppb.New(time.Now().Add(50 * time.Hour)),
		},
	}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	var got told
	select {
	case got = <-requests:
	case <-time.After(30 * time.Second):
		t.Fatalf("nobody was told; the log: %s", stop().stderr)
	}
	var body struct {
		Type, Client string
		Days         int `json:"days_left"`
	}
	if err := json.Unmarshal([]byte(got.body), &body); err != nil || body.Type != "secret_expires_soon" || body.Client != "clients/acme" || body.Days != 2 {
		t.Errorf("told %s (%v)", got.body, err)
	}
	ended := stop()
	ended.want(t, 0)
	if !strings.Contains(ended.stderr, `"event":"secret_expires_soon"`) {
		t.Errorf("the log has no event: %s", ended.stderr)
	}
	if strings.Contains(got.body+got.signature+ended.stderr+ended.stdout, "canary") {
		t.Errorf("something is told of a secret: %+v, log %s", got, ended.stderr)
	}
}
