// Package notify tells operators of events by webhooks: an HTTPS request for each event
// to each address that wants it, signed, so that its receiver knows whom it is from.
//
// It guards these invariants. Whoever has an event is not held up: events wait in
// bounded queues. Nothing of a secret is sent or logged, neither are URLs, which may
// hold one. And requests go where the configuration says and nowhere else: redirects
// are not followed, and addresses are judged as those of authorization servers are.
//
// Events are kept in memory only: what was not delivered when the process ends is lost,
// but for its line in the log. A receiver may get an event twice and knows it by its id.
package notify

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/outbound"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Config says who is told of what.
type Config struct {
	Webhooks []Webhook `yaml:"webhooks"`
	// Transport carries the requests; nil makes one for each webhook that connects only
	// to what the webhook allows.
	Transport http.RoundTripper `yaml:"-"`
	// Logger gets what is not delivered; nil discards.
	Logger *slog.Logger `yaml:"-"`
}

// Webhook is one receiver.
type Webhook struct {
	// Name stands in logs and metrics.
	Name string `yaml:"name"`
	// URL is https; it is never logged.
	URL string `yaml:"url"`
	// SecretFile holds the key that requests are signed with, 32 to 4,096 bytes that
	// only the file's owner may read; it is read for each request. One line end after
	// it does not count.
	SecretFile string `yaml:"secret_file"`
	// Events are the types that are wanted; empty means all that are on by default.
	Events []string `yaml:"events"`
	// CAFile holds authorities besides the system's, PEM.
	CAFile string `yaml:"ca_file"`
	// InsecureHTTPLoopback permits loopback addresses, also over plain http.
	InsecureHTTPLoopback bool `yaml:"insecure_http_loopback"`
	// AllowedAddresses are private ranges that may be connected to, such as 10.0.0.0/8.
	AllowedAddresses []string `yaml:"allowed_addresses"`
}

const (
	minSecret = 32
	maxSecret = 4096
	// maxWebhooks bounds the queues, and the values of a label.
	maxWebhooks = 20
	// attemptTimeout bounds one request from name resolution to the end of the answer.
	attemptTimeout = 10 * time.Second
)

var webhookName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// Validate returns everything that is wrong, joined; each text begins with its key, such
// as "webhooks[0].url". It reads the files.
func (c *Config) Validate() error {
	var errs []error
	if len(c.Webhooks) > maxWebhooks {
		errs = append(errs, fmt.Errorf("webhooks: has %d webhooks; at most %d", len(c.Webhooks), maxWebhooks))
	}
	for i, w := range c.Webhooks {
		add := func(key, format string, args ...any) {
			errs = append(errs, fmt.Errorf("webhooks[%d].%s: %s", i, key, fmt.Sprintf(format, args...)))
		}
		if !webhookName.MatchString(w.Name) {
			add("name", "is %.60q; it must be 1 to 40 of a-z, 0-9 and -", w.Name)
		} else if slices.IndexFunc(c.Webhooks, func(other Webhook) bool { return other.Name == w.Name }) < i {
			add("name", "is %q, as another one's", w.Name)
		}
		w.validate(add)
	}
	return errors.Join(errs...)
}

func (w Webhook) validate(add func(key, format string, args ...any)) {
	for i, text := range w.AllowedAddresses {
		if _, err := netip.ParsePrefix(text); err != nil {
			add(fmt.Sprintf("allowed_addresses[%d]", i), "is %q; it must be a range such as 10.0.0.0/8", text)
		}
	}
	roots, err := w.roots()
	if err != nil {
		add("ca_file", "%v", err)
	}
	door := w.door(roots)
	defer door.Close()
	if w.URL == "" {
		add("url", "is required")
	} else if _, err := door.Parse("URL", w.URL); err != nil {
		add("url", "%v", err)
	}
	if w.SecretFile == "" {
		add("secret_file", "is required")
	} else if key, err := readSecret(w.SecretFile); err != nil {
		add("secret_file", "%v", err)
	} else {
		key.Wipe()
	}
	for i, name := range w.Events {
		if !slices.Contains(broker.EventTypes(), broker.EventType(name)) {
			add(fmt.Sprintf("events[%d]", i), "is %.60q; known are %v", name, broker.EventTypes())
		}
	}
}

// wants reports whether the webhook is told of events of a type.
func (w Webhook) wants(t broker.EventType) bool {
	if len(w.Events) == 0 {
		return t.ByDefault()
	}
	return slices.Contains(w.Events, string(t))
}

// door returns what the webhook's requests leave by.
func (w Webhook) door(roots *x509.CertPool) *outbound.Door {
	cfg := outbound.Config{RootCAs: roots, AllowHTTPLoopback: w.InsecureHTTPLoopback, Timeout: attemptTimeout}
	for _, text := range w.AllowedAddresses {
		if prefix, err := netip.ParsePrefix(text); err == nil { // Validate says which is none
			cfg.AllowedAddresses = append(cfg.AllowedAddresses, prefix)
		}
	}
	return outbound.New(cfg)
}

// roots returns the system's authorities and those of CAFile; nil, which means the
// system's, without one.
func (w Webhook) roots() (*x509.CertPool, error) {
	if w.CAFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(w.CAFile)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New("holds no PEM certificate")
	}
	return roots, nil
}

// readSecret reads the key that requests are signed with. Its errors quote nothing of it.
func readSecret(path string) (secret.Value, error) {
	file, err := os.Open(path)
	if err != nil {
		return secret.Value{}, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return secret.Value{}, err
	}
	if !info.Mode().IsRegular() {
		return secret.Value{}, errors.New("is not a regular file")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return secret.Value{}, fmt.Errorf("has mode %04o, so that others than its owner may use it; chmod it to %04o", mode, mode&^0o077)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxSecret+3))
	if err != nil {
		return secret.Value{}, err
	}
	defer clear(content)
	key := bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
	if len(key) < minSecret || len(key) > maxSecret {
		return secret.Value{}, fmt.Errorf("holds %d bytes; it must hold %d to %d, such as what `openssl rand -hex 32` makes", len(key), minSecret, maxSecret)
	}
	if strings.TrimSpace(string(key)) == "" {
		return secret.Value{}, errors.New("holds nothing but white space")
	}
	return secret.New(key), nil
}
