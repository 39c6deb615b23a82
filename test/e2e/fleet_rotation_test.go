package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// rotationLoad is what a run of rotations under load came to.
var rotationLoad struct {
	rotations, calls, failed, refused atomic.Int64
}

// tellRotationLoad prints the figures, if there are any.
func tellRotationLoad(w io.Writer) {
	if rotationLoad.rotations.Load() > 0 {
		fmt.Fprintf(w, "figure rotation_load_rotations %d\nfigure rotation_load_calls %d\nfigure rotation_load_failed_calls %d\nfigure rotation_load_retired_secrets_used %d\n",
			rotationLoad.rotations.Load(), rotationLoad.calls.Load(), rotationLoad.failed.Load(), rotationLoad.refused.Load())
	}
}

// rotating is a client whose secret is changed again and again, with an account of its
// own at the authorization server.
type rotating struct {
	name, app, id string
	version       int
}

func (r *rotating) secret(version int) string { return fmt.Sprintf("%s secret %d", r.app, version) }

// registerRotating makes one whose provider takes two secrets at a time.
func (f *fleet) registerRotating(id string) *rotating {
	f.t.Helper()
	r := &rotating{name: "clients/" + id, app: "app-" + id, id: id, version: 1}
	if err := f.up.AddClient(authserver.Client{ID: r.app, Scopes: []string{"read", "write"}, Secrets: []secret.Value{secret.NewString(r.secret(1))}}); err != nil {
		f.t.Fatal(err)
	}
	client := newClient(id, f.up.origin+"/counted"+authserver.TokenPath)
	client.ClientId = r.app
	client.Rotation = &pb.RotationSettings{
		OverlappingSecrets: true, VerifyTokens: 2, VerifySpacing: durationpb.New(10 * time.Millisecond), Overlap: durationpb.New(2 * time.Second),
	}
	if _, err := f.a.operator.clients.CreateClient(f.t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(r.secret(1))}); err != nil {
		f.t.Fatalf("CreateClient %s: %v", id, err)
	}
	return r
}

// rotateOnce has the next secret made at the provider and brought in by way of a
// replica, waits until the replaced one is retired, and ends that at the provider.
func (f *fleet) rotateOnce(by *replica, r *rotating) error {
	if err := f.up.AddSecret(r.app, secret.NewString(r.secret(r.version+1))); err != nil {
		return err
	}
	request := &pb.RotateSecretRequest{Client: r.name, Secret: secretInput(r.secret(r.version + 1)), RequestId: fmt.Sprintf("%s-%d", r.id, r.version+1)}
	if _, err := by.operator.rotations.RotateSecret(f.t.Context(), request); err != nil {
		return fmt.Errorf("RotateSecret: %w", err)
	}
	last, err := watchToEnd(f.t.Context(), by, r.name)
	if err != nil || last.GetState() != pb.RotationState_ROTATION_STATE_COMPLETED {
		return fmt.Errorf("the rotation ended as %v %s: %w", last.GetState(), last.GetReason(), err)
	}
	old := r.secret(r.version)
	r.version++
	return f.up.RemoveSecret(r.app, secret.NewString(old))
}

