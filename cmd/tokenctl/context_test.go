package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// TestContexts keeps a configuration from nothing on.
func TestContexts(t *testing.T) {
	o := newOperator(t)
	path := filepath.Join(o.folder(), "config.yaml")
	o.run("whoami").want(exitUsage, "no context is chosen in "+path, "tokenctl context set")
	o.run("context", "list").want(exitDone, "CURRENT  NAME")
	ca, key := o.write("ca.pem", "x"), o.write("me-key.pem", "x")
	o.run("context", "set", "prod", "--address", "broker.example.org:7443", "--ca-file", ca, "--certificate-file", filepath.Join(o.home, "me.pem"), "--key-file", key).
		want(exitDone, "prod is in "+path+" and current", "note: stat "+filepath.Join(o.home, "me.pem"))
	o.run("context", "set", "dev", "--address", "127.0.0.1:7443", "--insecure-plaintext").want(exitDone, "dev is in").without("current")
	o.run("context", "set", "local", "--unix-socket", "/run/tokenbroker.sock").want(exitDone)
	o.run("context", "list").want(exitDone, "*        prod   broker.example.org:7443  certificate", "-        dev    127.0.0.1:7443           none (insecure plaintext)", "-        local  /run/tokenbroker.sock    user of this machine")
	o.run("context", "use", "dev").want(exitDone)
	o.run("context", "use", "test").want(exitUsage, `there is no context "test"`)
	o.run("context", "show").want(exitDone, "name                dev", "insecure_plaintext  true")
	o.run("context", "show", "prod").want(exitDone, "ca_file           "+ca, "key_file          "+key)
	o.run("context", "set", "prod", "--server-name", "broker.internal", "--ca-file=", "--use").want(exitDone)
	var shown map[string]any
	if got := o.run("context", "show", "-o", "json").want(exitDone); json.Unmarshal([]byte(got.stdout), &shown) != nil || shown["name"] != "prod" || shown["server_name"] != "broker.internal" || shown["ca_file"] != nil {
		t.Errorf("as JSON: %s", got.stdout)
	}
	o.run("context", "set", "dev", "--no-insecure-plaintext").want(exitUsage, "does not say who you are")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v; want mode 0600", info.Mode(), err)
	}
}

// TestSetKeepsTheFile: comments and other contexts stay, and so does a link.
func TestSetKeepsTheFile(t *testing.T) {
	o := newOperator(t)
	kept := o.write("dotfiles/tokenctl.yaml", "# mine\ncurrent: a # the first\ncontexts:\n  # of the team\n  a: {address: \"a.example:7443\", token_file: /t}\n")
	path := filepath.Join(o.home, "config.yaml")
	if err := os.Symlink(kept, path); err != nil {
		t.Fatal(err)
	}
	o.run("--config", path, "context", "set", "b", "--address", "b.example:7443", "--token-file", "/t2", "--use").want(exitDone)
	content, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	want := "# mine\ncurrent: b # the first\ncontexts:\n  # of the team\n  a: {address: \"a.example:7443\", token_file: /t}\n  b:\n    address: b.example:7443\n    token_file: /t2\n"
	if string(content) != want {
		t.Errorf("got\n%s\nwant\n%s", content, want)
	}
}

// TestConfigurationsThatAreWrong are refused with file, line and key.
func TestConfigurationsThatAreWrong(t *testing.T) {
	const certificate = ", certificate_file: c, key_file: k}"
	tests := []struct{ name, content, want string }{
		{"syntax", "contexts: [\n", "config.yaml:"},
		{"unknown key", "contexts:\n  a: {adress: x:1" + certificate, "config.yaml:2: unknown key adress"},
		{"a secret", "contexts:\n  a: {address: \"x:1\", client_secret: s" + certificate, "unknown key client_secret"},
		{"null", "contexts:\n  a:\n    address:\n    token_file: t\n", "config.yaml:3: contexts.a.address: has no value"},
		{"alias", "contexts:\n  a: &x {address: \"x:1\", token_file: t}\n  b: *x", "config.yaml:3: *x is an alias"},
		{"two documents", "current: a\n---\n", "second document"},
		{"current of nothing", "current: a\n", `config.yaml:1: current: there is no context "a"`},
		{"name", "contexts:\n  A.b: {address: \"x:1\"" + certificate, "is no name of a context"},
		{"nothing", "contexts:\n  a: {server_name: x" + certificate, "needs an address or a unix_socket"},
		{"both", "contexts:\n  a: {address: \"x:1\", unix_socket: s" + certificate, "there is both"},
		{"socket with TLS", "contexts:\n  a: {unix_socket: s, ca_file: c}", "goes without TLS"},
		{"no port", "contexts:\n  a: {address: x" + certificate, `"x" must be host:port`},
		{"scheme", "contexts:\n  a: {address: \"https://x:1\"" + certificate, "must be host:port"},
		{"port", "contexts:\n  a: {address: \"x:99999\"" + certificate, "must be host:port"},
		{"plaintext far away", "contexts:\n  a: {address: \"x.example:1\", insecure_plaintext: true}", "x.example is none"},
		{"plaintext to an address", "contexts:\n  a: {address: \"10.0.0.1:1\", insecure_plaintext: true}", "10.0.0.1 is none"},
		{"plaintext with a token", "contexts:\n  a: {address: \"127.0.0.1:1\", insecure_plaintext: true, token_file: t}", "without token_file"},
		{"certificate without key", "contexts:\n  a: {address: \"x:1\", certificate_file: c}", "and key_file go together"},
		{"nobody", "contexts:\n  a: {address: \"x:1\"}", "config.yaml:2: contexts.a: does not say who you are"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := newOperator(t)
			o.write(".config/tokenctl/config.yaml", test.content+"\n")
			o.run("context", "list").want(exitUsage, test.want)
		})
	}
}

