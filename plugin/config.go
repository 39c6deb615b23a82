package plugin

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Config says where a rotator is and how its provider changes secrets. The latter
// stands here and not only in the rotator's own description, because a rotation that
// is under way must not change its order of steps with a new release of the rotator,
// and because a client's settings are checked while the rotator may be away.
type Config struct {
	// Name is what clients' rotation settings call it: as a client's id, at most 64
	// characters.
	Name string `yaml:"name"`
	// Address is host:port, or "unix:" and the absolute path of a socket.
	Address string `yaml:"address"`
	// CAFile holds the authorities of the rotator's certificate, CertificateFile and
	// KeyFile show the broker to it; PEM. They are read again for each connection, of
	// which none outlives a minute without a call.
	CAFile          string `yaml:"ca_file"`
	CertificateFile string `yaml:"certificate_file"`
	KeyFile         string `yaml:"key_file"`
	// ServerName is the name in the rotator's certificate; "" takes Address's host.
	ServerName string `yaml:"server_name"`
	// InsecureLoopback connects without TLS, to this machine only.
	InsecureLoopback bool `yaml:"insecure_loopback"`
	// Timeout bounds each call, 1 s to 5 min; 30 s by default.
	Timeout time.Duration `yaml:"timeout"`
	// Shape is overlapping, activated or replaced.
	Shape broker.Shape `yaml:"shape"`
	// TakesChosen says that the broker makes the secret.
	TakesChosen bool `yaml:"takes_chosen"`
	// WorksBeforeActivation says of ShapeActivated that the new secret can be verified
	// before.
	WorksBeforeActivation bool `yaml:"works_before_activation"`
	// Propagation is how long the provider takes to make a new secret known, up to 24 h.
	Propagation time.Duration `yaml:"propagation"`
	// Parameters must stand in clients' rotation settings, OptionalParameters may.
	Parameters         []string `yaml:"parameters"`
	OptionalParameters []string `yaml:"optional_parameters"`
	// SendCurrent gives the rotator the present secret with CreateSecret, for providers
	// that change a secret for whoever knows the present one.
	SendCurrent bool `yaml:"send_current"`
}

const (
	defaultTimeout  = 30 * time.Second
	leastTimeout    = time.Second
	mostTimeout     = 5 * time.Minute
	mostPropagation = 24 * time.Hour
	mostName        = 64
	mostParameters  = 20
)

// Shapes lists the shapes that a rotator of others may have.
func Shapes() []broker.Shape {
	return []broker.Shape{broker.ShapeOverlapping, broker.ShapeActivated, broker.ShapeReplaced}
}

var parameterName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// Check tells add everything that is wrong with the settings, by key. It reads no file.
func (c Config) Check(add func(key, format string, args ...any)) {
	if err := broker.CheckID("name", c.Name); err != nil || len(c.Name) > mostName {
		add("name", "is %.140q; it must be like a client's id, such as hr-portal, with at most %d characters", c.Name, mostName)
	}
	c.checkConnection(add)
	if c.Timeout != 0 && (c.Timeout < leastTimeout || c.Timeout > mostTimeout) {
		add("timeout", "is %v; it must lie between %v and %v", c.Timeout, leastTimeout, mostTimeout)
	}
	if !slices.Contains(Shapes(), c.Shape) {
		add("shape", "is %q; it must be one of %v", string(c.Shape), Shapes())
	}
	if c.WorksBeforeActivation && c.Shape != broker.ShapeActivated {
		add("works_before_activation", "is for the shape %s", broker.ShapeActivated)
	}
	if c.Propagation < 0 || c.Propagation > mostPropagation {
		add("propagation", "is %v; it must lie between 0 and %v", c.Propagation, mostPropagation)
	}
	seen := map[string]bool{}
	for i, name := range append(slices.Clone(c.Parameters), c.OptionalParameters...) {
		key := fmt.Sprintf("parameters[%d]", i)
		if i >= len(c.Parameters) {
			key = fmt.Sprintf("optional_parameters[%d]", i-len(c.Parameters))
		}
		switch {
		case !parameterName.MatchString(name):
			add(key, "is %.80q; it must be a name such as application_id", name)
		case seen[name]:
			add(key, "%s is there twice", name)
		}
		seen[name] = true
	}
	if len(seen) > mostParameters {
		add("parameters", "there are %d; at most %d", len(seen), mostParameters)
	}
}

func (c Config) checkConnection(add func(key, format string, args ...any)) {
	secured := c.CAFile + c.CertificateFile + c.KeyFile + c.ServerName
	if path, ok := strings.CutPrefix(c.Address, "unix:"); ok {
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?#%") {
			add("address", "is %.200q; after unix: it needs the absolute path of a socket", c.Address)
		}
		if secured != "" || c.InsecureLoopback {
			add("address", "is a UNIX socket, which who may connect to its file may use: remove what is about TLS")
		}
		return
	}
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil || host == "" || port == "" {
		add("address", "is %.200q; it must be host:port, or unix: and a path", c.Address)
		return
	}
	if c.InsecureLoopback {
		if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() {
			add("insecure_loopback", "is for this machine only, and %s is not", c.Address)
		}
		if secured != "" {
			add("insecure_loopback", "cannot be combined with what is about TLS; remove one or the other")
		}
		return
	}
	for _, file := range []struct{ key, path string }{{"ca_file", c.CAFile}, {"certificate_file", c.CertificateFile}, {"key_file", c.KeyFile}} {
		if file.path == "" {
			add(file.key, "is required: broker and rotator show each other certificates")
		}
	}
}

// Files returns the files that the settings name, by key.
func (c Config) Files() map[string]string {
	return map[string]string{"ca_file": c.CAFile, "certificate_file": c.CertificateFile, "key_file": c.KeyFile}
}

// traits are what the settings tell of the provider.
func (c Config) traits() broker.RotatorTraits {
	return broker.RotatorTraits{
		Shape: c.Shape, TakesChosen: c.TakesChosen, WorksBeforeActivation: c.WorksBeforeActivation, Propagation: c.Propagation,
		Parameters: slices.Clone(c.Parameters), Optional: slices.Clone(c.OptionalParameters),
	}
}
