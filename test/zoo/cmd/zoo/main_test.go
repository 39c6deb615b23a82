package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/test/zoo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCommandLines(t *testing.T) {
	tests := []struct {
		name  string
		args  []string
		want  string
		wrong bool
	}{
		{name: "help", args: []string{"--help"}, want: "-listen"},
		{name: "list", args: []string{"--list"}, want: "expires-on"},
		{name: "profile", args: []string{"--profile", "expires-on", "--origin", "https://127.0.0.1:1"}, want: "token: https://127.0.0.1:1/zoo/expires-on/token"},
		{name: "unknown quirk", args: []string{"--profile", "unicorn"}, wrong: true},
		{name: "unknown flag", args: []string{"--unicorn"}, wrong: true},
		{name: "argument", args: []string{"--list", "unicorn"}, wrong: true},
		{name: "nothing", wrong: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			err := run(t.Context(), test.args, &out)
			var wrong usageError
			if errors.As(err, &wrong) != test.wrong || !test.wrong && err != nil {
				t.Errorf("run = %v, want a usage error: %v", err, test.wrong)
			}
			if !strings.Contains(out.String(), test.want) {
				t.Errorf("it prints %q, want %q in it", out.String(), test.want)
			}
		})
	}
}

func TestServeUntilStopped(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"--listen", "127.0.0.1:0", "--ca-file", ca}, writer) }()
	line := make([]byte, 200)
	n, err := reader.Read(line)
	if got := string(line[:n]); err != nil || !strings.Contains(got, "https://127.0.0.1:") || !strings.Contains(got, zoo.ClientSecret) {
		t.Errorf("it prints %q, %v", got, err)
	}
	if content, err := os.ReadFile(ca); err != nil || !strings.Contains(string(content), "CERTIFICATE") {
		t.Errorf("the authority is not in its file: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("run = %v", err)
	}
}