// watchToEnd watches a rotation until it is over or needs an operator, and again where the watch breaks.
func watchToEnd(ctx context.Context, by *replica, name string) (*pb.Rotation, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var last *pb.Rotation
	for {
		stream, err := by.operator.rotations.WatchRotation(ctx, &pb.WatchRotationRequest{Client: name})
		for err == nil {
			var answer *pb.WatchRotationResponse
			if answer, err = stream.Recv(); err == nil {
				last = answer.GetRotation()
			}
			if last.GetState() == needsOperator {
				return last, nil
			}
		}
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return last, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// countRefusals counts token requests that the authorization server refuses: there is
// none while every secret that is used is one that it takes.
func (f *fleet) countRefusals(refused *atomic.Int64) {
	f.up.mux.HandleFunc("/counted"+authserver.TokenPath, func(w http.ResponseWriter, request *http.Request) {
		request.URL.Path = authserver.TokenPath
		answer := httptest.NewRecorder()
		f.up.ServeHTTP(answer, request)
		if answer.Code >= http.StatusBadRequest {
			refused.Add(1)
		}
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// TestFleetRotationsUnderLoad changes the secrets of many clients again and again, 500
// times where all faults are asked for, while 50 callers get tokens that live for
// three seconds from three replicas. No call fails, and no retired secret is used.
func TestFleetRotationsUnderLoad(t *testing.T) {
	t.Parallel()
	clients, rounds, callers := 10, 2, 50
	if allFaults() {
		clients, rounds = 50, 10
	}
	f := newFleet(t, sharedStore(t))
	f.countRefusals(&rotationLoad.refused)
	f.up.SetTokenLifetime(3 * time.Second)
	var all []*rotating
	for i := range clients {
		all = append(all, f.registerRotating(fmt.Sprintf("rotating-%d", i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var load, work sync.WaitGroup
	var calls, failed atomic.Int64
	for i := range callers {
		r := f.replicas()[i%3]
		load.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				_, err := r.caller.tokens.GetToken(ctx, &pb.GetTokenRequest{Client: all[n%len(all)].name, MinValidity: durationpb.New(100 * time.Millisecond)})
				if ctx.Err() != nil {
					return
				}
				calls.Add(1)
				if err != nil && failed.Add(1) < 4 {
					t.Errorf("a caller of replica %s: %v", r.name, err)
				}
				time.Sleep(5 * time.Millisecond) // the test's own CPU is not what is tested
			}
		})
	}
	start := time.Now()
	for i, r := range all {
		work.Go(func() {
			for round := range rounds {
				if err := f.rotateOnce(f.replicas()[(i+round)%3], r); err != nil {
					t.Errorf("%s, round %d: %v", r.name, round, err)
					return
				}
				rotationLoad.rotations.Add(1)
			}
		})
	}
	work.Wait()
	cancel()
	load.Wait()
	rotationLoad.calls.Add(calls.Load())
	rotationLoad.failed.Add(failed.Load())
	if refused := rotationLoad.refused.Load(); refused > 0 {
		t.Errorf("the authorization server refused %d requests: secrets were used that it does not take", refused)
	}
	for _, r := range all {
		list, err := f.b.operator.rotations.ListSecretVersions(t.Context(), &pb.ListSecretVersionsRequest{Client: r.name})
		if versions := list.GetSecretVersions(); err != nil || len(versions) != 1 || versions[0].GetNumber() != int64(rounds+1) {
			t.Errorf("%s: versions %v, %v; want version %d alone", r.name, versions, err, rounds+1)
		}
	}
	t.Logf("%d rotations, %d calls, %d failed, %v", clients*rounds, calls.Load(), failed.Load(), time.Since(start).Round(10*time.Millisecond))
	f.stop()
}

// TestFleetRotationHolderDies kills the replica that is at work on a rotation, at
// different moments; another one ends it.
func TestFleetRotationHolderDies(t *testing.T) {
	t.Parallel()
	f := newFleet(t, sharedStore(t))
	f.countRefusals(&atomic.Int64{})
	f.up.SetTokenLifetime(3 * time.Second) // a replaced secret is kept as long as its tokens live
	moments := []time.Duration{50 * time.Millisecond, 400 * time.Millisecond}
	if allFaults() {
		moments = append(moments, 0, 20*time.Millisecond, 100*time.Millisecond, 200*time.Millisecond, 800*time.Millisecond, 1500*time.Millisecond)
	}
	for i, after := range moments {
		r := f.registerRotating(fmt.Sprintf("dying-%d", i))
		fault := inject(t, "kill -9 of the replica that rotates %s, %v after it began", r.name, after)
		if err := f.up.AddSecret(r.app, secret.NewString(r.secret(2))); err != nil {
			t.Fatal(err)
		}
		request := &pb.RotateSecretRequest{Client: r.name, Secret: secretInput(r.secret(2)), RequestId: "r"}
		if _, err := f.b.operator.rotations.RotateSecret(t.Context(), request); err != nil {
			t.Fatalf("RotateSecret: %v", err)
		}
		time.Sleep(after)
		f.b.Kill()
		last, err := watchToEnd(t.Context(), f.a, r.name)
		if err == nil && last.GetState() != pb.RotationState_ROTATION_STATE_COMPLETED {
			err = fmt.Errorf("it ended as %v %s", last.GetState(), last.GetReason())
		}
		if err == nil {
			err = f.servesOnly(r.name, "", f.a, f.c)
		}
		fault.survived(err)
		f.restart(f.b)
	}
	f.stop()
}
