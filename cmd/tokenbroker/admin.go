package main

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/tokenbroker/tokenbroker/server/telemetry"
	"github.com/tokenbroker/tokenbroker/vault"
)

// adminConfig says where metrics, health pages, profiles and channelz are served,
// without TLS and without access control.
type adminConfig struct {
	// Address is host:port, "off", or "" for the default.
	Address string `yaml:"address"`
}

const (
	defaultAdminAddress = "127.0.0.1:7444"
	adminOff            = "off"
)

// address returns where to listen, "" for nowhere.
func (c adminConfig) address() string {
	switch c.Address {
	case "":
		return defaultAdminAddress
	case adminOff:
		return ""
	}
	return c.Address
}

func (c adminConfig) validate(add func(key, format string, args ...any)) {
	if address := c.address(); address != "" {
		if _, _, err := net.SplitHostPort(address); err != nil {
			add("admin.address", "is %q; it must be host:port or off", c.Address)
		}
	}
}

// listen returns nil where nothing is to be served. The default address may be taken,
// as by a second broker on the same machine: that is logged, and no reason not to
// serve the API. One that was configured must be free.
func (s *service) listenAdmin() (net.Listener, error) {
	address := s.admin.address()
	if address == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", address)
	if err == nil {
		s.log.Info("serving metrics", "address", listener.Addr().String())
		return listener, nil
	}
	if s.admin.Address == "" {
		s.log.Error("no metrics are served: the default of admin.address is not free", "address", address, "cause", err)
		return nil, nil
	}
	return nil, fmt.Errorf("admin.address: %w", err)
}

// serveAdmin serves until ctx ends. A failure is logged at once and ends nothing
// else: tokens matter more than their metrics.
func (s *service) serveAdmin(ctx context.Context, listener net.Listener) {
	admin := &telemetry.Admin{Metrics: s.metrics, Ready: s.server.Ready}
	if err := admin.Serve(ctx, listener); err != nil {
		s.log.Error("the admin listener failed; metrics are no longer served", "cause", err)
	}
}

// warnings returns what is allowed and probably not meant.
func (cfg *config) warnings() []string {
	var list []string
	if len(cfg.Callers) == 0 && cfg.Access.File == "" {
		list = append(list, "callers is empty, so nobody may call")
	}
	if slices.Contains(cfg.Secrets.Wrapping.CreationPaths, vault.RewrapPath) {
		list = append(list, "secrets.wrapping.creation_paths has "+vault.RewrapPath+": a wrapping token that was intercepted and wrapped again passes for sound")
	}
	if address := cfg.Admin.address(); address != "" && !telemetry.LoopbackAddress(address) {
		list = append(list, fmt.Sprintf("admin.address %s is not on loopback: whoever reaches it reads metrics and profiles", address))
	}
	return list
}
