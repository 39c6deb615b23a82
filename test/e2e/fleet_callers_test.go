package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// connect opens a connection whose answers nobody records: there are too many.
func (r *replica) connect(t *testing.T) pb.TokenServiceClient {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.site.ca.PEM())
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{*r.site.certificate(t, callerIdentity)}}
	conn, err := grpc.NewClient("passthrough:///"+r.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	conn.Connect()
	return pb.NewTokenServiceClient(conn)
}

// TestFleetCallers lets ten thousand callers ask three replicas for one cold token at
// the same time, ten thousand on each where all faults are asked for: one request
// reaches the authorization server, and all get its token.
func TestFleetCallers(t *testing.T) {
	t.Parallel()
	const connections = 10 // to each replica
	callers := 10_000
	if allFaults() {
		callers *= 3
	}
	f := newFleet(t, sharedStore(t))
	var begun sync.WaitGroup
	begun.Add(callers)
	all := make(chan struct{})
	go func() { defer close(all); begun.Wait() }()
	client := f.register(f.b, "wanted", func(int64) { // the answer waits for the last caller, but not until it is asked for again
		select {
		case <-all:
		case <-time.After(5 * time.Second):
		}
	})
	var services []pb.TokenServiceClient
	for range connections {
		for _, r := range f.replicas() {
			services = append(services, r.connect(t))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*leaseEnds)
	defer cancel()
	var mu sync.Mutex
	tokens, failed := map[string]int{}, 0
	var group sync.WaitGroup
	start := time.Now()
	for i := range callers {
		group.Go(func() {
			begun.Done()
			got, err := services[i%len(services)].GetToken(ctx, &pb.GetTokenRequest{Client: client.name})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if failed++; failed < 4 {
					t.Errorf("a caller of replica %s: %v", f.replicas()[i%3].name, err)
				}
				return
			}
			tokens[got.GetTokenId()]++
		})
	}
	group.Wait()
	if len(tokens) != 1 || failed > 0 {
		t.Errorf("%d of %d callers failed, the others got %v; want one token for all", failed, callers, tokens)
	}
	if err := client.wasAsked(1); err != nil {
		t.Error(err)
	}
	if err := f.leaseIsFree(client); err != nil {
		t.Error(err)
	}
	t.Logf("%d callers over %d connections to 3 replicas: %d request, %d token, %v", callers, len(services), client.asked.Load(), len(tokens), time.Since(start).Round(10*time.Millisecond))
	f.stop()
}
