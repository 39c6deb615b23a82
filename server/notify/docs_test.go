package notify_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/notify"
)

func document(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../../docs/notify.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// block returns the only code block of a language.
func block(t *testing.T, language string) string {
	t.Helper()
	found := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(document(t), -1)
	if len(found) != 1 {
		t.Fatalf("docs/notify.md has %d blocks of %s, want 1", len(found), language)
	}
	return found[0][1]
}

// delivered returns the body and the signature of a request of now.
func delivered(t *testing.T) (body, signature string) {
	t.Helper()
	r := &receiver{}
	n := virtual(t, r)
	n.Notify(event("e1"))
	eventually(t, "delivered", func() bool { return n.counts()[notify.Delivered] == 1 })
	n.stop()
	return r.all()[0].body, r.all()[0].header.Get(notify.SignatureHeader)
}

// forgeries are what a receiver must refuse, made from a good signature.
func forgeries(body, signature string) []struct{ name, body, signature string } {
	at, mac, _ := strings.Cut(signature, ",")
	var unix int64
	_, _ = fmt.Sscanf(at, "t=%d", &unix) // the caller's is good
	return []struct{ name, body, signature string }{
		{"another body", strings.Replace(body, "acme", "acmf", 1), signature},
		{"another time", body, fmt.Sprintf("t=%d,%s", unix+1, mac)},
		{"no time", body, mac},
		{"no signature", body, at},
		{"empty signature", body, at + ",v1="},
		{"nothing", body, ""},
		{"another signature", body, at + ",v1=" + strings.Repeat("0", 64)},
	}
}

// TestGoVerifies runs the function of docs/notify.md.
func TestGoVerifies(t *testing.T) {
	folder := t.TempDir()
	program := `package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

` + block(t, "go") + `
func main() {
	now, _ := strconv.ParseInt(os.Args[3], 10, 64)
	if !Verify([]byte(os.Getenv("KEY")), os.Args[1], []byte(os.Args[2]), time.Unix(now, 0)) {
		os.Exit(1)
	}
}
`
	source, binary := filepath.Join(folder, "main.go"), filepath.Join(folder, "verify")
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("go", "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("the function does not compile: %v\n%s", err, output)
	}
	verifies := func(body, signature, key string, at time.Time) bool {
		command := exec.Command(binary, signature, body, fmt.Sprint(at.Unix()))
		command.Env = append(os.Environ(), "KEY="+key)
		return command.Run() == nil
	}
	body, signature := delivered(t)
	if now := time.Now(); !verifies(body, signature, key, now) || verifies(body, signature, key+"x", now) ||
		verifies(body, signature, key, now.Add(6*time.Minute)) || verifies(body, signature, key, now.Add(-6*time.Minute)) {
		t.Error("want it taken with its key at its time, and not with another one or at another time")
	}
	for _, forgery := range forgeries(body, signature) {
		if verifies(forgery.body, forgery.signature, key, time.Now()) {
			t.Errorf("%s: it is taken", forgery.name)
		}
	}
}

// TestTheShellVerifies runs the function of docs/notify.md.
func TestTheShellVerifies(t *testing.T) {
	if err := exec.Command("perl", "-MDigest::SHA", "-e1").Run(); err != nil {
		t.Skip("there is no Perl here")
	}
	body, signature := delivered(t)
	good, other := secretFile(t, key+"\n"), secretFile(t, key+"x\n")
	verifies := func(secret, body, signature string) bool {
		return exec.Command("sh", "-c", block(t, "sh")+`verify "$1" "$2" "$3"`, "sh", secret, secretFile(t, body), signature).Run() == nil
	}
	if !verifies(good, body, signature) || verifies(other, body, signature) {
		t.Error("want it taken with its key and not with another one")
	}
	for _, forgery := range forgeries(body, signature) {
		if verifies(good, forgery.body, forgery.signature) {
			t.Errorf("%s: it is taken", forgery.name)
		}
	}
}

// TestTheDocumentedBody has the fields of a real one, and the table all of them.
func TestTheDocumentedBody(t *testing.T) {
	var shown, real map[string]any
	if err := json.Unmarshal([]byte(block(t, "json")), &shown); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		n := virtual(t, r)
		n.Notify(broker.Event{
			ID: "e", Type: broker.EventSecretExpiresSoon, Time: time.Now(), ClientID: "a", Remedy: "r", SecretVersion: 3, ExpireTime: time.Now(),
		})
		full := event("f")
		full.ExpireTime = time.Now()
		n.Notify(full)
		synctest.Wait()
		n.stop()
		for i, into := range []*map[string]any{&real, new(map[string]any)} {
			if err := json.Unmarshal([]byte(r.all()[i].body), into); err != nil {
				t.Fatal(err)
			}
			for field := range *into {
				if !strings.Contains(document(t), "`"+field+"`") {
					t.Errorf("docs/notify.md does not describe `%s`", field)
				}
			}
		}
	})
	if len(real) != len(shown) {
		t.Errorf("a real body has %d fields, the document's %d", len(real), len(shown))
	}
	for field := range real {
		if _, ok := shown[field]; !ok {
			t.Errorf("the document's body has no %s", field)
		}
	}
}

// TestTheDocumentedEvents are all types with the levels that they are logged at.
func TestTheDocumentedEvents(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (error|warn|info) \\|").FindAllStringSubmatch(document(t), -1)
	types := broker.EventTypes()
	if len(rows) != len(types) {
		t.Fatalf("the document has %d types, want %d", len(rows), len(types))
	}
	for i, row := range rows {
		if row[1] != string(types[i]) || row[2] != strings.ToLower(types[i].Level().String()) {
			t.Errorf("row %v, want %s at %v", row[1:], types[i], types[i].Level())
		}
	}
}
