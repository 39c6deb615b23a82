package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// Bounds of docs/architecture.md, as a fleet is seen from outside.
const (
	// leaseEnds is how long a replica that died keeps the others waiting.
	leaseEnds = 25 * time.Second
	// rotationLeaseEnds is the same of one that was at work on a rotation.
	rotationLeaseEnds = 30 * time.Second
	// noticedWithin is how soon a change is in force on all replicas.
	noticedWithin = 2 * time.Second
	// slack is what a loaded machine may take on top of a wait of many seconds.
	slack = 10 * time.Second
)

// allFaults reports whether the tests may take as long as they need.
func allFaults() bool { return os.Getenv("TOKENBROKER_TEST_FAULTS") == "all" }

// faults counts what was done to fleets in this run, and what they survived.
var faults tally

type tally struct {
	mu              sync.Mutex // guards the rest
	tried, survived int
}

// injected is one fault; it counts as survived when its test says so.
type injected struct {
	t    testing.TB
	what string
	at   time.Time
}

// inject counts a fault that is about to be injected.
func inject(t testing.TB, format string, args ...any) *injected {
	faults.mu.Lock()
	defer faults.mu.Unlock()
	faults.tried++
	return &injected{t, fmt.Sprintf(format, args...), time.Now()}
}

// survived ends a fault with what is wrong after it.
func (f *injected) survived(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Errorf("fault: %s: %v", f.what, err)
		return
	}
	faults.mu.Lock()
	defer faults.mu.Unlock()
	faults.survived++
	f.t.Logf("fault: %s: survived, all is well %v after it", f.what, time.Since(f.at).Round(10*time.Millisecond))
}

// tell prints the figures, if there are any, and reports whether every fault was survived.
func (f *tally) tell(w io.Writer) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tried > 0 {
		fmt.Fprintf(w, "figure fleet_faults_tried %d\nfigure fleet_faults_survived %d\n", f.tried, f.survived)
	}
	return f.tried == f.survived
}

// fleet is three servers over one Vault, each behind a tap of its own.
type fleet struct {
	t       *testing.T
	store   *vaultStore
	up      *upstream
	a, b, c *replica
}

// replica is one server of a fleet; node changes with each start.
type replica struct {
	*node
	name string
	site *site
	tap  *tap
}

// newFleet starts three servers. authorities (PEM) vouch for authorization servers
// besides the fleet's own.
func newFleet(t *testing.T, store *vaultStore, authorities ...[]byte) *fleet {
	t.Helper()
	return newFleetOf(t, store, func(*site) {}, authorities...)
}

// newFleetOf is newFleet of servers whose configuration is changed first.
func newFleetOf(t *testing.T, store *vaultStore, configure func(*site), authorities ...[]byte) *fleet {
	t.Helper()
	f := &fleet{t: t, store: store, up: newUpstream(t, firstSecret, secondSecret)}
	for i, r := range []**replica{&f.a, &f.b, &f.c} {
		tap := newTap(t, store.Addr())
		*r = &replica{name: string(rune('A' + i)), tap: tap, site: newSite(t, store.config(tap.URL), append(authorities, f.up.ca)...)}
		(*r).site.config["limits"] = map[string]any{"max_concurrent_requests": 20000, "max_concurrent_requests_per_caller": 20000}
		configure((*r).site)
		(*r).node = (*r).site.start(t, program(t))
	}
	return f
}

func (f *fleet) replicas() []*replica { return []*replica{f.a, f.b, f.c} }

// restart starts a server that was killed.
func (f *fleet) restart(r *replica) {
	f.t.Helper()
	r.Kill()
	r.node = r.site.start(f.t, program(f.t))
}

// stop ends all servers in peace.
func (f *fleet) stop() {
	f.t.Helper()
	for _, r := range f.replicas() {
		r.stop(f.t)
	}
}