// TestWhereTheConfigurationIs: flag, variable, XDG folder, home.
func TestWhereTheConfigurationIs(t *testing.T) {
	o := newOperator(t)
	config := func(name string) string {
		return "current: " + name + "\ncontexts: {" + name + ": {unix_socket: /s}}\n"
	}
	o.write(".config/tokenctl/config.yaml", config("home"))
	flag, variable := o.write("flag.yaml", config("flag")), o.write("variable.yaml", config("variable"))
	o.write("xdg/tokenctl/config.yaml", config("xdg"))
	show := func(name string, args ...string) {
		t.Helper()
		o.run(append(args, "context", "show")...).want(exitDone, "name         "+name+"\n")
	}
	show("home")
	o.environ = append(o.environ, "XDG_CONFIG_HOME=relative/is/ignored")
	show("home")
	o.environ = append(o.environ, "XDG_CONFIG_HOME="+filepath.Join(o.home, "xdg"))
	show("xdg")
	o.environ = append(o.environ, "TOKENCTL_CONFIG="+variable)
	show("variable")
	show("flag", "--config", flag)
	o.environ = append(o.environ, "TOKENCTL_CONTEXT=other")
	o.run("context", "show").want(exitUsage, `there is no context "other"`)
	show("flag", "--config", flag, "--context", "flag")
	bare := newOperator(t)
	bare.environ = nil
	bare.run("context", "list").want(exitUsage, "neither HOME nor XDG_CONFIG_HOME is set")
}

// TestModes: files that others can change, and credentials that they can read.
func TestModes(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	for _, test := range []struct {
		file string
		mode os.FileMode
		want string
	}{
		{"config.yaml", 0o620, "has mode 0620 and can be written by others"},
		{"config.yaml", 0o602, "whoever writes it decides where your secrets go"},
		{"me-key.pem", 0o644, "has mode 0644: it says who you are"},
		{"me-key.pem", 0o660, "nobody else may read or write it"},
	} {
		path := filepath.Join(o.folder(), test.file)
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		o.run("whoami").want(exitUsage, test.want, "chmod 600 "+path)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.count(); n != 0 {
		t.Errorf("%d requests were sent, want none", n)
	}
	for _, mode := range []os.FileMode{0o400, 0o440, 0o600} {
		if err := os.Chmod(filepath.Join(o.folder(), "me-key.pem"), mode); err != nil {
			t.Fatal(err)
		}
		o.run("whoami").want(exitDone)
	}
}

// TestTokenFile: a JWT from a file goes with each call, the new one when it changes.
func TestTokenFile(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	o.run("context", "set", "job", "--address", f.address, "--ca-file", filepath.Join(o.folder(), "ca.pem"), "--token-file", o.write("jwt", "first.jwt\n"), "--use").want(exitDone)
	o.run("whoami").want(exitDone).without("first.jwt")
	o.write("jwt", "second.jwt\n")
	o.run("whoami").want(exitDone)
	if strings.Join(f.bearer, "|") != "Bearer first.jwt|Bearer second.jwt" {
		t.Errorf("the headers were %q", f.bearer)
	}
	o.write("jwt", "two words\n")
	o.run("whoami").want(exitUsage, "does not hold a token").without("two words")
}

// TestOtherWaysToTheBroker: a socket of this machine, and plaintext on loopback.
func TestOtherWaysToTheBroker(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	f.serve("tcp", "127.0.0.1:0")
	o.run("context", "set", "plain", "--address", f.address, "--insecure-plaintext", "--use").want(exitDone)
	o.run("whoami").want(exitDone, "caller    oncall")
	dir, err := os.MkdirTemp("", "ctl") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f.serve("unix", filepath.Join(dir, "s"))
	o.run("context", "set", "socket", "--unix-socket", filepath.Join(dir, "s"), "--use").want(exitDone)
	o.run("whoami").want(exitDone, "caller    oncall")
}

// TestNoWayToTheBroker says what to look at.
func TestNoWayToTheBroker(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	o.run("context", "set", "test", "--server-name", "elsewhere.example").want(exitDone)
	o.run("whoami").want(exitUnavailable, "the broker did not answer", "elsewhere.example", "next  check address, ca_file and server_name")
	o.run("context", "set", "test", "--server-name=", "--ca-file", filepath.Join(o.folder(), "me.pem")).want(exitDone)
	o.run("whoami").want(exitUnavailable, "unknown authority")
	o.run("context", "set", "test", "--ca-file", o.write("none.pem", "")).want(exitDone)
	o.run("whoami").want(exitUsage, "no certificate in")
	f.refuse(refusal(codes.Unavailable, "STORE_SEALED", "FIX_STORE", "Sealed."))
	o.run("context", "set", "test", "--ca-file", filepath.Join(o.folder(), "ca.pem")).want(exitDone)
	o.run("whoami").want(exitUnavailable, "STORE_SEALED").without("check address")
}
