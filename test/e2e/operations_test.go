package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// The two secrets of every client in the tests of faults.
const (
	firstSecret  = "first-s3cr3t"
	secondSecret = "second-s3cr3t"
)

// operation is one call that changes the store.
type operation struct {
	name   string
	writes int // to the store
	// prepare brings a client to where the call makes sense, and returns the call.
	prepare func(ctx context.Context, n *node, endpoint, id string) (func(context.Context, *node) error, error)
	// repeated is the reason with which a repetition of a call that took effect may
	// be refused.
	repeated string
	// done is what the versions are once the call has succeeded: stage of version 1,
	// of version 2; absent is "".
	done [2]string
	// destroyed is the version whose value must be gone, 0 for none.
	destroyed int
}

func newClient(id, endpoint string) *pb.Client {
	return &pb.Client{Name: "clients/" + id, TokenEndpoint: endpoint, ClientId: appID, AuthenticationMethod: basic, DefaultScopes: []string{"read"}}
}

func operations() []operation {
	create := func(ctx context.Context, n *node, endpoint, id string) (*pb.Client, error) {
		created, err := n.operator.clients.CreateClient(ctx, &pb.CreateClientRequest{Client: newClient(id, endpoint), Secret: secretInput(firstSecret), RequestId: "create-" + id})
		return created.GetClient(), err
	}
	stage := func(ctx context.Context, n *node, id string) error {
		_, err := n.operator.rotations.StageSecret(ctx, &pb.StageSecretRequest{Client: "clients/" + id, Secret: secretInput(secondSecret), RequestId: "stage-" + id})
		return err
	}
	verify := func(ctx context.Context, n *node, id string) error {
		_, err := n.operator.rotations.VerifySecret(ctx, &pb.VerifySecretRequest{Client: "clients/" + id, SecretVersion: 2})
		return err
	}
	promote := func(ctx context.Context, n *node, id string) error {
		_, err := n.operator.rotations.PromoteSecret(ctx, &pb.PromoteSecretRequest{Client: "clients/" + id, SecretVersion: 2})
		return err
	}
	retire := func(ctx context.Context, n *node, id string) error {
		_, err := n.operator.rotations.RetireSecret(ctx, &pb.RetireSecretRequest{Client: "clients/" + id, SecretVersion: 1})
		return err
	}
	// steps prepares by running all but the last, which is the call.
	steps := func(list ...func(context.Context, *node, string) error) func(context.Context, *node, string, string) (func(context.Context, *node) error, error) {
		return func(ctx context.Context, n *node, endpoint, id string) (func(context.Context, *node) error, error) {
			if _, err := create(ctx, n, endpoint, id); err != nil {
				return nil, err
			}
			for _, step := range list[:len(list)-1] {
				if err := step(ctx, n, id); err != nil {
					return nil, err
				}
			}
			return func(ctx context.Context, n *node) error { return list[len(list)-1](ctx, n, id) }, nil
		}
	}
	return []operation{
		{name: "create", writes: 2, done: [2]string{"CURRENT", ""}, prepare: func(_ context.Context, _ *node, endpoint, id string) (func(context.Context, *node) error, error) {
			return func(ctx context.Context, n *node) error { _, err := create(ctx, n, endpoint, id); return err }, nil
		}},
		{name: "update", writes: 2, done: [2]string{"PREVIOUS", "CURRENT"}, repeated: "ETAG_MISMATCH", prepare: func(ctx context.Context, n *node, endpoint, id string) (func(context.Context, *node) error, error) {
			client, err := create(ctx, n, endpoint, id)
			if err != nil {
				return nil, err
			}
			client.Labels = map[string]string{"updated": "yes"}
			request := &pb.UpdateClientRequest{Client: client, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}}, Secret: secretInput(secondSecret)}
			return func(ctx context.Context, n *node) error {
				_, err := n.operator.clients.UpdateClient(ctx, request)
				return err
			}, nil
		}},
		{name: "stage", writes: 2, done: [2]string{"CURRENT", "PENDING"}, prepare: steps(stage)},
		{name: "verify", writes: 1, done: [2]string{"CURRENT", "PENDING"}, prepare: steps(stage, verify)},
		{name: "promote", writes: 1, done: [2]string{"PREVIOUS", "CURRENT"}, prepare: steps(stage, verify, promote)},
		{name: "retire", writes: 3, done: [2]string{"", "CURRENT"}, destroyed: 1, prepare: steps(stage, verify, promote, retire)},
	}
}

// stageName is a version's stage without the enum's prefix.
func stageName(v *pb.SecretVersion) string {
	return strings.TrimPrefix(v.GetStage().String(), "SECRET_STAGE_")
}