// registered is a client of a fleet with a token endpoint of its own.
type registered struct {
	id, name, uid string
	asked         atomic.Int64 // requests to its endpoint so far
}

// register makes a client by way of a replica. gate is called with the number of each
// request to its token endpoint before that is answered; nil does nothing.
func (f *fleet) register(by *replica, id string, gate func(nth int64), edits ...func(*pb.Client)) *registered {
	f.t.Helper()
	r := &registered{id: id, name: "clients/" + id}
	f.up.mux.HandleFunc("/"+id+authserver.TokenPath, func(w http.ResponseWriter, request *http.Request) {
		nth := r.asked.Add(1)
		if gate != nil {
			gate(nth)
		}
		request.URL.Path = authserver.TokenPath
		f.up.serveToken(w, request)
	})
	client := newClient(id, f.up.origin+"/"+id+authserver.TokenPath)
	for _, edit := range edits {
		edit(client)
	}
	created, err := by.operator.clients.CreateClient(f.t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(firstSecret)})
	if err != nil {
		f.t.Fatalf("CreateClient %s: %v", id, err)
	}
	r.uid = created.GetClient().GetUid()
	return r
}

// wasAsked returns how the number of requests differs from what it should be.
func (r *registered) wasAsked(want int64) error {
	if got := r.asked.Load(); got != want {
		return fmt.Errorf("%d requests to the authorization server, want %d", got, want)
	}
	return nil
}

// answer is what one call got.
type answer struct {
	by    *replica
	token *pb.GetTokenResponse
	err   error
	took  time.Duration
}

// askAll asks replicas at the same time; callers wait long enough for a lease to end.
func askAll(ctx context.Context, client string, replicas ...*replica) <-chan []answer {
	answers := make([]answer, len(replicas))
	done := make(chan []answer, 1)
	var group sync.WaitGroup
	for i, r := range replicas {
		node := r.node // the one of now
		group.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 2*leaseEnds)
			defer cancel()
			began := time.Now()
			token, err := node.token(ctx, client)
			answers[i] = answer{r, token, err, time.Since(began)}
		})
	}
	go func() {
		group.Wait()
		done <- answers
	}()
	return done
}

// sameToken returns the one token that all were given.
func sameToken(answers []answer) (id string, err error) {
	for _, a := range answers {
		if a.err != nil {
			return "", fmt.Errorf("replica %s after %v: %w", a.by.name, a.took, a.err)
		}
		if id == "" {
			id = a.token.GetTokenId()
		}
		if got := a.token.GetTokenId(); got != id {
			return "", fmt.Errorf("replica %s serves token %s, replica %s %s", a.by.name, got, answers[0].by.name, id)
		}
	}
	if id == "" {
		return "", errors.New("a token without an id")
	}
	return id, nil
}

// servesOnly demands that replicas serve one token, which is id unless that is "".
func (f *fleet) servesOnly(client, id string, replicas ...*replica) error {
	got, err := sameToken(<-askAll(f.t.Context(), client, replicas...))
	if err == nil && id != "" && got != id {
		err = fmt.Errorf("token %s is served, want %s", got, id)
	}
	return err
}

// tokenRecord returns the one record of a client's tokens as Vault has it.
func (f *fleet) tokenRecord(c *registered) (map[string]any, error) {
	names := f.store.list("tokens/" + c.uid)
	if len(names) != 1 {
		return nil, fmt.Errorf("token records %q, want one", names)
	}
	return f.store.read("tokens/"+c.uid+"/"+names[0], 0), nil
}

// leaseIsFree demands that the shared token lies in Vault and that nobody holds its lease.
func (f *fleet) leaseIsFree(c *registered) error {
	record, err := f.tokenRecord(c)
	if err != nil {
		return err
	}
	if record["lease"] != nil || record["token"] == nil {
		return fmt.Errorf("the record in Vault: lease %v, token present %v; want a token and no lease", record["lease"], record["token"] != nil)
	}
	return nil
}
