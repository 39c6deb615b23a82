package broker_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// wantSound checks the invariants of design §4 with a Broker that has never seen
// the store: the record is there wholly or not at all; at most one version per
// stage; once there was one, exactly one current; each version that the record
// names has its value, with the right fingerprint, unless it is being destroyed;
// and values that nothing names lie under numbers that no version has.
func wantSound(t *testing.T, memory *brokertest.Memory, id string) {
	t.Helper()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), nil)
	c, err := f.GetClient(t.Context(), id)
	if broker.ReasonOf(err) == broker.ReasonClientNotFound {
		return
	}
	if err != nil {
		t.Errorf("the record cannot be read: %v", err)
		return
	}
	perStage, named := map[broker.Stage]int{}, map[string]bool{}
	for i, v := range c.Secrets {
		perStage[v.Stage]++
		named[fmt.Sprintf("secrets/%s/%s-%d", id, c.UID, v.Number)] = true
		if v.Number < 1 || v.Number >= c.NextVersion || i > 0 && v.Number <= c.Secrets[i-1].Number {
			t.Errorf("numbers are out of order: %q, next %d", stages(c), c.NextVersion)
		}
		if v.Destroying && v.Stage != broker.Unlabelled {
			t.Errorf("version %d is being destroyed and has a stage: %q", v.Number, stages(c))
		}
	}
	for stage, n := range perStage {
		if stage != broker.Unlabelled && n > 1 {
			t.Errorf("%d versions are %s: %q", n, stage, stages(c))
		}
	}
	if len(c.Secrets) > 0 && perStage[broker.Current] != 1 {
		t.Errorf("%d current versions: %q", perStage[broker.Current], stages(c))
	}
	wantValues(t, f, c, named)
}

// wantValues checks the values of the versions of c, and what lies beside them.
func wantValues(t *testing.T, f *fixture, c *broker.Client, named map[string]bool) {
	t.Helper()
	for _, v := range c.Secrets {
		if !v.Destroying {
			wantIntact(t, f, c, v)
		}
	}
	for _, key := range keysUnder(f.memory, "secrets/"+c.ID+"/") {
		record, err := f.memory.Read(t.Context(), key)
		if err != nil || named[key] {
			continue // destroyed, or seen above
		}
		var orphan struct {
			UID    string
			Number int64
		}
		if err := json.Unmarshal(record.Data.Reveal(), &orphan); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		if want := fmt.Sprintf("secrets/%s/%s-%d", c.ID, orphan.UID, orphan.Number); key != want {
			t.Errorf("a value that nothing names lies at %s and says that it is %s", key, want)
		}
		if _, taken := c.Secret(orphan.Number); taken && orphan.UID == c.UID {
			t.Errorf("%s: a value that nothing names has the number of a version", key)
		}
	}
}

// wantIntact reads the value of one version as a lookup would: a copy of the store
// in which that version is current, checked to the secret's own stage.
func wantIntact(t *testing.T, f *fixture, c *broker.Client, v broker.SecretVersion) {
	t.Helper()
	alone := f.memory.Clone()
	key := keyOfClient(t, alone, c.ID)
	var record map[string]any
	if err := json.Unmarshal([]byte(recordOf(t, alone, key)), &record); err != nil {
		t.Fatal(err)
	}
	for _, version := range record["secrets"].([]any) {
		fields := version.(map[string]any)
		delete(fields, "stage")
		if int64(fields["number"].(float64)) == v.Number {
			fields["stage"] = "current"
		}
	}
	delete(record, "disabled")
	delete(record, "delete_time")
	encoded, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	alone.Put(key, string(encoded))
	b := open(t, alone, brokertest.NewFaulty(alone), f.upstream, nil)
	report, err := b.CheckLookup(t.Context(), broker.LookupCheck{ClientID: c.ID, Depth: broker.DepthSecret, Permitted: broker.DepthAPI})
	if err != nil {
		t.Fatalf("CheckLookup: %v", err)
	}
	if cause, failed := report.RootCause(); failed && cause.Stage != broker.StageDestination && cause.Stage != broker.StageSecretFit {
		t.Errorf("version %d of %q: %s %s %q", v.Number, stages(c), cause.Stage, cause.Reason, cause.Confidence)
	}
}

// keyOfClient finds the key of a client's record without knowing how ids are sharded.
func keyOfClient(t *testing.T, memory *brokertest.Memory, id string) string {
	t.Helper()
	for _, key := range keysUnder(memory, "clients/") {
		if len(key) > len("clients/00/") && key[len("clients/00/"):] == id {
			return key
		}
	}
	t.Fatalf("no record of client %s", id)
	return ""
}
