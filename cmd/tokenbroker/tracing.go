package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// tracingConfig says where traces are sent, and how many.
type tracingConfig struct {
	// OTLPEndpoint is the collector, as in https://collector:4317; nothing is traced if
	// it is empty.
	OTLPEndpoint string `yaml:"otlp_endpoint"`
	// CAFile holds authorities of the collector's certificate besides the system's, PEM.
	CAFile string `yaml:"ca_file"`
	// SampleRatio of the calls without a trace context are traced; 0.01 by default.
	SampleRatio float64 `yaml:"sample_ratio"`
	// MaxTracesPerSecond bounds all traces; 10 by default.
	MaxTracesPerSecond float64 `yaml:"max_traces_per_second"`
	// InsecureLoopback permits http:// to a collector on loopback.
	InsecureLoopback bool `yaml:"insecure_loopback"`
}

// defaultTracing is what holds unless the file says otherwise.
var defaultTracing = tracingConfig{SampleRatio: 0.01, MaxTracesPerSecond: 10}

func (c tracingConfig) telemetry() telemetry.TracingConfig {
	return telemetry.TracingConfig{
		Endpoint: c.OTLPEndpoint, InsecureLoopback: c.InsecureLoopback,
		SampleRatio: c.SampleRatio, MaxTracesPerSecond: c.MaxTracesPerSecond, Version: version,
	}
}

func (c tracingConfig) validate(add func(key, format string, args ...any)) {
	mustRead(add, "tracing.ca_file", c.CAFile)
	if c.OTLPEndpoint == "" {
		if c != defaultTracing {
			add("tracing.otlp_endpoint", "is required with the other settings of tracing")
		}
		return
	}
	settings := c.telemetry()
	for _, problem := range joined(settings.Validate()) {
		key, text, _ := strings.Cut(problem.Error(), ": ")
		add("tracing."+key, "%s", text)
	}
}

// newTracing returns nil, which traces nothing, if no collector is configured.
func newTracing(c tracingConfig, log *slog.Logger) (*telemetry.Tracing, error) {
	if c.OTLPEndpoint == "" {
		return nil, nil
	}
	settings := c.telemetry()
	settings.Logger = log
	var err error
	if settings.RootCAs, err = addedRoots("tracing.ca_file", c.CAFile); err != nil {
		return nil, err
	}
	tracing, err := telemetry.NewTracing(settings)
	if err != nil {
		return nil, fmt.Errorf("set up tracing: %w", err)
	}
	return tracing, nil
}
