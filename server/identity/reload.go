package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// lookInterval is how often Run looks at the files.
const lookInterval = time.Second

// Reloader keeps what the files of a TLS listener say and makes it anew when they
// change; what is wrong with a file is logged once, and the last good content of it
// stays in force. It polls instead of waiting for events, because those get lost on
// network file systems and when a directory is replaced, as Kubernetes does. All
// methods are safe for concurrent use.
type Reloader struct {
	log     *slog.Logger
	observe func(failing, stale bool)
	trust   atomic.Pointer[trust]
	config  atomic.Pointer[tls.Config]

	mu      sync.Mutex // guards the rest; held while files are read
	pair    *pairSource
	bundles []*bundleSource
	// stale has the lists in force that were said to have expired.
	stale map[*list]bool
}

// NewReloader reads the files. Its error names everything that is wrong with the
// settings, or with the files.
func NewReloader(cfg TLS, log *slog.Logger) (*Reloader, error) {
	var problems []error
	cfg.Check(func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s "+format, append([]any{key}, args...)...))
	})
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	r := &Reloader{log: log, observe: cfg.Observe, pair: newPairSource(cfg.CertificateFile, cfg.KeyFile), stale: map[*list]bool{}}
	// Looks first: files that change while they are read are read again.
	r.pair.changed()
	_, err := r.pair.load()
	problems = append(problems, err)
	for _, b := range cfg.bundles() {
		source := newBundleSource(b)
		source.changed()
		if _, err := source.load(time.Now()); err != nil {
			problems = append(problems, fmt.Errorf("trust bundle %q: %w", b.Name, err))
		}
		r.bundles = append(r.bundles, source)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	r.trust.Store(r.assemble(&trust{settings: cfg.settings()}))
	r.config.Store(r.listenerConfig())
	r.tellStale()
	r.tell(nil)
	return r, nil
}

// Run looks at the files each second until ctx ends, and returns nil then.
func (r *Reloader) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			_ = r.reload(false) // was logged
		}
	}
}

// Reload reads the files at once, as on SIGHUP, and returns what is wrong with them.
func (r *Reloader) Reload() error { return r.reload(true) }

// Generation counts the changes of trust that have taken effect, from 1.
func (r *Reloader) Generation() uint64 { return r.trust.Load().generation }

func (r *Reloader) reload(always bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var problems []error
	another, err := r.look(&r.pair.watched, "server certificate", always, r.pair.load)
	problems = append(problems, err)
	trusted := false
	for _, source := range r.bundles {
		changed, err := r.look(&source.watched, "trust bundle "+source.config.Name, always, func() (bool, error) { return source.load(time.Now()) })
		trusted = trusted || changed
		problems = append(problems, err)
	}
	if trusted {
		r.trust.Store(r.assemble(r.trust.Load()))
	}
	if another || trusted {
		r.config.Store(r.listenerConfig())
	}
	r.tellStale()
	err = errors.Join(problems...)
	r.tell(err)
	return err
}

// tell tells the observer how the last look went.
func (r *Reloader) tell(err error) {
	if r.observe != nil {
		r.observe(err != nil && !errors.Is(err, errBeingWritten), len(r.stale) > 0)
	}
}

// look loads files that may have changed and logs what came of it. Files that could
// not be taken are tried at each look: time may mend what is wrong with them.
func (r *Reloader) look(files *watched, what string, always bool, load func() (bool, error)) (changed bool, err error) {
	if maybe := files.changed(); !maybe && !always && files.complaint == "" {
		return false, nil
	}
	changed, err = load()
	if errors.Is(err, errBeingWritten) {
		files.looks = nil // the next look sees the whole
		return changed, err
	}
	news := files.news(err)
	switch {
	case err != nil && news:
		r.log.Error("TLS files not taken; the last good ones stay in force", "files", what, "cause", err)
	case changed || err == nil && news:
		r.log.Info("TLS files in force", "files", what)
	}
	return changed, err
}

// assemble makes the next generation of trust of what the sources have. Connections
// verify their chains anew for each; a new certificate of the server makes none.
func (r *Reloader) assemble(before *trust) *trust {
	next := &trust{generation: before.generation + 1, settings: before.settings}
	for _, source := range r.bundles {
		next.bundles = append(next.bundles, source.bundle())
	}
	for l := range r.stale {
		if !next.has(l) {
			delete(r.stale, l)
		}
	}
	return next
}

// listenerConfig returns the settings of handshakes from now on.
func (r *Reloader) listenerConfig() *tls.Config {
	pool := x509.NewCertPool()
	for _, b := range r.trust.Load().bundles {
		for _, authority := range b.authorities {
			pool.AddCert(authority)
		}
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{*r.pair.pair},
		ClientCAs:    pool,
		// Not required, because health checks come without one; access refuses the
		// rest. A certificate that is presented must verify; whether it is revoked, and
		// which bundle it is of, is asked at each call.
		ClientAuth: tls.VerifyClientCertIfGiven,
		NextProtos: []string{"h2"},
		// A resumed session would skip a client CA that was removed since.
		SessionTicketsDisabled: true,
	}
}

// has reports whether a list is in force.
func (t *trust) has(l *list) bool {
	return slices.ContainsFunc(t.bundles, func(b *bundle) bool { return slices.Contains(b.lists, l) })
}

// tellStale logs each list in force that was to be replaced by now, once.
func (r *Reloader) tellStale() {
	now, t := time.Now(), r.trust.Load()
	for _, b := range t.bundles {
		for _, l := range b.lists {
			if now.Before(l.nextUpdate) || r.stale[l] {
				continue
			}
			r.stale[l] = true
			r.log.Error("revocation list expired", "bundle", b.name, "issuer", l.issuerName, "next_update", l.nextUpdate,
				"certificates_refused", !t.settings.acceptStaleLists)
		}
	}
}
