package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
)

// manifest is as much of deploy/kubernetes/tokenbroker.yaml as must fit together.
type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string
	Spec     struct {
		ServiceName string `yaml:"serviceName"`
		Template    struct {
			Spec struct {
				TerminationGracePeriodSeconds int64 `yaml:"terminationGracePeriodSeconds"`
				Containers                    []struct {
					Args           []string
					LivenessProbe  probe `yaml:"livenessProbe"`
					StartupProbe   probe `yaml:"startupProbe"`
					ReadinessProbe probe `yaml:"readinessProbe"`
					VolumeMounts   []struct {
						Name      string
						MountPath string `yaml:"mountPath"`
						ReadOnly  bool   `yaml:"readOnly"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct{ Name string }
			}
		}
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
	}
}

type probe struct{ Exec struct{ Command []string } }

func manifests(t *testing.T) map[string]manifest {
	t.Helper()
	text, err := os.ReadFile("../../deploy/kubernetes/tokenbroker.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]manifest{}
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var m manifest
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[m.Kind+" "+m.Metadata.Name] = m
	}
}

// TestKubernetes: the configuration of the pods is sound where their volumes are mounted,
// they write where they may, and are given the time that they take to stop.
func TestKubernetes(t *testing.T) {
	found := manifests(t)
	set, data := found["StatefulSet tokenbroker"].Spec, found["ConfigMap tokenbroker"].Data
	pod := set.Template.Spec
	if len(pod.Containers) != 1 || data["tokenbroker.yaml"] == "" || found["Service "+set.ServiceName].Kind == "" {
		t.Fatalf("the manifests are %+v", found)
	}
	container := pod.Containers[0]

	var volumes []string
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, v := range set.VolumeClaimTemplates {
		volumes = append(volumes, v.Metadata.Name)
	}
	ca, err := devpki.New("test")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := ca.Server("tokenbroker.tokenbroker.svc")
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string]string{
		"tls.crt": string(certificate), "tls.key": string(key), "ca.crt": string(ca.PEM()), "token": "eyJhbGciOiJub25lIn0.e30.", "access.yaml": data["access.yaml"],
	}
	dir, config := t.TempDir(), data["tokenbroker.yaml"]
	for _, m := range container.VolumeMounts {
		if !slices.Contains(volumes, m.Name) {
			t.Errorf("%s is mounted and not there", m.Name)
		}
		if m.ReadOnly != (m.Name != "audit") {
			t.Errorf("%s: read-only is %t", m.Name, m.ReadOnly)
		}
		for _, path := range regexp.MustCompile(regexp.QuoteMeta(m.MountPath)+`/[a-z.]+`).FindAllString(config, -1) {
			name := filepath.Base(path)
			if content, known := contents[name]; known {
				must(t, os.MkdirAll(dir+m.MountPath, 0o700))
				must(t, os.WriteFile(dir+path, []byte(content), 0o600))
			} else if m.Name != "audit" {
				t.Errorf("%s is to be written to %s, which is read-only", name, m.Name)
			}
		}
		must(t, os.MkdirAll(dir+m.MountPath, 0o700))
		config = strings.ReplaceAll(config, m.MountPath+"/", dir+m.MountPath+"/")
	}
	if left := regexp.MustCompile(`[ :]/(etc|var)/\S+`).FindString(config); left != "" {
		t.Errorf("nothing is mounted at %s", left)
	}
	command(t, "check-config", "--config", write(t, "tokenbroker.yaml", config)).want(t, 0)

	path := "/etc/tokenbroker/config/tokenbroker.yaml"
	health := []string{"/tokenbroker", "health", "--config", path}
	for name, got := range map[string][]string{
		"arguments": container.Args, "liveness": container.LivenessProbe.Exec.Command, "startup": container.StartupProbe.Exec.Command, "readiness": container.ReadinessProbe.Exec.Command,
	} {
		want := map[string][]string{"arguments": {"serve", "--config", path}, "readiness": append(slices.Clone(health), "--service", "tokenbroker.v1.TokenService")}[name]
		if want == nil {
			want = health
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	var settings struct {
		Limits struct {
			ShutdownDelay time.Duration `yaml:"shutdown_delay"`
		}
	}
	must(t, yaml.Unmarshal([]byte(config), &settings))
	if grace, most := time.Duration(pod.TerminationGracePeriodSeconds)*time.Second, settings.Limits.ShutdownDelay+25*time.Second; settings.Limits.ShutdownDelay == 0 || grace <= most {
		t.Errorf("the pod is killed after %v, and may take %v to stop", grace, most)
	}
}

// TestKubernetesAccess: what the example grants.
func TestKubernetesAccess(t *testing.T) {
	table := write(t, "access.yaml", manifests(t)["ConfigMap tokenbroker"].Data["access.yaml"])
	expectations := write(t, "expectations.yaml", `expectations:
  - {caller: crm, permission: token.get, client: acme-crm, allow: true}
  - {caller: crm, permission: secret.stage, client: acme-crm, allow: false}
  - {caller: crm, permission: token.get, client: other, allow: false}
  - {caller: rotation-job, permission: secret.verify, client: acme-crm, allow: true}
  - {caller: rotation-job, permission: secret.promote, client: acme-crm, allow: false}
  - {caller: rotation-job, permission: token.get, client: acme-crm, allow: false}
  - {caller: operator, permission: secret.promote, client: acme-crm, allow: true}
`)
	got := command(t, "access", "test", "--file", table, expectations)
	got.want(t, 0)
	if !strings.HasSuffix(got.stdout, "7 expectations met\n") {
		t.Errorf("it printed %q", got.stdout)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