// checkState returns what is wrong with a client after a fault: there is none, or
// its record is whole, exactly one version is current, each version that it names
// has its value, and a token can be had. orphans counts the values that no record
// names.
func checkState(ctx context.Context, n *node, v *vaultStore, id string) (orphans int, err error) {
	name := "clients/" + id
	got, err := n.operator.clients.GetClient(ctx, &pb.GetClientRequest{Name: name})
	if reasonOf(err) == "CLIENT_NOT_FOUND" {
		orphans, err = checkValues(v, id, &pb.Client{})
		if cause, reportErr := n.rootCause(ctx, name); err == nil && cause != "CLIENT_NOT_FOUND" {
			err = fmt.Errorf("CheckLookup = %q, %v; want CLIENT_NOT_FOUND", cause, reportErr)
		}
		return orphans, err
	}
	if err != nil {
		return 0, err
	}
	var current []int64
	for _, version := range got.GetClient().GetSecretVersions() {
		if stageName(version) == "CURRENT" {
			current = append(current, version.GetNumber())
		}
	}
	if len(current) != 1 {
		return 0, fmt.Errorf("current versions %v, want exactly one", current)
	}
	report, err := n.operator.diagnostics.CheckLookup(ctx, &pb.CheckLookupRequest{Client: name})
	if err != nil {
		return 0, err
	}
	for _, stage := range report.GetStages() {
		if stage.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_PASSED {
			return 0, fmt.Errorf("stage %s %v: %s %v", stage.GetName(), stage.GetOutcome(), stage.GetReason(), stage.GetEvidence())
		}
	}
	if _, err := n.token(ctx, name); err != nil {
		return 0, fmt.Errorf("GetToken: %w", err)
	}
	return checkValues(v, id, got.GetClient())
}

// checkValues compares the values in Vault with the versions that a record names.
func checkValues(v *vaultStore, id string, client *pb.Client) (orphans int, err error) {
	present := map[string]bool{}
	for _, name := range v.list("secrets/" + id) {
		if record := v.read("secrets/"+id+"/"+name, 1); record != nil {
			present[name] = true
			if value := record["value"]; value != firstSecret && value != secondSecret {
				return 0, fmt.Errorf("the value of %s is none of those that were sent", name)
			}
		}
	}
	orphans = len(present)
	for _, version := range client.GetSecretVersions() {
		name := fmt.Sprintf("%s-%d", client.GetUid(), version.GetNumber())
		switch {
		case present[name]:
			orphans--
		case !version.GetDestroying():
			return 0, fmt.Errorf("version %d is %s and its value is not in Vault", version.GetNumber(), stageName(version))
		}
	}
	return orphans, nil
}

// checkDone returns how the client differs from what the operation makes of it.
func (o operation) checkDone(ctx context.Context, n *node, v *vaultStore, id string) error {
	got, err := n.operator.clients.GetClient(ctx, &pb.GetClientRequest{Name: "clients/" + id})
	if err != nil {
		return err
	}
	// A value that a crash left behind takes up its number: the second value has
	// version 2, or 3 after a fault.
	var stages []string
	for _, version := range got.GetClient().GetSecretVersions() {
		stages = append(stages, stageName(version))
	}
	if want := slices.DeleteFunc(slices.Clone(o.done[:]), func(s string) bool { return s == "" }); !slices.Equal(stages, want) {
		return fmt.Errorf("stages %v, want %v", stages, want)
	}
	if o.name == "update" && got.GetClient().GetLabels()["updated"] != "yes" {
		return errors.New("the settings were not changed with the secret")
	}
	if o.name == "verify" && got.GetClient().GetSecretVersions()[1].GetVerifyTime() == nil {
		return errors.New("the pending version is not marked as verified")
	}
	for _, version := range got.GetClient().GetSecretVersions() {
		want := firstSecret
		if version.GetNumber() > 1 {
			want = secondSecret
		}
		key := fmt.Sprintf("secrets/%s/%s-%d", id, got.GetClient().GetUid(), version.GetNumber())
		if record := v.read(key, 1); record["value"] != want {
			return fmt.Errorf("the value at %s is not the one that was sent", key)
		}
	}
	if o.destroyed != 0 {
		key := fmt.Sprintf("secrets/%s/%s-%d", id, got.GetClient().GetUid(), o.destroyed)
		status, answer := v.Do(http.MethodGet, v.path("metadata", key), nil)
		data, _ := answer["data"].(map[string]any)
		versions, _ := data["versions"].(map[string]any)
		one, _ := versions["1"].(map[string]any)
		if one["destroyed"] != true {
			return fmt.Errorf("version %d is not destroyed in Vault: status %d, %v", o.destroyed, status, versions)
		}
	}
	return nil
}
