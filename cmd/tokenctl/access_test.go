package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/audit"
)

func TestAccessExplain(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	golden(t, "access-may.txt", o.run("access", "explain", "crm", "acme-crm", "--scope", "a").want(exitDone).stdout)
	if r := asked[*pb.CheckLookupRequest](f); r.GetCaller() != "crm" || r.GetDepth() != pb.LookupDepth_LOOKUP_DEPTH_INDEX || len(r.GetScopes()) != 1 {
		t.Errorf("the request is %v", r)
	}
	golden(t, "access-may-not.txt", o.run("access", "explain", "web", "clients/acme-crm").want(exitFault).stdout)
	o.run("access", "explain", "web", "acme-crm", "-o", "json").want(exitFault, `"reason": "CALLER_NOT_ALLOWED"`)
	o.run("access", "explain", "nobody", "acme-crm").want(exitUsage, "not the name of a caller")
}

// TestAuditVerify makes a log and spoils it.
func TestAuditVerify(t *testing.T) {
	o := newOperator(t)
	keyFile, path := filepath.Join(o.home, "audit.key"), filepath.Join(o.home, "audit.log")
	if err := audit.CreateKey(keyFile); err != nil {
		t.Fatal(err)
	}
	key, err := audit.LoadKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	file, err := audit.OpenFile(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.New(audit.Config{Key: key, Sinks: []audit.Sink{file}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, over := context.WithCancel(t.Context())
	over()
	if err := log.Run(ctx); err != nil {
		t.Fatal(err)
	}
	o.run("audit", "verify", "--key-file", keyFile, path).want(exitDone, "SOUND: 0 entries in 1 chain, 0 things wrong")
	o.run("audit", "verify", path, "--key", keyFile, "-o", "json").want(exitDone, `"sound": true`, `"ending": "closed"`)
	public := o.write("audit.pub", key.Public().String())
	o.run("audit", "verify", "--public-key", public, path).want(exitDone, "SOUND")
	o.run("audit", "verify", path).want(exitUsage, "--key-file or --public-key-file is required")
	o.run("audit", "verify", "--key", public, path).want(exitUsage, "audit key")
	o.run("audit", "verify", "--key", keyFile, path+".none").want(exitUsage, "no such file")
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	o.run("audit", "verify", "--key", keyFile, path).want(exitFault, "NOT SOUND")
}
