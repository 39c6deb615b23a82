package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// recipes returns the blocks of a kind in the section for jobs of docs/rotation.md.
func recipes(t *testing.T, kind string) []string {
	t.Helper()
	_, section, found := strings.Cut(string(readFile(t, "docs/rotation.md")), "\n## For jobs\n")
	if !found {
		t.Fatal("docs/rotation.md has no section for jobs")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var blocks []string
	for _, match := range regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// recipeShell is a folder in which somebody pastes recipes.
type recipeShell struct {
	t    *testing.T
	dir  string
	env  []string
	desk *desk
	// printed is all output. The file args in dir has the arguments of each command.
	printed logBuffer
}

// newRecipeShell has the commands of docs/operations.md and docs/rotation.md: bcall,
// tokenctl, and a vault that hands out the tokens in the files wrapped-1 and so on.
func newRecipeShell(t *testing.T, s *site, n *node) *recipeShell {
	t.Helper()
	d := newDesk(t, s, n)
	bin := filepath.Join(d.home, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	script := func(name, body string) {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nprintf '%s\\n' \"$*\" >> "+d.home+"/args\n"+body+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	script("bcall", "exec grpcurl -cacert ca.pem -cert operator.pem -key operator-key.pem \"$@\"")
	script("tokenctl", "exec "+tokenctl(t)+" \"$@\"")
	script("vault", `set -- wrapped-*; cat "$1"; rm "$1"`)
	path := strings.TrimPrefix(grpcurl(t), "PATH=")
	return &recipeShell{t: t, dir: d.home, desk: d, env: append(environment(d.home), "PATH="+bin+string(os.PathListSeparator)+path, "B="+n.address)}
}

// paste runs a block line by line.
func (r *recipeShell) paste(block string) {
	r.t.Helper()
	for line := range strings.Lines(strings.ReplaceAll(block, "\\\n", " ")) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		command := exec.CommandContext(r.t.Context(), "sh", "-ec", line)
		command.Dir, command.Env = r.dir, r.env
		printed, err := command.CombinedOutput()
		fmt.Fprintln(&r.printed, string(printed))
		if err != nil {
			r.t.Errorf("%s: %v\n%s", line, err, printed)
		}
	}
}

// TestRecipesOfJobs pastes each block of docs/rotation.md for jobs into a shell, over a
// real Vault, and finds no secret on a command line or in what was printed.
func TestRecipesOfJobs(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("the recipes need jq")
	}
	others := store.NewKV()
	secrets := []string{"recipe-secret-1", "recipe-secret-2", "recipe-secret-3", "recipe-secret-4"}
	up := newUpstream(t, secrets...)
	key := newKey(t, "ES256")
	next := newKey(t, "EdDSA")
	if err := up.AddClient(authserver.Client{ID: "jwt-app", Keys: []jose.JSONWebKey{key.public, next.public}, Scopes: []string{"read"}}); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, store.config(store.Addr()), up.ca)
	s.config["secrets"] = map[string]any{"wrapping": map[string]any{"creation_paths": []string{others + "/data/oauth/*"}}}
	n := s.start(t, program(t))
	create := func(client *pb.Client, in *pb.SecretInput) {
		if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: in}); err != nil {
			t.Fatal(err)
		}
	}
	create(newClient("acme-crm", up.TokenEndpoint()), secretInput(secrets[0]))
	jwt := newClient("acme-jwt", up.TokenEndpoint())
	jwt.ClientId, jwt.AuthenticationMethod = "jwt-app", keyJWT
	create(jwt, keyInput(key.pem))
	r := newRecipeShell(t, s, n)
	r.desk.write("new-secret", []byte(secrets[1]+"\n"))
	r.desk.write("next-secret", []byte(secrets[2]+"\n"))
	r.desk.write("key.pem", []byte(next.pem))

	blocks := recipes(t, "sh")
	if len(blocks) != 3 {
		t.Fatalf("docs/rotation.md has %d blocks for jobs, this test knows three", len(blocks))
	}
	const name = "clients/acme-crm"
	r.paste(blocks[0])
	// The rotation that the recipe began goes on by itself.
	eventually(t, startsWithin, "the rotation that was begun", func() error {
		got, err := n.operator.rotations.GetRotation(t.Context(), &pb.GetRotationRequest{Client: name})
		if err == nil && got.GetRotation().GetState() != pb.RotationState_ROTATION_STATE_PROMOTED {
			err = fmt.Errorf("it is %v", got.GetRotation())
		}
		return err
	})
	if _, err := n.operator.rotations.RetireSecret(t.Context(), &pb.RetireSecretRequest{Client: name, SecretVersion: 1}); err != nil {
		t.Fatal(err)
	}
	store.must("POST", others+"/data/oauth/acme", map[string]any{"data": map[string]any{"client_secret": secrets[3]}})
	var tokens []string
	for i := range strings.Count(blocks[1], "vault kv get") {
		tokens = append(tokens, store.wrapped(others+"/data/oauth/acme"))
		r.desk.write("wrapped-"+strconv.Itoa(i+1), []byte(tokens[i]+"\n"))
	}
	r.paste(blocks[1])
	r.paste(blocks[2])
	if _, err := n.token(t.Context(), name); err != nil {
		t.Error(err)
	}
	args, err := os.ReadFile(filepath.Join(r.dir, "args"))
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range slices.Concat(secrets, tokens, []string{next.pem}) {
		for where, text := range map[string]string{"a command line": string(args), "what was printed": r.printed.String(), "the log": n.Output()} {
			if strings.Contains(text, value) {
				t.Errorf("%s has %s…", where, value[:8])
			}
		}
	}
	n.stop(t)
}

