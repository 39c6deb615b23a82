package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/audit"
)

// demonstrate walks the whole path as a caller and an operator would, over the
// API, and fails where anything is not as it should be.
func (d *development) demonstrate(ctx context.Context) error {
	for i, step := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"A caller gets a token by name. It never sees the secret.", d.showToken},
		{"The client's record, as an operator sees it: no secret in it.", d.showClient},
		{"A caller may do nothing else.", d.showRefusal},
		{"A second secret is staged, verified with one real token, and promoted.", d.showRotation},
		{"The old secret is retired; tokens come from the new one.", d.showRetirement},
		{"Somebody destroyed the secret of clients/demo-broken in the store. Why does its lookup fail?", d.showLookup},
		{"The audit log says who got which token, and proves that nobody has changed it.", d.showAudit},
	} {
		if _, err := fmt.Fprintf(d.process.stdout, "\n%d. %s\n\n", i+1, step.title); err != nil {
			return err
		}
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

// show prints a call and its answer.
func (d *development) show(call string, answer proto.Message) error {
	_, err := fmt.Fprintf(d.process.stdout, "   %s\n%s\n", call, indent(protojson.MarshalOptions{Multiline: true, Indent: "  "}.Format(answer)))
	return err
}

func indent(text string) string {
	return "   " + strings.ReplaceAll(text, "\n", "\n   ")
}

func (d *development) showToken(ctx context.Context) error {
	token, err := pb.NewTokenServiceClient(d.caller).GetToken(ctx, &pb.GetTokenRequest{Client: demoClient})
	if err != nil {
		return err
	}
	if token.GetAccessToken() == "" || token.GetExpireTime() == nil {
		return errors.New("the token is empty")
	}
	return d.show("TokenService/GetToken "+demoClient, token)
}

func (d *development) showClient(ctx context.Context) error {
	got, err := pb.NewClientServiceClient(d.operator).GetClient(ctx, &pb.GetClientRequest{Name: demoClient})
	if err != nil {
		return err
	}
	return d.show("ClientService/GetClient "+demoClient, got.GetClient())
}

func (d *development) showRefusal(ctx context.Context) error {
	_, err := pb.NewClientServiceClient(d.caller).GetClient(ctx, &pb.GetClientRequest{Name: demoClient})
	if status.Code(err) != codes.PermissionDenied {
		return fmt.Errorf("a caller read a client's record: %v", err)
	}
	return d.showError("ClientService/GetClient "+demoClient+" (as a caller)", err)
}

func (d *development) showError(call string, err error) error {
	st := status.Convert(err)
	_, printErr := fmt.Fprintf(d.process.stdout, "   %s\n   %s: %s\n", call, st.Code(), st.Message())
	return printErr
}

// reasonOf returns ErrorInfo.reason.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

func (d *development) showRotation(ctx context.Context) error {
	value := newSecret()
	if err := d.upstream.Server.AddSecret(demoAppID, value); err != nil {
		return err
	}
	rotation := pb.NewRotationServiceClient(d.operator)
	staged, err := rotation.StageSecret(ctx, &pb.StageSecretRequest{
		Client: demoClient, Secret: &pb.SecretInput{Value: &pb.SecretInput_ClientSecret{ClientSecret: value.RevealString()}},
	})
	if err != nil {
		return err
	}
	if err := d.show("RotationService/StageSecret "+demoClient, staged); err != nil {
		return err
	}
	number := staged.GetSecretVersion().GetNumber()
	verified, err := rotation.VerifySecret(ctx, &pb.VerifySecretRequest{Client: demoClient, SecretVersion: number})
	if err != nil {
		return err
	}
	if err := d.show("RotationService/VerifySecret "+demoClient, verified); err != nil {
		return err
	}
	promoted, err := rotation.PromoteSecret(ctx, &pb.PromoteSecretRequest{Client: demoClient, SecretVersion: number, DropTokens: true})
	if err != nil {
		return err
	}
	if promoted.GetCurrent().GetNumber() != number {
		return fmt.Errorf("version %d is current, not %d", promoted.GetCurrent().GetNumber(), number)
	}
	return d.show("RotationService/PromoteSecret "+demoClient, promoted)
}

func (d *development) showRetirement(ctx context.Context) error {
	if err := d.retireAll(ctx, demoClient); err != nil {
		return err
	}
	token, err := pb.NewTokenServiceClient(d.caller).GetToken(ctx, &pb.GetTokenRequest{Client: demoClient})
	if err != nil {
		return err
	}
	list, err := pb.NewRotationServiceClient(d.operator).ListSecretVersions(ctx, &pb.ListSecretVersionsRequest{Client: demoClient})
	if err != nil {
		return err
	}
	if err := d.show("RotationService/ListSecretVersions "+demoClient, list); err != nil {
		return err
	}
	versions := list.GetSecretVersions()
	if len(versions) != 1 || versions[0].GetNumber() != token.GetSecretVersion() {
		return fmt.Errorf("the token is of version %d, and there are %d versions", token.GetSecretVersion(), len(versions))
	}
	_, err = fmt.Fprintf(d.process.stdout, "   TokenService/GetToken: token %s, got with secret version %d\n", token.GetTokenId(), token.GetSecretVersion())
	return err
}

// showLookup destroys a value in the store itself, as somebody with access to the
// store could, and lets CheckLookup find out.
func (d *development) showLookup(ctx context.Context) error {
	if err := d.register(ctx, brokenClient); err != nil {
		return err
	}
	got, err := pb.NewClientServiceClient(d.operator).GetClient(ctx, &pb.GetClientRequest{Name: brokenClient})
	if err != nil {
		return err
	}
	if err := d.destroyCurrent(ctx, got.GetClient()); err != nil {
		return err
	}
	_, err = pb.NewTokenServiceClient(d.caller).GetToken(ctx, &pb.GetTokenRequest{Client: brokenClient})
	if got, want := reasonOf(err), string(broker.ReasonSecretDestroyed); got != want {
		return fmt.Errorf("GetToken says %q, not %s: %w", got, want, err)
	}
	if err := d.showError("TokenService/GetToken "+brokenClient, err); err != nil {
		return err
	}
	report, err := pb.NewDiagnosticsServiceClient(d.operator).CheckLookup(ctx, &pb.CheckLookupRequest{Client: brokenClient})
	if err != nil {
		return err
	}
	for _, stage := range report.GetStages() {
		outcome := strings.ToLower(strings.TrimPrefix(stage.GetOutcome().String(), "STAGE_OUTCOME_"))
		if _, err := fmt.Fprintf(d.process.stdout, "   %-20s %-8s %s %s\n", stage.GetName(), outcome, stage.GetReason(), strings.Join(stage.GetEvidence(), "; ")); err != nil {
			return err
		}
	}
	if got, want := report.GetRootCause().GetReason(), string(broker.ReasonSecretDestroyed); got != want {
		return fmt.Errorf("CheckLookup names %q, not %s", got, want)
	}
	return d.show("DiagnosticsService/CheckLookup "+brokenClient+": root cause", report.GetRootCause())
}

// showAudit prints the first entry of a token and verifies the whole log.
func (d *development) showAudit(context.Context) error {
	key, err := audit.LoadKey(d.files.path("audit.key"))
	if err != nil {
		return err
	}
	content, err := os.ReadFile(d.files.path("audit.log"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(content)) {
		if strings.Contains(line, `"token_id"`) {
			fmt.Fprintf(d.process.stdout, "   %s\n", line)
			break
		}
	}
	// Earlier starts in the same folder may have been killed.
	report, err := audit.VerifyFiles(audit.VerifyConfig{Keys: []audit.Key{key}, Running: 1}, d.files.path("audit.log"))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.process.stdout, "   tokenbroker audit verify --key %s %s\n%s\n", d.files.path("audit.key"), d.files.path("audit.log"), indent(strings.TrimSpace(report.String())))
	return err
}

// destroyCurrent destroys the value of a client's current secret version behind
// the broker's back. The list shows the names that the store uses.
func (d *development) destroyCurrent(ctx context.Context, client *pb.Client) error {
	folder := "secrets/" + strings.TrimPrefix(client.GetName(), "clients/") + "/"
	names, err := d.service.store.List(ctx, folder)
	if err != nil {
		return err
	}
	for _, v := range client.GetSecretVersions() {
		name := fmt.Sprintf("%s-%d", client.GetUid(), v.GetNumber())
		for _, found := range names {
			if found != name || v.GetStage() != pb.SecretStage_SECRET_STAGE_CURRENT {
				continue
			}
			return d.service.store.Destroy(ctx, folder+name)
		}
	}
	return errors.New("the store holds no value of the current version")
}
