package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const canary = "canary-7f3a9c"

type holder struct {
	Exported secret.Value
	hidden   secret.Value
	pointer  *secret.Value
	list     []secret.Value
	byName   map[string]secret.Value
}

func newHolder() holder {
	v := secret.NewString(canary)
	return holder{Exported: v, hidden: v, pointer: &v, list: []secret.Value{v}, byName: map[string]secret.Value{"a": v}}
}

func TestNothingPrintsAValue(t *testing.T) {
	h := newHolder()
	bare := secret.NewString(canary)
	subjects := map[string]any{
		"value": bare, "pointer": &bare, "struct": h, "struct pointer": &h,
		"slice": []any{bare}, "map": map[string]any{"k": bare}, "error": fmt.Errorf("with %v", bare),
	}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%T"}
	var spellings []string
	for _, f := range []string{"%s", "%x", "%X", "%v"} {
		spellings = append(spellings, fmt.Sprintf(f, canary), fmt.Sprintf(f, []byte(canary)))
	}
	check := func(t *testing.T, how, got string) {
		t.Helper()
		for _, s := range spellings {
			if strings.Contains(got, s) {
				t.Errorf("%s printed the secret: %s", how, got)
			}
		}
	}
	for name, subject := range subjects {
		t.Run(name, func(t *testing.T) {
			for _, verb := range verbs {
				check(t, verb, fmt.Sprintf(verb, subject))
			}
			encoded, err := json.Marshal(subject)
			if err != nil {
				t.Fatalf("json: %v", err)
			}
			check(t, "json", string(encoded))
			var text, lines bytes.Buffer
			slog.New(slog.NewTextHandler(&text, nil)).Info("m", "subject", subject)
			slog.New(slog.NewJSONHandler(&lines, nil)).Info("m", "subject", subject)
			check(t, "slog text", text.String())
			check(t, "slog json", lines.String())
		})
	}
}

func TestValueKeepsItsOwnCopy(t *testing.T) {
	b := []byte("abc")
	v := secret.New(b)
	b[0] = 'X'
	if got, want := v.RevealString(), "abc"; got != want {
		t.Errorf("Reveal = %q, want %q", got, want)
	}
}

func TestEmptyAndEqual(t *testing.T) {
	if got := (secret.Value{}).IsZero(); !got {
		t.Error("the zero Value is not IsZero")
	}
	if got := secret.New(nil).IsZero(); !got {
		t.Error("New(nil) is not IsZero")
	}
	a, b := secret.NewString("one"), secret.NewString("two")
	if a.Equal(b) || !a.Equal(secret.NewString("one")) {
		t.Error("Equal does not compare the bytes")
	}
	a.Wipe()
	if got, want := a.RevealString(), "\x00\x00\x00"; got != want {
		t.Errorf("after Wipe = %q, want zeros", got)
	}
}