// manifest is what of deploy/kubernetes/rotation-cronjob.yaml is tried here.
type manifest struct {
	Kind string            `yaml:"kind"`
	Data map[string]string `yaml:"data"`
	Spec struct {
		JobTemplate struct {
			Spec struct {
				Template struct {
					Spec podSpec `yaml:"spec"`
				} `yaml:"template"`
			} `yaml:"spec"`
		} `yaml:"jobTemplate"`
	} `yaml:"spec"`
}

type podSpec struct {
	Automount *bool `yaml:"automountServiceAccountToken"`
	Security  struct {
		RunAsNonRoot bool `yaml:"runAsNonRoot"`
	} `yaml:"securityContext"`
	Init       []podContainer `yaml:"initContainers"`
	Containers []podContainer `yaml:"containers"`
}

type podContainer struct {
	Name, Image string
	Args        []string
	Env         []map[string]any
	Security    struct {
		Escalation   *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnly     bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities struct{ Drop []string }
	} `yaml:"securityContext"`
}

// TestRotationCronJob runs the containers of the CronJob, in their order, with the
// arguments and the configuration that stand there, under the access table that
// docs/rotation.md gives to such a job.
func TestRotationCronJob(t *testing.T) {
	t.Parallel()
	needServers(t)
	config, pod := readCronJob(t)
	if pod.Automount == nil || *pod.Automount || !pod.Security.RunAsNonRoot || len(pod.Init) != 1 || len(pod.Containers) != 1 {
		t.Fatalf("the pod has %+v", pod)
	}
	up := newUpstream(t, firstSecret, secondSecret)
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	delete(s.config, "callers")
	s.config["access"] = map[string]any{"file": s.write(t, "access.yaml", []byte(recipes(t, "yaml")[0]))}
	n := s.launch(t, program(t))
	eventually(t, startsWithin, "the client", func() error {
		_, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("acme-crm", up.TokenEndpoint()), Secret: secretInput(firstSecret), RequestId: "1"})
		return err
	})

	// The volumes of the pod, below a folder.
	d := &desk{t: t, home: t.TempDir()}
	for _, folder := range []string{"etc/tokenctl/config", "etc/tokenctl/identity", "run/acme-crm-next"} {
		if err := os.MkdirAll(filepath.Join(d.home, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	certificate, private, err := s.ca.Caller("spiffe://example.org/ns/crm/sa/rotation-job")
	if err != nil {
		t.Fatal(err)
	}
	d.write("etc/tokenctl/identity/ca.crt", s.ca.PEM())
	d.write("etc/tokenctl/identity/tls.crt", certificate)
	d.write("etc/tokenctl/identity/tls.key", private)
	d.write("run/acme-crm-next/secret", []byte(secondSecret+"\n"))
	local := strings.NewReplacer("/etc/tokenctl/", d.home+"/etc/tokenctl/", "/run/acme-crm-next/", d.home+"/run/acme-crm-next/",
		"tokenbroker.tokenbroker.svc:7443", n.address, "$(JOB_NAME)", "acme-crm-rotation-29391")
	d.write("etc/tokenctl/config/config.yaml", []byte(local.Replace(config)))
	run := func(c podContainer) said {
		t.Helper()
		if c.Security.Escalation == nil || *c.Security.Escalation || !c.Security.ReadOnly || !slices.Equal(c.Security.Capabilities.Drop, []string{"ALL"}) || strings.HasSuffix(c.Image, ":latest") {
			t.Errorf("%s: image %s, %+v", c.Name, c.Image, c.Security)
		}
		return d.run("", strings.Fields(local.Replace(strings.Join(c.Args, " ")))...)
	}
	stage, verify := pod.Init[0], pod.Containers[0]
	for range 2 { // a pod that is started again
		run(stage).want(t, 0, `"number": "2"`, `"stage": "SECRET_STAGE_PENDING"`)
		run(verify).want(t, 0, `"state": "ROTATION_STATE_VERIFIED"`)
	}
	configFlag := "--config=" + filepath.Join(d.home, "etc/tokenctl/config/config.yaml")
	for _, line := range []string{"secret promote acme-crm", "rotate acme-crm", "token get acme-crm", "rotations abort acme-crm", "secret verify other"} {
		d.run("", append(strings.Fields(line), configFlag)...).want(t, 3, "CALLER_NOT_ALLOWED")
	}
	if strings.Contains(d.printed.String(), secondSecret) {
		t.Error("the job printed the secret")
	}
	if err := up.RemoveSecret(appID, secret.NewString(secondSecret)); err != nil {
		t.Fatal(err)
	}
	run(verify).want(t, 5, "CLIENT_REJECTED")
	n.stop(t)
}

// readCronJob returns the configuration of tokenctl and the pod.
func readCronJob(t *testing.T) (config string, pod podSpec) {
	t.Helper()
	for decoder := yaml.NewDecoder(strings.NewReader(string(readFile(t, "deploy/kubernetes/rotation-cronjob.yaml")))); ; {
		var m manifest
		if err := decoder.Decode(&m); err != nil {
			break
		}
		switch m.Kind {
		case "ConfigMap":
			config = m.Data["config.yaml"]
		case "CronJob":
			pod = m.Spec.JobTemplate.Spec.Template.Spec
		}
	}
	if config == "" {
		t.Fatal("there is no configuration of tokenctl")
	}
	return config, pod
}
